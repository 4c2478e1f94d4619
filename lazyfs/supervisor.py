"""The process that holds a mount and the rights to it for its daemon, and starts the next one when one dies or hangs.

While anybody has the FUSE descriptor open, the kernel keeps the mount, and who reads from it waits. So a process that
does next to nothing holds it: no threads, no HTTP, hardly any imports until a daemon has died. It also keeps the rights
that the daemon, which reads what strangers send, has given up (privileges.py). Where to mount, and as whom the next
daemon runs, it hears once, before the first one hears from anybody else: from then on a daemon can have it do this for
that mount only.

    daemon ── "charge" ─▶ gives up what itself does not need for that
           ── "mount" ──▶ mounts, and hands the descriptor over, with the journal (journal.py)
           ── "serving" ─▶ from now on it is asked now and then whether it is well, and answers
           ── "journal" ─▶ a shorter one takes the place of the old one

      dead, or no answer ── killed ── has the mount gone? ── yes ── the end
                                        └ no ── too many deaths? ── yes ── unmounted: errors rather than hanging
                                                  └ no ── the next one, with descriptor and journal (successor.py)

A daemon that ends by itself, with status 0, was asked to: then this ends, too. If the mount is not to outlive its
daemon (takeover.py), there is no journal, and this ends with the daemon in any case.

An upgrade starts what is installed now beside the daemon that serves. Nothing can be lost by that: until the new one
answers the kernel, the old one is there to go on.

    "upgrade" ──▶ a new interpreter, which takes the names in, and does not touch the descriptor ── "prepared" ──▶
       the old one is stopped ── "go" ── the new one answers the kernel ── "serving" ──▶ the old one is killed
       the new one dies, or is too slow, anywhere in between ──▶ it is killed, and the old one goes on

The supervisor itself stays what it was, so a later daemon must get along with an earlier one (link.py).

The supervisor never has a file under the mount open, nor forks with one: closing it would wait for the daemon that is
to be started.

*Source*: Linux 6.9, fs/fuse/dev.c (FUSE_NOTIFY_RESEND; POLLERR on the descriptor of a mount that has gone).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections import deque
from typing import Any, Final

from lazyfs import link, mountinfo, privileges, tuning
from lazyfs.attach import CannotMount, attach, close_backing, detach, open_backing
from lazyfs.child import HANGS, Child, is_ready
from lazyfs.privileges import Capability, Rights
from lazyfs.process import open_as_many_files_as_allowed, show_as
from lazyfs.successor import Handed, Successors

DEATHS: Final = 5
WITHIN: Final = 60.0
"""Deaths within so many seconds with which the mount is given up; not those of daemons that were well, and killed."""

PAUSE: Final = 0.05
"""Seconds, doubled with each of these, before the next daemon is started after one that has died at once."""

GRACE: Final = 10.0
"""Seconds for a daemon to end when its mount has gone, before it is killed."""

PREPARED_WITHIN: Final = 120.0
"""Seconds for the daemon of an upgrade to take the names in, of which there may be millions."""

SERVING_WITHIN: Final = 5.0
"""Seconds for it to answer the kernel: for so long nobody does."""

RESEND: Final = struct.pack("=IiQ", 16, 7, 0)
"""What is written into the FUSE descriptor to have all requests sent again that nobody has answered."""

_TO_END: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TO_SAY: Final = signal.SIGUSR1


class Supervisor:
    """Holds one mount. `daemon` is the process id of its first daemon, a child, which has the other end of `end`."""

    def __init__(self, end: socket.socket, daemon: int, successors: Successors) -> None:
        self._successors = successors
        self._daemon = Child(daemon, end)
        self._next: Child | None = None  # the daemon of an upgrade
        self._next_until = 0.0  # when it must have got further
        self._stopped = False  # the daemon is, for that one
        self._lingering: list[int] = []  # daemons that are dead and not gone yet
        self._device = self._journal = -1  # FUSE's descriptor; both only when it is mounted
        self._metrics = -1  # a socket that listens, if the daemon has one
        self._charge: dict[str, Any] | None = None  # what is to be mounted
        self._rights = Rights()  # of the daemons
        self._user: privileges.User | None = None  # that they are, if they are another one
        self._mountpoint = ""
        self._mounted: mountinfo.Mounted | None = None
        self._log: str | None = None  # None: stderr
        self._gone: float | None = None  # when it was seen that the mount has gone
        self._served = False  # a daemon has
        self._deaths: deque[float] = deque(maxlen=DEATHS)  # when they were, of those that count
        self._killed: Child | None = None  # the last one that we have
        self._told = False  # to end
        self._signals: list[int] = []  # that have come, and were not passed on yet

    def run(self) -> int:
        """Hold the mount until it has gone, and return the exit status.

        It is negative, a signal's number, for a daemon that was killed before it had mounted.
        """
        wake, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(written)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if who started us ignores it, nobody could be waited for
        for number in (*_TO_END, _TO_SAY):
            signal.signal(number, lambda number, _frame: self._signals.append(number))
        while True:
            found = self._wait(wake)
            if wake in found:
                os.read(wake, 64)
            self._pass_on()
            self._lingering = [pid for pid in self._lingering if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            for child in (self._daemon, self._next):
                if child is not None and child.link.fileno() in found:
                    self._hear(child)
            if self._next is not None and not found.isdisjoint((self._next.ended, self._next.canary)):
                self._go_back("the new daemon has died; the mount's log may say why")
            if not found.isdisjoint((self._daemon.ended, self._daemon.canary)):
                if (status := self._after_death()) is not None:
                    return status
            else:
                self._see_to_it()

    def _wait(self, wake: int) -> set[int]:
        """Wait until something happens, or is due; return the descriptors on which it does."""
        poll = select.poll()
        watched = [wake, *self._daemon.watched(), *(self._next.watched() if self._next else ())]
        for fd in watched:
            poll.register(fd, select.POLLIN)
        now = time.monotonic()
        seconds = self._daemon.due(now) if self._next is None else max(self._next_until - now, 0.0)
        return {fd for fd, _ in poll.poll(seconds * 1000 + 1)}

    def _pass_on(self) -> None:
        """Pass signals on: who asks for the end, or what is under way."""
        while self._signals:
            number = self._signals.pop(0)
            if number in _TO_END:
                self._told = True
                self._go_back("the mount is to end")
            if number in _TO_END or self._daemon.serving:  # until then the other one would kill it
                self._daemon.tell(number)

    # What a daemon says.

    def _hear(self, child: Child) -> None:
        message, fds = child.hear()
        try:
            self._obey(child, message, fds)
        except Exception:  # of what no daemon of ours says: that must not end us
            self._say(f"the daemon (pid {child.pid}) says what makes no sense: killed")
            child.tell(signal.SIGKILL)
        for fd in fds:
            os.close(fd)

    def _obey(self, child: Child, message: dict[str, Any], fds: list[int]) -> None:
        match message.get("op"):
            case "charge" if self._charge is None:
                self._take_on(message)
            case "mount" if self._charge is not None and self._device < 0:
                self._mount(message["log"], outlives=message["outlives"])
            case "tune":
                child.send({"reason": tuning.tune(self._mounted) if self._mounted else "it is not mounted"})
            case "backing":
                child.send(self._registered(fds[0]))
            case "no backing":
                with contextlib.suppress(OSError):
                    close_backing(self._device, message["id"])
            case "serving":
                child.serves(message["canary"])
                self._served = True
                if child is self._next:
                    self._switched(child)
            case "well":
                child.is_well()
            case "ending" if child is self._daemon:
                self._told = True
                self._detach()
            case "detach":
                if child is self._daemon:
                    self._detach()
                child.send({"detached": child is self._daemon})
            case "journal" if fds:
                os.close(self._journal)
                self._journal = fds.pop()
            case "metrics" if fds and self._metrics < 0:
                self._metrics = fds.pop()
            case "upgrade":
                self._begin_upgrade(child)
            case "prepared" if child is self._next:
                self._switch(child)

    def _take_on(self, charge: dict[str, Any]) -> None:
        """Hear, once, what is to be mounted and with which rights daemons run; and keep no more than that takes."""
        self._charge, self._mountpoint = charge, charge["mountpoint"]
        self._rights = Rights(charge["user"], Capability(charge["keep"]))
        self._user = privileges.user_called(charge["user"]) if charge["user"] else None
        open_as_many_files_as_allowed()  # the next daemons may not
        if os.geteuid() == 0:
            privileges.confine(Capability(charge["own"]))
        else:
            privileges.close_memory()  # and no more: fusermount3 is a setuid program

    def _mount(self, log: str | None, *, outlives: bool) -> None:
        assert self._charge is not None
        self._log = log
        show_as(link.SUPERVISOR, self._mountpoint)
        try:
            self._device = attach(self._mountpoint, self._charge["source"], self._charge["options"])
            if outlives:
                self._journal = os.memfd_create("journal", os.MFD_CLOEXEC)
        except (CannotMount, OSError) as exc:
            self._daemon.send({"error": str(exc)})
        else:
            self._mounted = mountinfo.mount_at(self._mountpoint)
            self._daemon.send({}, *(fd for fd in (self._device, self._journal) if fd >= 0))

    def _registered(self, fd: int) -> dict[str, Any]:
        try:
            return {"id": open_backing(self._device, fd)}
        except OSError as exc:
            return {"errno": exc.errno}

    def _detach(self) -> None:
        """Detach the mount, but not what somebody else has mounted there since."""
        if self._mounted is not None and mountinfo.mount_at(self._mountpoint) == self._mounted:
            detach(self._mountpoint)

    # Whether it is well.

    def _see_to_it(self) -> None:
        """Ask the daemon whether it is well, and kill it when it does not answer, or does not end with its mount."""
        now = time.monotonic()
        if self._has_gone():
            self._go_back("the mount has gone")
            self._gone = self._gone or now
            if now - self._gone > GRACE:
                self._kill("has not ended with its mount")
        elif self._next is not None:
            if now > self._next_until:
                self._go_back("the new daemon did not get ready in time")
        elif self._daemon.hangs(now):
            self._kill(f"has not answered for {HANGS:g} s")
        else:
            self._daemon.ask(now)

    def _has_gone(self) -> bool:
        """Say whether a mount has gone that outlives its daemon: nobody can ask anything through it any more."""
        return self._journal >= 0 and is_ready(self._device, 0, 0.0)

    def _kill(self, why: str) -> None:
        self._say(f"the daemon (pid {self._daemon.pid}) {why}: killed")
        self._daemon.tell(signal.SIGKILL)
        self._killed = self._daemon
        self._daemon.is_to_answer()  # else it would be killed again at once

    def _after_death(self) -> int | None:
        """Start the next daemon, or return the exit status."""
        self._go_back("the daemon has died meanwhile")
        last = self._daemon
        code = self._bury(last)
        if not self._served or code == 0 or self._told or self._has_gone():
            if self._device < 0:
                return code
            if self._journal >= 0 and not self._served:
                self._detach()
            return max(code, 0) if self._told else int(code != 0)
        if self._is_hopeless(last, code):
            self._say(f"{DEATHS} daemons have died within {WITHIN:g} s: the mount is given up")
            os.close(self._device)
            self._detach()
            return 1
        if not last.sound:
            time.sleep(PAUSE * 2 ** len(self._deaths))
        self._say(f"the daemon (pid {last.pid}) has died ({_words(code)}): starting the next one")
        self._daemon = self._start()
        self._daemon.is_to_answer()
        return None

    def _is_hopeless(self, last: Child, code: int) -> bool:
        """Count a death, and say whether there were too many: then the next daemon would do no better."""
        now = time.monotonic()
        if not last.sound or code != -signal.SIGKILL or last is self._killed:
            self._deaths.append(now)
        while self._deaths and now - self._deaths[0] > WITHIN:
            self._deaths.popleft()
        return len(self._deaths) == DEATHS

    def _bury(self, child: Child) -> int:
        code = child.bury()
        if code is None:
            self._lingering.append(child.pid)
        return -signal.SIGKILL if code is None else code

    def _start(self, *, stands_by: bool = False) -> Child:
        """Start the next daemon, or, beside the one that serves, the one that is to replace it."""
        ours, theirs = link.pair()
        with theirs:
            handed = Handed(
                theirs.fileno(), self._device, self._journal, self._metrics, self._rights, stands_by=stands_by
            )
            return Child(self._successors.start(handed, self._mountpoint), ours)

    # An upgrade.

    def _begin_upgrade(self, child: Child) -> None:
        if self._next is not None or child is not self._daemon:
            child.send({"op": "not upgraded", "why": "an upgrade is under way"})
            return
        self._say(f"an upgrade: starting the next daemon beside this one (pid {child.pid})")
        self._next = self._start(stands_by=True)
        self._next_until = time.monotonic() + PREPARED_WITHIN

    def _switch(self, child: Child) -> None:
        self._daemon.stop()
        self._stopped = True
        self._next_until = time.monotonic() + SERVING_WITHIN
        child.send({"op": "go"}, self._journal)

    def _switched(self, child: Child) -> None:
        last, self._daemon, self._next, self._stopped = self._daemon, child, None, False
        last.tell(signal.SIGKILL)
        self._bury(last)
        self._successors.upgraded()
        self._say(f"upgraded: the daemon (pid {child.pid}) has taken over from pid {last.pid}")

    def _go_back(self, why: str) -> None:
        """Leave it at the daemon that there is, if an upgrade is under way."""
        if self._next is None:
            return
        new, self._next = self._next, None
        new.tell(signal.SIGKILL)
        self._bury(new)
        if self._stopped:
            self._stopped = False
            with contextlib.suppress(OSError):  # the mount has gone
                os.write(self._device, RESEND)
            self._daemon.tell(signal.SIGCONT)
            self._daemon.is_well()  # what it was asked before, it could not answer
        self._daemon.send({"op": "not upgraded", "why": why})
        self._say(f"not upgraded: {why}; the daemon is the one that it was (pid {self._daemon.pid})")

    def _say(self, text: str) -> None:
        """Write a line into the daemon's log, as the one whom the log belongs to."""
        when = time.strftime("%Y-%m-%d %H:%M:%S") + f",{time.time() % 1 * 1000:03.0f}"
        line = f"{when} WARNING {__name__}: {text}\n".encode("utf-8", "surrogateescape")
        with contextlib.suppress(OSError), self._as_daemon():
            if self._log is None:
                os.write(2, line)
                return
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.write(log, line)
            os.close(log)

    def _as_daemon(self) -> contextlib.AbstractContextManager[None]:
        return privileges.acting_as(self._user.uid, self._user.gid) if self._user else contextlib.nullcontext()


def _words(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"
