"""The process that holds a mount and the rights to it for its daemon, and starts the next one when one dies or hangs.

While anybody has the FUSE descriptor open, the kernel keeps the mount, and who reads from it waits. So a process that
does next to nothing holds it: no threads, no HTTP, hardly any imports. It also keeps the rights that the daemon, which
reads what strangers send, has given up (privileges.py). Where to mount, and as whom the next daemon runs, it hears
once, before the first one hears from anybody else: from then on a daemon can have it do this for that mount only.

    daemon ── "charge" ─▶ gives up what itself does not need for that
           ── "mount" ──▶ mounts, and hands the descriptor over, with the journal (journal.py)
           ── "serving" ─▶ from now on it is asked now and then whether it is well, and answers
           ── "journal" ─▶ a shorter one takes the place of the old one

      dead, or no answer ── killed ── has the mount gone? ── yes ── the end
                                        └ no ── too many deaths? ── yes ── unmounted: errors rather than hanging
                                                  └ no ── a new interpreter, with descriptor and journal

That is so if the mount is to outlive its daemon (takeover.py). If not, a daemon that dies takes its mount with it.

A daemon that ends by itself, with status 0, was asked to: then this ends, too. One that is killed may stay on as a
zombie, for as long as a thread of its own waits in the kernel for an answer that only the next daemon can give
(neighbours.py): so a thread that does nothing is watched, too, which ends at once (its *canary*).

The supervisor never has a file under the mount open, nor forks with one: closing it would wait for the daemon that is
to be started.

*Source*: Linux 6.9, fs/fuse/dev.c (FUSE_NOTIFY_RESEND; POLLERR on the descriptor of a mount that has gone);
pidfd_open(2), PIDFD_THREAD.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from typing import Any, Final

from lazyfs import link, mountinfo, privileges, tuning
from lazyfs.attach import CannotMount, attach, close_backing, detach, open_backing
from lazyfs.privileges import Capability, Rights
from lazyfs.process import open_as_many_files_as_allowed, show_as

ASK_EVERY: Final = 4.0
"""Seconds between two questions whether the daemon is well."""

HANGS: Final = 9.0
"""Seconds without an answer after which it is killed."""

DEATHS: Final = 5
WITHIN: Final = 60.0
"""Deaths within so many seconds with which the mount is given up."""

AT_ONCE: Final = 1.0
"""Seconds after its start within which a death makes the next start wait, longer each time."""

PAUSE_FIRST: Final = 0.1
PAUSE_LARGEST: Final = 5.0

GRACE: Final = 10.0
"""Seconds for a daemon to end when its mount has gone, before it is killed."""

LINGERS: Final = 0.3
"""Seconds for a dead daemon's threads to end; after that the next one is started beside what is left of it."""

