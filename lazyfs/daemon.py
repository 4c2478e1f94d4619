"""A mount's process: the fork, what it keeps of its caller, its order, and its end.

    fork first, then everything else: nothing is forked once the mount is there (a child would keep its descriptors
    open), and no thread exists when the fork happens. The command forks before it knows what is to be mounted, since
    the daemon needs 0.13 s to load what it is made of (mount.py and all below it), and the command has its own to load
    until it has read its arguments. Neither has what only the other needs.

      command ── begin ── its arguments ── the order ── waits for one line: "ready", or what went wrong ◄──────────┐
                   └ fork ── supervisor (supervisor.py)│                                                           │
                               └ fork ── daemon: loads its code ── session, sources, FUSE, control socket ── "ready" ┘

What a daemon may do without, it gives up when it has its order, before it starts a thread that stays (rights.py).

A caller that goes before that (Ctrl-C) takes the daemon with it. A daemon that takes over from another one has no
caller: its supervisor forks it, or starts `python -m lazyfs.daemon` with words for what it hands on (successor.py).
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import Final, NoReturn

from lazyfs import link, mountinfo, privileges, urls
from lazyfs.errors import LazyfsError
from lazyfs.options import DIRECT
from lazyfs.order import READY, REMARK, Mount, pack, report, unpack
from lazyfs.origin import early
from lazyfs.origin.own import Own
from lazyfs.privileges import Capability
from lazyfs.successor import GoOn, Handed, Successors

log = logging.getLogger(__name__)

_LENGTH: Final = struct.Struct("=Q")
"""What goes before an order: how long it is."""

PATIENCE: Final = 5.0
"""Seconds for a daemon that is not needed to end: an instant, unless somebody has stopped it."""

_begun: list[socket.socket] = []
"""Of a daemon that has no order yet, the socket to it."""


def begin() -> None:
    """Start a daemon that waits for its order; it ends with this process, if there is none."""
    ours, theirs = socket.socketpair()
    between = os.fork()
    if between == 0:
        ours.close()
        _become_daemon(theirs.detach())
    theirs.close()
    with contextlib.suppress(ChildProcessError):  # whoever ignores SIGCHLD has nobody to wait for
        os.waitpid(between, 0)
    _begun.append(ours)
    atexit.register(_dismiss)


def _dismiss() -> None:
    """Tell a daemon without an order that there will be none, and wait for its end."""
    while _begun:
        with _begun.pop() as unused, contextlib.suppress(OSError):
            unused.settimeout(PATIENCE)
            unused.shutdown(socket.SHUT_WR)
            unused.recv(1)


def run_in_foreground(mount: Mount) -> None:
    """Serve a mount until it is gone, in a child, and supervise that. *Raises*: LazyfsError; SystemExit."""
    _dismiss()
    mount = dataclasses.replace(mount, foreground=True)
    ours, theirs = link.pair()
    daemon = os.fork()
    if daemon:
        theirs.close()
        if (status := _supervise(ours, daemon)) < 0:
            killed = signal.Signals(-status).name
            raise LazyfsError(f"the daemon was killed ({killed}) before {mount.mountpoint} was mounted")
        sys.exit(status)
    ours.close()
    os.setpgid(0, 0)  # Ctrl-C is for the supervisor, who passes it on
    from lazyfs.logs import log_to
    from lazyfs.mount import run_to_end
    from lazyfs.supervised import Supervised

    log_to(logging.StreamHandler(), mount.settings.watch)
    run_to_end(mount, Supervised(theirs))


def run_in_background(mount: Mount) -> None:
    """Give the daemon its order and return when the mount answers. *Raises*: LazyfsError with what the daemon says.

    *Source*: daemon(7), "SysV Daemons", as far as it still applies.
    """
    if not _begun:
        begin()
    ours = _begun.pop()
    with ours, ours.makefile("rb") as lines:
        try:
            content = pack(mount)
            ours.sendall(_LENGTH.pack(len(content)) + content)
            while (line := lines.readline().decode("utf-8", "surrogateescape").strip()).startswith(REMARK):
                print(f"lazyfs: {line.removeprefix(REMARK)}", file=sys.stderr)
        except ConnectionError:  # it was killed
            line = ""
        except BaseException:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_WR)
            if lines.read().strip() == READY.encode():  # just before it could see that
                subprocess.run(mountinfo.unmount_command(mount.mountpoint, lazy=True), capture_output=True, check=False)
            raise
    if line != READY:
        from lazyfs.store import running

        log_file = running.find(mount.settings.store, mount.log)
        raise LazyfsError(line or f"the daemon ended before {mount.mountpoint} was mounted; see {log_file}")


def _become_daemon(caller: int) -> NoReturn:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    gc.disable()  # until all is loaded: `tuning.spare_what_stays`
    caller = _keep_only(caller)
    ours, theirs = link.pair()
    daemon = os.fork()
    if daemon:
        os.close(caller)
        theirs.close()
        os._exit(abs(_supervise(ours, daemon)))
    ours.close()
    try:
        order = _Order(caller)
        from lazyfs.mount import run_to_end
        from lazyfs.supervised import Supervised

        os.chdir("/")  # only now: modules may have to be looked for from here
        run_to_end(order.wait(), Supervised(theirs), caller)
        _end(0)
    except LazyfsError as exc:
        report(caller, str(exc))
    except BaseException as exc:
        log.critical("the daemon ended", exc_info=True)
        report(caller, f"{exc!r} was not foreseen in the daemon: a defect of lazyfs, please report it with its log")
    _end(1)


def _supervise(end: socket.socket, daemon: int) -> int:
    from lazyfs.process import show_as  # of neither has the daemon any need
    from lazyfs.supervisor import Supervisor

    show_as(link.SUPERVISOR)  # the command line may hold secrets
    os.chdir("/")
    return Supervisor(end, daemon, Successors(_load)).run()


def _load() -> GoOn:
    """Load all that a daemon is made of which takes over, and what it uses at once for most sources.

    The supervisor has nothing of it before.
    """
    import encodings.idna  # noqa: F401 - for the name of the first host that is asked

    import lazyfs.fuse
    import lazyfs.logs
    import lazyfs.mount
    import lazyfs.sources.index
    import lazyfs.sources.manifest
    import lazyfs.supervised  # noqa: F401

    return _take_over


def _take_over(handed: Handed) -> NoReturn:
    """Serve a mount that another daemon has served.

    All but what the supervisor hands us has passed through the hands of that other daemon, and is looked at without any
    other rights.
    """
    gc.disable()
    try:
        from lazyfs.supervised import Supervised

        supervised = Supervised(socket.socket(fileno=handed.link))
        privileges.take_on(handed.rights)
        from lazyfs.logs import log_to
        from lazyfs.mount import run_to_end

        metrics = handed.metrics if handed.metrics >= 0 else None
        supervised.inherit(handed.device, handed.journal, metrics, stands_by=handed.stands_by)
        mount = unpack(supervised.legacy.order)
        if mount.foreground:
            log_to(logging.StreamHandler(), mount.settings.watch)
        run_to_end(mount, supervised)
        _end(0)
    except BaseException:
        log.critical("the daemon ended", exc_info=True)
    _end(1)


def _end(status: int) -> NoReturn:
    """End at once: a worker thread that hangs in the disk must not keep the process."""
    logging.shutdown()
    os._exit(status)


class _Order:
    """The order that comes while the daemon loads its code; without one the process ends."""

    def __init__(self, caller: int) -> None:
        self._caller = caller
        self._mount: Mount | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self) -> Mount:
        """Return it when it is there."""
        self._thread.join()
        assert self._mount is not None
        return self._mount

    def _read(self) -> None:
        (length,) = _LENGTH.unpack(self._receive(_LENGTH.size))
        self._mount = unpack(self._receive(length))
        _connect_early(self._mount)

    def _receive(self, length: int) -> bytes:
        received = b""
        while len(received) < length:
            piece = os.read(self._caller, length - len(received))
            if not piece:
                os._exit(0)
            received += piece
        return received


def _connect_early(mount: Mount) -> None:
    """Begin to connect to whom we are likely to ask first. That nothing needs to be asked is known only later."""
    client = mount.settings.client
    first = mount.sources[0].place
    of_us = mount.settings.user is None  # who is to become somebody else has one thread until then (privileges.py)
    if not of_us or client.offline or not urls.is_http(first):
        return
    place = urls.origin_of(first)
    proxy = Own(client.origins).of(place).proxy or client.transport.proxy
    if proxy in (None, DIRECT):
        privileges.confine(Capability.NONE)
        early.begin(*place[1:])


def _keep_only(caller: int) -> int:
    """Let go of all other descriptors that were inherited: whoever waits for their end would wait for ours."""
    kept = os.dup2(caller, 3, inheritable=False)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    return kept


if __name__ == "__main__":
    _take_over(Handed.of(sys.argv[1:]))
