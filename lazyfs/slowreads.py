"""The slowest reads of the last minute, and what each waited for: `status` shows them.

Only a read that waits is noted: one that is answered from memory, or from what the kernel has of the store, costs one
small object. What is kept is bounded: the SLOWEST of each PERIOD, for PERIODS of them, and who waits just now.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio

from lazyfs import causes
from lazyfs.errors import LazyfsError, OriginError
from lazyfs.stages import Stages, Why
from lazyfs.versions import BlobId

SLOWEST: Final = 20
"""Reads that are kept of a period, and shown."""

PERIOD: Final = 5.0
PERIODS: Final = 12
"""The minute."""

LEAST: Final = 0.001
"""Seconds: who waits for less is not said to wait."""


class What(Protocol):
    """What is read of."""

    blob_id: BlobId
    path: str


class Waits:
    """How long was waited for what, and after which faults. *Units*: seconds."""

    __slots__ = ("faults", "spent")

    def __init__(self, earlier: Waits | None = None) -> None:
        self.spent: dict[Why, float] = {} if earlier is None else dict(earlier.spent)
        self.faults: list[str] = [] if earlier is None else list(earlier.faults)

    def add(self, why: Why, seconds: float, fault: str = "") -> None:
        """Add some time."""
        self.spent[why] = self.spent.get(why, 0.0) + seconds
        if fault and fault not in self.faults:
            self.faults.append(fault)


class Read:
    """A read under way. *Units*: bytes; seconds, on trio's clock."""

    __slots__ = ("began", "deadline", "error", "length", "offset", "pid", "waits", "what")

    def __init__(self, what: What, offset: int, length: int, timeout: float) -> None:
        self.what = what
        self.offset = offset
        self.length = length
        self.began = trio.current_time()
        self.deadline = self.began + timeout
        self.waits: Waits | None = None  # None as long as it has not waited; without it there is no pid or error either

    def begins_to_wait(self) -> Waits:
        """Return what it waits for so far; notes who reads, once."""
        if self.waits is None:
            self.waits, self.pid, self.error = Waits(), causes.reader.get(), ""
        return self.waits

    def failed(self, error: LazyfsError) -> None:
        """Note why it fails: where that was, its blob says."""
        self.error = error.reason if isinstance(error, OriginError) else str(error)

    @contextmanager
    def on_disk(self) -> Iterator[None]:
        """Wait for the disk while inside."""
        waits, began = self.begins_to_wait(), trio.current_time()
        try:
            yield
        finally:
            waits.add(Why.DISK, trio.current_time() - began)


@dataclass(frozen=True, slots=True)
class SlowRead:
    """A read that has waited. *Units*: bytes; seconds, `at` since the epoch: when it began."""

    at: float
    seconds: float
    blob_id: BlobId
    path: str
    offset: int
    length: int
    pid: int
    command: str
    waits: Waits
    error: str
    under_way: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it as `status` shows it."""
        waits = sorted(self.waits.spent.items(), key=lambda item: -item[1])
        waits = waits[:1] + [(why, seconds) for why, seconds in waits[1:] if seconds >= LEAST]
        return {
            "time": round(self.at, 3),
            "seconds": round(self.seconds, 4),
            "blob": self.blob_id,
            "path": self.path or None,
            "offset": self.offset,
            "length": self.length,
            "pid": self.pid or None,
            "command": self.command or None,
            "why": waits[0][0] if waits else None,
            "waited": {why: round(seconds, 4) for why, seconds in waits},
            "faults": self.waits.faults,
            "error": self.error or None,
            "under_way": self.under_way,
        }


@dataclass(slots=True)
class _Period:
    began: float
    slowest: list[tuple[float, int, SlowRead]] = field(default_factory=list)  # a heap: the fastest of them first


class SlowReads:
    """Those of one process."""

    def __init__(self) -> None:
        self._periods: deque[_Period] = deque(maxlen=PERIODS + 1)
        self._waiting: dict[Read, tuple[Stages, float]] = {}
        self._numbers = itertools.count()

    @contextmanager
    def waiting(self, read: Read, stages: Stages) -> Iterator[None]:
        """Have a read wait for a fetch while inside."""
        waits, began = read.begins_to_wait(), trio.current_time()
        self._waiting[read] = stages, began
        try:
            yield
        finally:
            del self._waiting[read]
            for spent in stages.between(began, trio.current_time()):
                waits.add(*spent)

    def note(self, read: Read) -> None:
        """Take in a read that has waited, and is over."""
        now = trio.current_time()
        if now - read.began < LEAST:
            return
        if not self._periods or now >= self._periods[-1].began + PERIOD:
            self._periods.append(_Period(now))
        slowest = self._periods[-1].slowest
        if len(slowest) < SLOWEST:
            heapq.heappush(slowest, self._numbered(read, now))
        elif now - read.began > slowest[0][0]:
            heapq.heapreplace(slowest, self._numbered(read, now))

    def slowest(self) -> list[SlowRead]:
        """Return those of the last minute and those that wait now, the slowest first."""
        now = trio.current_time()
        found = [
            entry[2] for period in self._periods if now < period.began + PERIOD * PERIODS for entry in period.slowest
        ]
        for read, (stages, since) in self._waiting.items():
            if now - read.began >= LEAST:
                waits = Waits(read.waits)
                for spent in stages.between(since, now):
                    waits.add(*spent)
                found.append(_slow(read, now, waits, under_way=True))
        return sorted(found, key=lambda one: -one.seconds)[:SLOWEST]

    def _numbered(self, read: Read, now: float) -> tuple[float, int, SlowRead]:
        assert read.waits is not None
        slow = _slow(read, now, read.waits)
        return slow.seconds, next(self._numbers), slow


def _slow(read: Read, now: float, waits: Waits, *, under_way: bool = False) -> SlowRead:
    seconds, what = now - read.began, read.what
    return SlowRead(
        time.time() - seconds, seconds, what.blob_id, what.path, read.offset, read.length, read.pid,
        causes.command_of(read.pid), waits, read.error, under_way,
    )  # fmt: skip
