"""Who keeps a mount: the daemon that answers, the supervisor above it, and what that one has.

Nothing here looks at the mount itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lazyfs import control, mountinfo
from lazyfs.cli import mounting
from lazyfs.journal import Legacy, read
from tests.mounts import Mount, alive, is_daemon, wait_for_end

ASK_AGAIN: Final = 0.01
"""Seconds between two attempts to reach the next daemon."""

ANSWERS: Final = 1.0
"""Seconds for a daemon to answer; one that does not is asked again."""

ROOM: Final = 4 << 20
"""Bytes that the supervisor may grow by, and that its journal may be long, whatever happens."""


def status(mount: Mount) -> dict[str, Any]:
    """Return what the daemon says of itself. *Raises*: ControlError, when none answers now."""
    with contextlib.closing(mounting.connect(mounting.mounted_at(str(mount.at)), ANSWERS)) as connection:
        *_, found = connection.request("status")
        return dict(found)


def daemon(mount: Mount) -> int:
    """Return the process id of the daemon that answers."""
    pid: int = status(mount)["pid"]
    return pid


def next_daemon(mount: Mount, last: int, patience: float) -> int:
    """Wait for a daemon that is not the last one. *Raises*: TimeoutError; UsageError, when the mount has gone."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(control.ControlError):
            if (pid := daemon(mount)) != last:
                return pid
        time.sleep(ASK_AGAIN)
    raise TimeoutError(f"no daemon but {last} has answered for {patience:g} s")


def next_child(supervisor: int, last: int, patience: float) -> int:
    """Wait for the process that is to be the next daemon; it does not answer yet. *Raises*: TimeoutError."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for pid in children(supervisor):
            if pid != last and is_daemon(pid):
                return pid
        time.sleep(ASK_AGAIN)
    raise TimeoutError(f"no daemon but {last} was started for {patience:g} s")


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def freeze(pids: list[int]) -> None:
    """Stop processes."""
    _signal(pids, signal.SIGSTOP)


def kill(pids: list[int]) -> None:
    """Kill processes, all before any of them can do anything about it, and wait until they have ended."""
    freeze(pids)
    _signal(pids, signal.SIGKILL)
    wait_for_end(pids)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclass(frozen=True)
class Vitals:
    """What a supervisor has. *Units*: bytes; `opened` and `backings` are what the journal says of the kernel."""

    descriptors: int
    threads: int
    children: int
    zombies: int
    resident: int
    journal: int
    opened: int
    backings: int

    @classmethod
    def of(cls, pid: int) -> Vitals:
        """Look at a supervisor."""
        words = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        journal, legacy = _journal(pid)
        return cls(
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            threads=int(words["Threads"]),
            children=len(children(pid)),
            zombies=sum(not alive(child) for child in children(pid)),
            resident=int(words["VmRSS"].split()[0]) * 1024,
            journal=journal,
            opened=sum(there.times for there in legacy.opened.values()),
            backings=sum(map(len, legacy.backings.values())),
        )

    def __str__(self) -> str:
        return (
            f"{self.descriptors} descriptors, {self.threads} thread, {self.children} children ({self.zombies} zombies),"
            f" {self.resident / 2**20:.1f} MiB, a journal of {self.journal >> 10} KiB"
            f" with {self.opened} opens and {self.backings} backings"
        )

    def grown(self, before: Vitals) -> Iterator[str]:
        """Say what there is more of than before, or than there may be."""
        for name in ("descriptors", "threads", "children", "zombies"):
            now, then = getattr(self, name), getattr(before, name)
            if now > then:
                yield f"the supervisor has {now} {name}, and had {then}"
        if self.resident > before.resident + ROOM:
            yield f"the supervisor has grown from {before.resident} to {self.resident} bytes"
        if self.journal > ROOM:
            yield f"the journal has {self.journal} bytes"


def _journal(pid: int) -> tuple[int, Legacy]:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            path = f"/proc/{pid}/fd/{fd}"
            if os.readlink(path).startswith("/memfd:journal"):
                journal = os.open(path, os.O_RDONLY)
                try:
                    return os.fstat(journal).st_size, read(journal)
                finally:
                    os.close(journal)
    return 0, Legacy()


def waiting(mount: Mount) -> int | None:
    """Return how many requests the kernel has under way, None when that is not shown here. *Source*: fusectl."""
    mounted = mountinfo.mount_at(str(mount.at))
    with contextlib.suppress(OSError):
        assert mounted is not None
        return int(Path(f"/sys/fs/fuse/connections/{mounted.minor}/waiting").read_text())
    return None


def starved() -> float:
    """Return for how many seconds so far some process has waited for a processor, 0 where the kernel does not count.

    *Source*: Linux, Documentation/accounting/psi.rst.
    """
    with contextlib.suppress(OSError):
        return int(Path("/proc/pressure/cpu").read_text().partition("total=")[2].split()[0]) / 1e6
    return 0.0


def waited(pid: int) -> float:
    """Return for how many seconds a process could have run so far, and did not. *Source*: proc(5), schedstat."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0
