"""The daemon's end of the link to its supervisor: who mounts for it, and asks whether it is well."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
from collections.abc import Iterable
from typing import Any, Final

import trio

from lazyfs import link, native
from lazyfs.journal import Journal, Legacy, read

PATIENCE: Final = 15.0
"""Seconds for the supervisor to mount."""


def _canary() -> int:
    """Start a thread that only waits, and return its id: it ends with the process, sooner than any that is busy."""
    thread = threading.Thread(target=threading.Event().wait, name="canary", daemon=True)
    thread.start()
    assert thread.native_id is not None
    return thread.native_id


class Supervised:
    """A daemon that is supervised, unless there is no `end` of a link.

    `device` is FUSE's descriptor; it and the journal are there once the mount is, if it shall outlive this daemon.
    """

    def __init__(self, end: socket.socket | None) -> None:
        self.device: int | None = None
        self.legacy = Legacy()
        self.journal: Journal | None = None
        self.refusal: str | None = None  # why the mount does not outlive this daemon
        self._link = end

    def begin(self, refusal: str | None) -> None:
        """Say before the mount is made whether it shall outlive this daemon; if not, the supervisor ends."""
        self.refusal = refusal
        if refusal is not None and self.device is None and self._link is not None:
            self._link.close()

    @classmethod
    def taking_over(cls, end: socket.socket, device: int, journal: int) -> Supervised:
        """Go on where another daemon has died. *Raises*: OSError."""
        it = cls(end)
        it._have(device, journal)
        return it

    def _have(self, device: int, journal: int) -> None:
        self.device = device
        self.legacy = read(journal)
        self.journal = Journal(journal, self.legacy, self._renew)

    def _renew(self, journal: int) -> None:
        assert self._link is not None
        link.send(self._link, {"op": "journal"}, journal)

    async def mount(self, mountpoint: str, source: str, options: Iterable[str], log: str) -> None:
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

    def note_order(self, packed: bytes) -> None:
        """Write down what was ordered, and what the kernel has said first."""
        if self.journal is not None and native.LIBRARY is not None:
            self.journal.note("order", order=base64.b64encode(packed).decode())
            self.journal.note("greeting", greeting=native.LIBRARY.greeting.hex())

    def note_change(self, change: dict[str, Any]) -> None:
        """Write down that names were added or removed by hand."""
        if self.journal is not None:
            self.journal.note("change", change=change)

    def ending(self) -> None:
        """Say that this daemon was asked to end, and is to have no successor."""
        if self._link is not None and self.journal is not None:
            with contextlib.suppress(OSError):
                link.send(self._link, {"op": "ending"})

    async def answer(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Say that the mount answers, and from now on, whenever asked, that all is well.

        The loop that answers the kernel is this one: while it can say so, it can do that. Goes on alone when there is
        nobody who asks any more.
        """
        task_status.started()
        if self.journal is None or self._link is None:
            return
        try:
            link.send(self._link, {"op": "serving", "canary": _canary()})
            while True:
                await trio.lowlevel.wait_readable(self._link)
                message, fds = link.receive(self._link)
                for fd in fds:
                    os.close(fd)
                if not message:
                    return
                link.send(self._link, {"op": "well"})
        except OSError:
            return
