"""A mount's daemon as its supervisor sees it: a child process at the other end of a link, well or not, alive or dead.

One that is killed may stay on as a zombie, for as long as a thread of its own waits in the kernel for an answer that
only the next daemon can give (neighbours.py), and its process does not end before. So a thread that does nothing is
watched, too, which ends at once (its *canary*).

*Source*: pidfd_open(2), PIDFD_THREAD; waitid(2), WSTOPPED.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import Any, Final

from lazyfs import link

ASK_EVERY: Final = 4.0
"""Seconds between two questions whether it is well."""

SOON: Final = 0.5
"""Seconds after it has begun to serve until it is first asked."""

HANGS: Final = 9.0
"""Seconds without an answer after which it is not."""

LINGERS: Final = 0.05
"""Seconds for a dead one's threads to end; after that the next one is started beside what is left of it."""

STOPS: Final = 0.3
"""Seconds for a stopped one's threads to stop."""

PIDFD_THREAD: Final = os.O_EXCL


class Child:
    """A daemon. `pid` is a child of ours, which has the other end of `end`."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self.link = end
        self.ended = os.pidfd_open(pid)
        self.canary = -1
        self.serving = False
        self.sound = False  # it has served for a while
        self.hung_up = False
        self._asked: float | None = None  # when the question was put that is not answered yet
        self._next = 0.0  # when the next one is due

    def watched(self) -> list[int]:
        """Return the descriptors on which there is something to be heard of it."""
        return [fd for fd in (self.ended, self.canary, -1 if self.hung_up else self.link.fileno()) if fd >= 0]

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        """Return what it says next, and the descriptors that came with it; nothing when it has hung up."""
        try:
            message, fds = link.receive(self.link)
        except (OSError, ValueError):
            message, fds = {}, []
        self.hung_up = not message
        return message, fds

    def send(self, message: dict[str, Any], *fds: int) -> None:
        """Send it a message."""
        with contextlib.suppress(OSError):  # its end, which is heard of
            link.send(self.link, message, *fds)

    def serves(self, canary: int) -> None:
        """Note that it answers the kernel, and which of its threads does nothing."""
        self.serving, self._asked, self._next = True, None, time.monotonic() + SOON
        with contextlib.suppress(ProcessLookupError):  # else the other descriptor tells
            self.canary = os.pidfd_open(canary, PIDFD_THREAD)

    def is_to_answer(self) -> None:
        """Note that it ought to answer within HANGS from now on, as if it were asked."""
        self._asked = time.monotonic()

    def is_well(self) -> None:
        """Note that it has answered."""
        self.sound, self._asked = True, None

    def ask(self, now: float) -> None:
        """Ask it whether it is well, if that is due."""
        if self.serving and self._asked is None and now >= self._next:
            self._asked, self._next = now, now + ASK_EVERY
            self.send({"op": "well?"})

    def hangs(self, now: float) -> bool:
        """Say whether it has not answered for too long."""
        return self._asked is not None and now - self._asked > HANGS

    def due(self, now: float) -> float:
        """Return the seconds until there is something to see to, ASK_EVERY at the most."""
        when = self._next if self._asked is None else self._asked + HANGS + 0.01
        return min(max(when - now, 0.0), ASK_EVERY) if self.serving or self._asked is not None else ASK_EVERY

    def tell(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.ended, number)

    def stop(self) -> None:
        """Stop it, and wait until it has; a thread that waits in the kernel stops when that has let it go."""
        self.tell(signal.SIGSTOP)
        until = time.monotonic() + STOPS
        while not os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if time.monotonic() > until:
                return
            time.sleep(0.001)

    def bury(self) -> int | None:
        """Take a dead one's exit code, as `os.waitstatus_to_exitcode`; None while it lingers, a zombie."""
        ready = is_ready(self.ended, select.POLLIN, LINGERS)
        for fd in (self.ended, self.canary):
            if fd >= 0:
                os.close(fd)
        self.ended = self.canary = -1
        self.link.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) if ready else None


def is_ready(fd: int, events: int, seconds: float) -> bool:
    """Wait for something to happen on a descriptor, and say whether it has."""
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(seconds * 1000))
