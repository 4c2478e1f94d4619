"""The daemon's end of the link to its supervisor: who does for it what takes rights, and sees that there is one."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import trio

from lazyfs import link, native
from lazyfs.errors import LazyfsError
from lazyfs.journal import Journal, Legacy, read
from lazyfs.privileges import Capability, Rights

log = logging.getLogger(__name__)

PATIENCE: Final = 15.0
"""Seconds for the supervisor to mount, or to unmount."""

AT_ONCE: Final = 2.0
"""Seconds for what it does at once, while nobody is answered."""

ALONE: Final = "its supervisor has died: mount it again to have another"


def _canary() -> int:
    """Start a thread that only waits, and return its id: it ends with the process, sooner than any that is busy."""
    thread = threading.Thread(target=threading.Event().wait, name="canary", daemon=True)
    thread.start()
    assert thread.native_id is not None
    return thread.native_id


class Supervised:
    """A daemon that is supervised, at the other end of `end`. Made before this process becomes somebody else.

    `owner` is whom the files belong to, `device` FUSE's descriptor; the journal is there if the mount is to outlive
    this daemon. `metrics` is a socket that listens, and `legacy` what there is, from the daemon before.
    """

    def __init__(self, end: socket.socket) -> None:
        self.owner = os.getuid(), os.getgid()
        self.device: int | None = None
        self.metrics: socket.socket | None = None
        self.legacy = Legacy()
        self.journal: Journal | None = None
        self.refusal: str | None = None  # why the mount does not outlive this daemon
        self.stands_by = False  # as long as another daemon serves the mount
        self._link = end
        self._not_upgraded: set[trio.MemorySendChannel[str]] = set()  # of those who wait for an upgrade
        self._deaf = False  # an answer is late, and would be taken for that to another question

    def charge(self, mountpoint: str, source: str, options: Iterable[str], rights: Rights, own: Capability) -> None:
        """Settle what the supervisor will do for this daemon and the next ones, and the rights that itself keeps.

        It hears that once: what a daemon says later may be somebody else's words. *Raises*: OSError.
        """
        words = {"mountpoint": mountpoint, "source": source, "options": sorted(options)}
        link.send(self._link, {"op": "charge", **words, "user": rights.user, "keep": rights.keep, "own": own})

    def inherit(self, device: int, journal: int, metrics: int | None, *, stands_by: bool) -> None:
        """Go on where another daemon has died, or is to be replaced. *Raises*: OSError."""
        self.stands_by = stands_by
        self._have(device, journal)
        if metrics is not None:
            self.metrics = socket.socket(fileno=metrics)
        if not stands_by and self.journal is not None:
            self.journal.note("restart")

    def _have(self, device: int, journal: int) -> None:
        self.device = device
        self.legacy = read(journal)
        self.journal = Journal(journal, self.legacy, self._renew)

    def _renew(self, journal: int) -> None:
        link.send(self._link, {"op": "journal"}, journal)

    async def mount(self, log: str | None) -> int:
        """Have it mounted, and return FUSE's descriptor. *Raises*: RuntimeError with the kernel's words; OSError."""
        link.send(self._link, {"op": "mount", "log": log, "outlives": self.refusal is None})
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(self._link)
        answer, fds = link.receive(self._link)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        if not fds:
            raise ConnectionError("the supervisor has gone")
        self.device, *journal = fds
        if journal:
            self._have(self.device, *journal)
        return self.device

    def tune(self) -> None:
        """Have the kernel's limits for the mount raised (tuning.py)."""
        with contextlib.suppress(OSError):
            if (reason := self._ask({"op": "tune"}, AT_ONCE)["reason"]) is not None:
                log.info("the kernel's limits for the mount stay as they are: %s", reason)

    def register(self, fd: int) -> int:
        """Give the kernel a file to read from and return its id. Blocks for the supervisor. *Raises*: OSError."""
        answer = self._ask({"op": "backing"}, AT_ONCE, fd)
        if "id" in answer:
            return int(answer["id"])
        raise OSError(answer["errno"], os.strerror(answer["errno"]))

    def unregister(self, backing: int) -> None:
        """Take a file back that nobody reads any more."""
        with contextlib.suppress(OSError):
            self._say({"op": "no backing", "id": backing}, AT_ONCE)

    def detach(self) -> None:
        """Have the mount detached, if it is still there, and wait for that."""
        with contextlib.suppress(OSError):
            self._ask({"op": "detach"}, PATIENCE)

    def _ask(self, message: dict[str, Any], seconds: float, *fds: int) -> dict[str, Any]:
        """Send a question and return the answer. Blocks. *Raises*: OSError, and ever after when it comes too late."""
        self._say(message, seconds, *fds)
        deadline = time.monotonic() + seconds
        while self._ready(select.POLLIN, deadline - time.monotonic()):
            answer = self._heard()
            if not answer:
                raise ConnectionError("the supervisor has gone")
            if "op" not in answer:
                return answer
        self._deaf = True
        raise TimeoutError("the supervisor is late")

    def _say(self, message: dict[str, Any], seconds: float, *fds: int) -> None:
        """Send a message, when there is room for it: it may have many before it. Blocks. *Raises*: as `_ask`."""
        if not self._deaf and self._ready(select.POLLOUT, seconds):
            link.send(self._link, message, *fds)
            return
        self._deaf = True
        raise TimeoutError("the supervisor is late")

    def _ready(self, events: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._link, events)
        return bool(poll.poll(max(0.0, seconds) * 1000))

    async def turn(self) -> None:
        """Say that all is prepared, wait for our turn, and see what has happened until then. *Raises*: OSError."""
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
        if self.journal is not None and self.metrics is None:
            with contextlib.suppress(OSError):  # then there will be no next one
                link.send(self._link, {"op": "metrics"}, listening.fileno())

    def ending(self) -> None:
        """Say that this daemon was asked to end, and is to have no successor, and have the mount detached."""
        with contextlib.suppress(OSError):
            link.send(self._link, {"op": "ending"})

    async def upgrade(self) -> None:
        """Have the next daemon take over, with the code that is installed now: then this one is killed.

        *Raises*: LazyfsError, when it goes on; why.
        """
        if self.journal is None or self.refusal is not None:
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
        if self.journal is None:
            return
        with contextlib.suppress(OSError):
            link.send(self._link, {"op": "serving", "canary": _canary()})
            heard: dict[str, Any] | None = None
            while heard != {}:
                await trio.lowlevel.wait_readable(self._link)
                if self._ready(select.POLLIN, 0.0):  # else who asked something has heard it meanwhile
                    heard = self._heard()
        self.refusal = ALONE
        self._say_not_upgraded(ALONE)

    def _heard(self) -> dict[str, Any]:
        """Take what the supervisor says next, answer it, and return it; nothing when it has gone. *Raises*: OSError."""
        message, fds = link.receive(self._link)
        for fd in fds:
            os.close(fd)
        match message.get("op"):
            case "well?":
                link.send(self._link, {"op": "well"})
            case "not upgraded":
                self._say_not_upgraded(message["why"])
        return message

    def _say_not_upgraded(self, why: str) -> None:
        for waiter in self._not_upgraded:
            with contextlib.suppress(trio.WouldBlock):
                waiter.send_nowait(why)