PIDFD_THREAD: Final = os.O_EXCL

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Holds one mount. `daemon` is the process id of its first daemon, a child, which has the other end of `end`."""

    def __init__(self, end: socket.socket, daemon: int) -> None:
        self._link = end
        self._daemon = daemon
        self._ended = os.pidfd_open(daemon)
        self._canary = -1
        self._lingering: list[int] = []  # daemons that are dead and not gone yet
        self._device = self._journal = -1  # FUSE's descriptor; both only when it is mounted
        self._charge: dict[str, Any] | None = None
        self._rights = Rights()
        self._mountpoint = self._log = ""
        self._mounted: mountinfo.Mounted | None = None
        self._serving = False
        self._began = time.monotonic()
        self._asked: float | None = None  # when the question was put that is not answered yet
        self._next = 0.0  # when the next one is due
        self._gone: float | None = None  # when it was seen that the mount has gone
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._pause = PAUSE_FIRST
        self._told = False  # to end
        self._hung_up = False

    def run(self) -> int:
        """Hold the mount until it has gone, and return the exit status."""
        wake, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(written)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may have it ignored: then none is waited for
        for number in _SIGNALS:
            signal.signal(number, self._tell)
        while True:
            poll = select.poll()
            watched = [self._ended, wake, self._canary, -1 if self._hung_up else self._link.fileno()]
            for fd in watched:
                if fd >= 0:
                    poll.register(fd, select.POLLIN)
            found = {fd for fd, _ in poll.poll(ASK_EVERY * 1000)}
            if wake in found:
                os.read(wake, 64)
            if self._link.fileno() in found:
                self._hear()
            if self._ended in found or self._canary in found:
                if (status := self._after_death()) is not None:
                    return status
            else:
                self._see_to_it()

    def _tell(self, number: int, _frame: object) -> None:
        """Pass on who asks for the end."""
        self._told = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._ended, number)

    # What the daemon says.

    def _hear(self) -> None:
        try:
            message, fds = link.receive(self._link)
        except (OSError, ValueError):
            message, fds = {}, []
        try:
            self._obey(message, fds)
        except (LookupError, TypeError, ValueError, struct.error):  # what no daemon of ours says
            self._kill("says what makes no sense")
        for fd in fds:
            os.close(fd)

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        match message.get("op"):
            case "charge" if self._charge is None:
                self._take_on(message)
            case "mount" if self._charge is not None and self._device < 0:
                self._mount(message["log"], outlives=message["outlives"])
            case "tune":
                self._send(self._tuned())
            case "backing":
                self._send(self._registered(fds[0]))
            case "no backing":
                with contextlib.suppress(OSError):
                    close_backing(self._device, message["id"])
            case "serving":
                self._serving, self._asked = True, None
                with contextlib.suppress(ProcessLookupError):  # else the other descriptor tells
                    self._canary = os.pidfd_open(message["canary"], PIDFD_THREAD)
            case "well":
                self._asked = None
            case "ending":
                self._told = True
                self._detach()
            case "detach":
                self._detach()
                self._send({"detached": True})
            case "journal":
                os.close(self._journal)
                self._journal = fds.pop()
            case None:
                self._hung_up = True

    def _take_on(self, charge: dict[str, Any]) -> None:
        """Hear, once, what is to be mounted and with which rights a daemon runs; and keep no more than that takes."""
        self._charge, self._mountpoint = charge, charge["mountpoint"]
        self._rights = Rights(charge["user"], Capability(charge["keep"]))
        show_as("lazyfs-supervisor", self._mountpoint)
        open_as_many_files_as_allowed()  # as the next daemons may not raise it
        if os.geteuid() == 0:
            privileges.confine(Capability(charge["own"]))
        else:
            privileges.close_memory()  # and no more: fusermount3 is a setuid program

    def _mount(self, log: str, *, outlives: bool) -> None:
        assert self._charge is not None
        self._log = log
        try:
            self._device = attach(self._mountpoint, self._charge["source"], self._charge["options"])
            if outlives:
                self._journal = os.memfd_create("journal", os.MFD_CLOEXEC)
        except (CannotMount, OSError) as exc:
            self._send({"error": str(exc)})
        else:
            self._mounted = mountinfo.mount_at(self._mountpoint)
            self._send({}, *(fd for fd in (self._device, self._journal) if fd >= 0))

    def _tuned(self) -> dict[str, Any]:
        return {"reason": tuning.tune(self._mounted) if self._mounted is not None else "it is not mounted"}

    def _registered(self, fd: int) -> dict[str, Any]:
        try:
            return {"id": open_backing(self._device, fd)}
        except OSError as exc:
            return {"errno": exc.errno}

    def _detach(self) -> None:
        """Detach the mount, but not what somebody else has mounted there since."""
        if self._mounted is not None and mountinfo.mount_at(self._mountpoint) == self._mounted:
            detach(self._mountpoint)

    def _send(self, message: dict[str, Any], *fds: int) -> None:
        with contextlib.suppress(OSError):  # its end, which is heard of
            link.send(self._link, message, *fds)

    # Whether it is well.

    def _see_to_it(self) -> None:
        """Ask the daemon whether it is well, and kill it when it does not answer, or does not end with its mount."""
        now = time.monotonic()
        if self._has_gone():
            self._gone = self._gone or now
            if now - self._gone > GRACE:
                self._kill("has not ended with its mount")
        elif self._serving and self._asked is None and now >= self._next:
            self._asked, self._next = now, now + ASK_EVERY
            self._send({"op": "well?"})
        elif self._asked is not None and now - self._asked > HANGS:
            self._kill(f"has not answered for {HANGS:g} s")

    def _has_gone(self) -> bool:
        """Say whether a mount has gone that outlives its daemon: nobody can ask anything through it any more."""
        return self._journal >= 0 and _ready(self._device, 0, 0.0)

    def _kill(self, why: str) -> None:
        self._say(f"the daemon (pid {self._daemon}) {why}: killed")
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._ended, signal.SIGKILL)

    def _after_death(self) -> int | None:
        """Start the next daemon, or return the exit status."""
        if _ready(self._ended, select.POLLIN, LINGERS):
            _, status = os.waitpid(self._daemon, 0)
        else:
            status = signal.SIGKILL
            self._lingering.append(self._daemon)
        self._lingering = [pid for pid in self._lingering if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        for fd in (self._ended, self._canary):
            if fd >= 0:
                os.close(fd)
        self._canary = -1
        code = os.waitstatus_to_exitcode(status)
        if not self._serving or code == 0 or self._told or self._has_gone():
            return code if code >= 0 else int(not self._told)
        now = time.monotonic()
        self._deaths.append(now)
        if len(self._deaths) == DEATHS and now - self._deaths[0] < WITHIN:
            self._say(f"{DEATHS} daemons died within {now - self._deaths[0]:.0f} s: the mount is given up")
            os.close(self._device)
            self._detach()
            return 1
        self._pause = min(self._pause * 2, PAUSE_LARGEST) if now - self._began < AT_ONCE else PAUSE_FIRST
        if now - self._began < AT_ONCE:
            time.sleep(self._pause)
        self._say(f"the daemon (pid {self._daemon}) has died ({_words(code)}): starting the next one")
        self._start()
        return None

    def _start(self) -> None:
        """Start a new interpreter, so that it loads what is installed now."""
        self._link.close()
        self._link, theirs = link.pair()
        passed = (theirs.fileno(), self._device, self._journal)
        for fd in passed:
            os.set_inheritable(fd, True)
        words = [self._rights.user or "", f"{self._rights.keep:d}", *map(str, passed)]
        # -P: what lies in the directory that we were called from is no code of ours. The last words are only for room:
        # the daemon shows itself in `ps` as it did when the command had forked it.
        words = [sys.executable, "-P", "-m", "lazyfs.daemon", *words, "lazyfs mount", self._mountpoint]
        self._daemon = os.posix_spawn(sys.executable, words, _environment())
        self._ended = os.pidfd_open(self._daemon)
        for fd in passed:
            os.set_inheritable(fd, False)
        theirs.close()
        self._began = self._asked = time.monotonic()
        self._hung_up = False

    def _say(self, text: str) -> None:
        """Write a line into the daemon's log, as the one whom the log belongs to."""
        when = time.strftime("%Y-%m-%d %H:%M:%S") + f",{time.time() % 1 * 1000:03.0f}"
        with contextlib.suppress(OSError), self._as_daemon():
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.write(log, f"{when} WARNING {__name__}: {text}\n".encode("utf-8", "surrogateescape"))
            os.close(log)

    def _as_daemon(self) -> contextlib.AbstractContextManager[None]:
        if self._rights.user is None:
            return contextlib.nullcontext()
        user = privileges.user_called(self._rights.user)
        return privileges.acting_as(user.uid, user.gid)


def _ready(fd: int, events: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(seconds * 1000))


def _environment() -> dict[str, str]:
    """Return ours, with this package where it will be looked for."""
    here = __file__.rpartition("/lazyfs/")[0]
    return {**os.environ, "PYTHONPATH": ":".join(filter(None, (here, os.environ.get("PYTHONPATH"))))}


def _words(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"
