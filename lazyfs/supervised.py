"""The daemon's end of the link to its supervisor: who mounts for it, asks whether it is well, and replaces it."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final

import trio

from lazyfs import link, native
from lazyfs.errors import LazyfsError
from lazyfs.journal import Journal, Legacy, read

PATIENCE: Final = 15.0
"""Seconds for the supervisor to mount."""

ALONE: Final = "its supervisor has died: mount it again to have another"


def _canary() -> int:
    """Start a thread that only waits, and return its id: it ends with the process, sooner than any that is busy."""
    thread = threading.Thread(target=threading.Event().wait, name="canary", daemon=True)
    thread.start()
    assert thread.native_id is not None
    return thread.native_id


class Supervised:
    """A daemon that is supervised, unless there is no `end` of a link.

    `device` is FUSE's descriptor; it and the journal are there once the mount is, if it shall outlive this daemon.
    `metrics` is a socket that listens, and `legacy` what there is, from the daemon before.
    """

    def __init__(self, end: socket.socket | None) -> None:
        self.device: int | None = None
        self.metrics: socket.socket | None = None
        self.legacy = Legacy()
        self.journal: Journal | None = None
        self.refusal: str | None = None  # why the mount does not outlive this daemon
        self.stands_by = False  # as long as another daemon serves the mount
        self._link = end
        self._not_upgraded: set[trio.MemorySendChannel[str]] = set()  # of those who wait for an upgrade

    def begin(self, refusal: str | None) -> None:
        """Say before the mount is made whether it shall outlive this daemon; if not, the supervisor ends."""
        self.refusal = refusal if self._link is not None or refusal is not None else "it was started without"
        if refusal is not None and self.device is None and self._link is not None:
            self._link.close()

    @classmethod
    def taking_over(cls, fds: Mapping[str, int], *, stands_by: bool) -> Supervised:
        """Go on where another daemon has died, or is to be replaced. *Raises*: OSError."""
        it = cls(socket.socket(fileno=fds["link"]))
        it.stands_by = stands_by
        it._have(fds["device"], fds["journal"])
        if "metrics" in fds:
            it.metrics = socket.socket(fileno=fds["metrics"])
        if not stands_by and it.journal is not None:
            it.journal.note("restart")
        return it

    def _have(self, device: int, journal: int) -> None:
        self.device = device
        self.legacy = read(journal)
        self.journal = Journal(journal, self.legacy, self._renew)

    def _renew(self, journal: int) -> None:
        assert self._link is not None
        link.send(self._link, {"op": "journal"}, journal)

    async def mount(self, mountpoint: str, source: str, options: Iterable[str], log: str | None) -> None:
        """Have it mounted. *Raises*: RuntimeError with the kernel's words; OSError, when there is nobody any more."""
        assert self._link is not None
        words = {"op": "mount", "mountpoint": mountpoint, "source": source, "options": sorted(options), "log": log}
        link.send(self._link, words)
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(self._link)
        answer, fds = link.receive(self._link)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        if len(fds) != 2:
            raise ConnectionError("the supervisor has gone")
        self._have(*fds)

    async def turn(self) -> None:
        """Say that all is prepared, wait for our turn, and see what has happened until then. *Raises*: OSError."""
        assert self._link is not None
        assert self.device is not None
        link.send(self._link, {"op": "prepared"})
        await trio.lowlevel.wait_readable(self._link)
        _, fds = link.receive(self._link)
        if len(fds) != 1:
            raise ConnectionError("the supervisor has gone")
        self._have(self.device, *fds)
        self.stands_by = False

    def note_order(self, packed: bytes) -> None:
        """Write down what was ordered, and what the kernel has said first."""
        if self.journal is not None and native.LIBRARY is not None:
            self.journal.note("order", order=base64.b64encode(packed).decode())
            self.journal.note("greeting", greeting=native.LIBRARY.greeting.hex())

    def note_change(self, change: dict[str, Any]) -> None:
        """Write down that names were added or removed by hand."""
        if self.journal is not None:
            self.journal.note("change", change=change)

    def keep_metrics(self, listening: socket.socket) -> None:
        """Have a socket kept for the next daemon: who scrapes goes on at the same address."""
        if self.journal is not None and self._link is not None and self.metrics is None:
            with contextlib.suppress(OSError):  # then there will be no next one
                link.send(self._link, {"op": "metrics"}, listening.fileno())

    def ending(self) -> None:
        """Say that this daemon was asked to end, and is to have no successor."""
        if self._link is not None and self.journal is not None:
            with contextlib.suppress(OSError):
                link.send(self._link, {"op": "ending"})

    async def upgrade(self) -> None:
        """Have the next daemon take over, with the code that is installed now: then this one is killed.

        *Raises*: LazyfsError, when it goes on; why.
        """
        if self._link is None or self.journal is None or self.refusal is not None:
            raise LazyfsError(self.refusal or "it is not supervised")
        send, receive = trio.open_memory_channel[str](1)
        self._not_upgraded.add(send)
        try:
            link.send(self._link, {"op": "upgrade"})
            why = await receive.receive()
        except OSError:
            why = ALONE
        finally:
            self._not_upgraded.discard(send)
        raise LazyfsError(why)

    async def answer(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Say that the mount answers, and from now on, whenever asked, that all is well.

        The loop that answers the kernel is this one: while it can say so, it can do that. Goes on alone when there is
        nobody who asks any more.
        """
        task_status.started()
        if self.journal is None or self._link is None:
            return
        with contextlib.suppress(OSError):
            link.send(self._link, {"op": "serving", "canary": _canary()})
            while await self._answer(self._link):
                pass
        self.refusal = ALONE
        self._say_not_upgraded(ALONE)

    async def _answer(self, supervisor: socket.socket) -> bool:
        """Answer what it says next, and say whether there was anything. *Raises*: OSError."""
        await trio.lowlevel.wait_readable(supervisor)
        message, fds = link.receive(supervisor)
        for fd in fds:
            os.close(fd)
        match message.get("op"):
            case "well?":
                link.send(supervisor, {"op": "well"})
            case "not upgraded":
                self._say_not_upgraded(message["why"])
        return bool(message)

    def _say_not_upgraded(self, why: str) -> None:
        for waiter in self._not_upgraded:
            with contextlib.suppress(trio.WouldBlock):
                waiter.send_nowait(why)
