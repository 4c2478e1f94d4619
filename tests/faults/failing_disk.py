"""Has calls on a store's files fail in processes that failing_disk.c is preloaded into, from outside or from within.

plan = Plan(tmp_path / "plan", below=store)
subprocess.Popen(..., env={**os.environ, **plan.environment(build(tmp_path))})
plan.arm(Fault("EIO", Mode.FROM, 12))
"""

from __future__ import annotations

import enum
import errno
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mounts import run

SOURCE: Final = Path(__file__).with_suffix(".c")

_PLAN = struct.Struct("iiiiqqq4096s")  # struct plan of failing_disk.c
_COUNTS = struct.Struct("qq")
_COUNTS_AT: Final = struct.calcsize("iiiiq")

_READ, _WRITE, _OPEN, _CREATE, _SYNC, _LOCK = (1 << bit for bit in range(6))

KINDS: Final = {
    "EIO": _READ | _WRITE | _OPEN | _CREATE | _SYNC | _LOCK,
    "ENOSPC": _WRITE | _CREATE | _SYNC,
    "EROFS": _WRITE | _CREATE,
    "EMFILE": _OPEN,
}
"""The errors, and which kinds of calls can fail with each."""


class Mode(enum.IntEnum):
    """Which of the calls fail: the n-th, every n-th, or all from the n-th on."""

    ONCE = 1
    EVERY = 2
    FROM = 3


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when."""

    error: str
    mode: Mode
    n: int

    def __str__(self) -> str:
        return f"{self.error} {self.mode.name.lower()} {self.n}"


class Plan:
    """Which calls are to fail, in a file that the processes have mapped. Nothing fails until `arm`."""

    def __init__(self, path: Path, below: Path | None = None) -> None:
        """Make a plan for files `below` a directory; without one, open one that is there."""
        if below is not None:
            path.write_bytes(_PLAN.pack(0, 0, 0, 0, 0, 0, 0, os.fsencode(below)))
        self.path = path
        with path.open("r+b") as file:
            self._plan = mmap.mmap(file.fileno(), 0)

    def environment(self, library: Path) -> dict[str, str]:
        """Return what a process needs in its environment to have its calls fail."""
        return {"LD_PRELOAD": str(library), "FAILING_DISK": str(self.path)}

    def arm(self, fault: Fault) -> None:
        """Let calls fail from here on; the count begins anew."""
        below = _PLAN.unpack_from(self._plan)[-1]
        number = getattr(errno, fault.error)
        self.disarm()
        _PLAN.pack_into(self._plan, 0, fault.mode, number, KINDS[fault.error], 0, fault.n, 0, 0, below)

    def count(self, error: str) -> None:
        """Count the calls that could fail with an error, and let none fail."""
        self.arm(Fault(error, Mode.ONCE, -1))

    def disarm(self) -> tuple[int, int]:
        """Let no more calls fail; return how many were counted, and how many of them failed."""
        self._plan[0:4] = bytes(4)
        counted, failed = _COUNTS.unpack_from(self._plan, _COUNTS_AT)
        return counted, failed


def build(directory: Path) -> Path:
    """Compile what is preloaded. *Raises*: AssertionError with the compiler's words."""
    library = directory / "failing_disk.so"
    run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE])
    return library
