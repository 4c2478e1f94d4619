"""Lines from a process of its own, which is given up when its time is over.

Who looks at a dead NFS server, or at a mount that is stuck, may wait for ever, in a way that not even SIGKILL ends: the
process that does so must be another one, and nobody may wait for its end.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_END = b"\0"


@dataclass(frozen=True, slots=True)
class Apart:
    """Lines under way; they are to be read once."""

    pid: int
    pipe: int
    deadline: float

    def lines(self) -> Iterator[str]:
        """Yield the lines that come in time. *Raises*: TimeoutError, after them, when they were not all of them.

        A process that is stuck in the kernel is left behind: it has nothing of ours open.
        """
        told = b""
        while select.select([self.pipe], [], [], max(0.0, self.deadline - time.monotonic()))[0]:
            piece = os.read(self.pipe, 65536)
            told += piece
            if not piece:
                break
        os.close(self.pipe)
        os.kill(self.pid, signal.SIGKILL)  # it is there, if only as a zombie: nobody waits for it
        yield from told.removesuffix(_END).decode("utf-8", "surrogateescape").split("\n")[:-1]
        if not told.endswith(_END):
            raise TimeoutError


def begin(seconds: float, lines: Callable[..., Iterable[str]], *args: Any) -> Apart:
    """Start a process that tells what `lines` yields; an exception there ends it early. *Units*: seconds."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return Apart(pid, ours, time.monotonic() + seconds)
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):  # else who reads what we print would wait for a process that is stuck
            os.dup2(nothing, fd)
        for line in lines(*args):
            _write(theirs, os.fsencode(line) + b"\n")
        _write(theirs, _END)
    finally:
        os._exit(0)


def _write(fd: int, rest: bytes) -> None:
    while rest:
        rest = rest[os.write(fd, rest) :]
