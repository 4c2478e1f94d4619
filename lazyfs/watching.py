"""How a running mount is watched: metrics where they are asked for, SIGUSR1, and a log that says what it left out.

`kill -USR1 PID` has the daemon write all that it has under way into its log: flights, locks, open files, requests. It
goes on as before.
"""

from __future__ import annotations

import logging
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from lazyfs import logs, metrics_server, states
from lazyfs.order import Mount
from lazyfs.session import Session
from lazyfs.store.held import held

if TYPE_CHECKING:
    from lazyfs import page

asked_for = logging.getLogger(f"{__name__}.asked_for")
asked_for.setLevel(logging.INFO)  # whatever the level of all else is

SAY_MORE_EVERY: Final = 5.0
"""Seconds between two looks at what the log has left out."""

LOCKS_WITHIN: Final = 2.0
"""Seconds for the kernel to say which locks are held."""

DUMPS_EVERY: Final = 1.0
"""Seconds between two of what is under way; who asks more often gets fewer."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What watches a mount."""

    session: Session
    listening: socket.socket | None  # where metrics are served

    def state(self) -> dict[str, Any]:
        """What `status` shows of it."""
        place = None if self.listening is None else metrics_server.place_of(self.listening)
        return {**states.numbers(self.session), "metrics": place}


async def watch(
    session: Session, mount: Mount, listening: socket.socket | None, *, task_status: trio.TaskStatus[Watched]
) -> None:
    """Watch a mount until cancelled; `listening` is where metrics are served, if at all."""
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        task_status.started(Watched(session, listening))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_say_more)
                if listening is not None:
                    nursery.start_soon(_serve_metrics, listening, session, mount.mountpoint)
                async for _ in signals:
                    await _dump(session)
                    await trio.sleep(DUMPS_EVERY)
        finally:
            logs.say_more(all_of_it=True)


async def _say_more() -> None:
    while True:
        await trio.sleep(SAY_MORE_EVERY)
        logs.say_more()


async def _serve_metrics(listening: socket.socket, session: Session, mountpoint: str) -> None:
    """Serve them, and the page; what that takes is loaded only here, behind, the page's when somebody asks for it."""

    def load() -> None:
        from lazyfs import metrics  # noqa: F401

    await trio.to_thread.run_sync(load)
    from lazyfs import metrics

    page, site = metrics.Metrics(session, mountpoint).page, _Site(session, mountpoint)
    await metrics_server.serve(listening, page, metrics.CONTENT_TYPE, site.answer)


class _Site:
    """The page, which is loaded at the first request."""

    def __init__(self, session: Session, mountpoint: str) -> None:
        self._session = session
        self._mountpoint = mountpoint
        self._page: page.Page | None = None

    async def answer(self, target: str) -> metrics_server.Reply:
        """Answer a request."""
        if self._page is None:
            self._page = await trio.to_thread.run_sync(self._load)
        return await self._page.answer(target)

    def _load(self) -> page.Page:
        from lazyfs import page

        return page.Page(self._session, self._mountpoint)


async def _dump(session: Session) -> None:
    """Write what is under way into the log."""
    locks = ["(the kernel has not said which in time)"]

    def look() -> None:
        locks[:] = held(session.store.layout)

    with trio.move_on_after(LOCKS_WITHIN):  # a thread of its own, since all others may wait for a disk
        await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
    asked_for.info("all that is under way, since SIGUSR1 came:", extra=logs.UNBOUNDED)
    for line in states.lines(session, locks):
        asked_for.info("%s", line, extra=logs.UNBOUNDED)
        await trio.lowlevel.checkpoint()  # nobody waits for it
