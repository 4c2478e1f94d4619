"""What earlier runs have asked for of a blob, fetched in front of who reads it now.  Pure.

A profile's blocks are gone through in its order, some at a time: of these the ones that are missing, and that nobody
has asked for yet, are joined to runs and fetched, as prefetch, so that all else goes first. Two bounds hold:

- Under way is no more of the blob, whoever wants it, than the origin delivers in `LASTS` and some round trips. More
  would only lie in front of what a reader asks for that no profile has foreseen.
- Fetched and not asked for yet is no more than `AT_FIRST` and what was asked for so far, nor than this blob's share of
  what is fetched ahead, since it must be kept until it is read. So a profile that is wrong costs little, one that is
  right is believed more and more, and who leaves it ends it.

It is looked at after each read, and whenever something has come in (blob.py), as readahead is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from lazyfs.extents import Extent, Geometry, runs
from lazyfs.pace import Pace
from lazyfs.readahead import LATENCIES, SOON, Budget

AT_FIRST: Final = 4 * 1024 * 1024
"""Bytes that are fetched before anybody has asked for one of them, but a block at the least.

With 16 MiB the profile of another boot cost 9 % over a link of 100 Mbit/s, with this 2 %, and a right one does as well.
"""

LASTS: Final = 0.16
"""Seconds for which what is under way lasts, beside the round trips; half of it is the most that is put in order."""

UNKNOWN: Final = 4 * 1024 * 1024
"""Bytes under way while the origin's pace is not known."""

SMALLEST: Final = 1024 * 1024
LARGEST: Final = 16 * 1024 * 1024
"""Bytes of the profile that are put in order at a time, and joined where they touch."""


class Run(Protocol):
    """What an open blob tells of its readers, and asks what to fetch for them (recording.py)."""

    def on_read(self, run: Extent) -> None:
        """Note that a reader asks for blocks."""

    def next(
        self, due: int, pace: Callable[[], Pace | None], now: float, missing: Callable[[Extent], Iterable[int]]
    ) -> Iterable[Extent]:
        """Return the runs to fetch now; as `Replay.next`."""

    def end(self) -> None:
        """Note that nobody has the blob open any more."""


class Replay:
    """One profile's way ahead of the readers of one blob; `asked` has what they have asked for, and grows."""

    def __init__(self, geometry: Geometry, blocks: Sequence[int], asked: dict[int, None], budget: Budget) -> None:
        self._geometry = geometry
        self._blocks = blocks
        self._asked = asked
        self._budget = budget
        self._place = 0  # the first that was not looked at
        self._ahead = set[int]()  # launched, and not asked for yet
        self._used = 0  # bytes that were launched, and asked for then
        self._stalled = 0  # bytes for which there was no room, if nobody has asked for anything new since

    def on_new(self, index: int) -> None:
        """Note that a block is asked for the first time."""
        self._stalled = 0
        if index in self._ahead:
            self._ahead.discard(index)
            self._used += self._geometry.block_size

    def next(
        self, due: int, pace: Callable[[], Pace | None], now: float, missing: Callable[[Extent], Iterable[int]]
    ) -> Iterator[Extent]:
        """Yield the runs of blocks to fetch now, while `due` bytes of the blob are under way.

        `missing` says which blocks of a run the store lacks. *Units*: bytes, seconds.
        """
        if self._place >= len(self._blocks):
            return
        size = self._geometry.block_size
        most = min(max(AT_FIRST, size) + self._used, self._budget.share(self, now))
        room = most - len(self._ahead) * size
        if room < self._stalled:
            return
        part, pipe = self._measure(pace(), most)
        count = max(1, part // size)
        while self._place < len(self._blocks) and due + count * size <= pipe:
            batch = sorted(self._lacking(self._blocks[self._place : self._place + count], missing))
            fetched = len(batch) * size
            if fetched > room:
                self._stalled = fetched
                return
            self._place += count
            self._ahead.update(batch)
            due, room = due + fetched, room - fetched
            yield from runs(batch, count)

    def _measure(self, pace: Pace | None, most: int) -> tuple[int, int]:
        """Return how many bytes of the profile to put in order at a time, and how many may be under way."""
        if pace is None:
            part, round_trips = SMALLEST, UNKNOWN - 2 * SMALLEST
        else:
            part = min(max(SMALLEST, int(pace.rate * LASTS / 2)), LARGEST, most // 2)
            round_trips = int(pace.rate * max(LATENCIES * pace.latency, SOON))
        part = max(part, self._geometry.block_size)
        return part, 2 * part + round_trips

    def _lacking(self, blocks: Iterable[int], missing: Callable[[Extent], Iterable[int]]) -> Iterator[int]:
        """Yield those of some blocks that nobody has asked for, and that are not in the store."""
        for run in runs(sorted(index for index in blocks if index not in self._asked), len(self._blocks)):
            yield from missing(run)
