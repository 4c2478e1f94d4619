"""A blob's block map as a picture: the state of each block, and of cells of several blocks.  Pure.

A million blocks are a million bytes here, one for each. What goes through all of them is done by a few operations on
whole strings of bytes, so that it takes milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final

from lazyfs.extents import Extent, Geometry
from lazyfs.records import ENTRY_SIZE, USE_SIZE


class State(IntEnum):
    """What a block is; a hot one is present, and one that is being fetched is missing."""

    MISSING = 0
    PRESENT = 1
    HOT = 2
    FETCHING = 3


PRESENT: Final = (State.PRESENT, State.HOT)
MISSING: Final = (State.MISSING, State.FETCHING)

KINDS: Final = {"missing": MISSING, "present": PRESENT, "hot": (State.HOT,), "fetching": (State.FETCHING,)}
"""What JSON calls them."""

_RUNS: Final = {
    states: re.compile(b"[" + b"".join(re.escape(bytes([state])) for state in states) + b"]+")
    for states in KINDS.values()
}
_NOT_ZERO: Final = bytes(map(bool, range(256)))
_LOWEST_BIT: Final = bytes(value & 1 for value in range(256))
_FETCHED: Final = bytes([State.FETCHING, *range(1, 256)])
"""What becomes of a block's state when somebody fetches it: only a missing one changes."""


def states_of(entries: bytes, uses: bytes, count: int) -> bytes:
    """Return the states of so many blocks, of which nobody fetches any, from their encoded entries and uses.

    What is too short has missing blocks, or blocks that are not hot, at its end.
    """
    entries, uses = entries.ljust(count * ENTRY_SIZE, b"\0"), uses.ljust(count * USE_SIZE, b"\0")
    columns = (int.from_bytes(entries[byte : count * ENTRY_SIZE : ENTRY_SIZE], "little") for byte in range(ENTRY_SIZE))
    entry = 0  # of each block, all bytes of its entry in one
    for column in columns:
        entry |= column
    present = int.from_bytes(entry.to_bytes(count, "little").translate(_NOT_ZERO), "little")
    hot = int.from_bytes(uses[: count * USE_SIZE : USE_SIZE].translate(_LOWEST_BIT), "little")
    return (present + (present & hot)).to_bytes(count, "little")


@dataclass(frozen=True, slots=True)
class Cell:
    """Some blocks that follow each other, drawn as one: how many they are, and how many of them are what."""

    blocks: int
    present: int
    hot: int
    fetching: int

    @property
    def state(self) -> State:
        """What it is shown as: what happens now comes first, then what most of it is."""
        if self.fetching:
            return State.FETCHING
        if not self.present:
            return State.MISSING
        return State.HOT if 2 * self.hot > self.present else State.PRESENT

    @property
    def quarters(self) -> int:
        """How much of it is present, in quarters: 4 only when all of it is, 0 only when nothing."""
        if self.present == self.blocks:
            return 4
        return min(3, max(1, 4 * self.present // self.blocks)) if self.present else 0


class BlockMap:
    """The states of a blob's blocks at one moment, and whether the blob is pinned."""

    def __init__(self, geometry: Geometry, states: bytearray, *, pinned: bool = False) -> None:
        assert len(states) == geometry.blocks
        self.geometry = geometry
        self.pinned = pinned
        self._states = states

    def fetched(self, run: Extent) -> None:
        """Note that somebody fetches a run of blocks: those of them that are missing."""
        self._states[run.start : run.stop] = self._states[run.start : run.stop].translate(_FETCHED)

    @property
    def complete(self) -> bool:
        """Whether every block is present."""
        return not self.count(*MISSING)

    def count(self, *states: State) -> int:
        """Return how many blocks are in one of these states."""
        return sum(map(self._states.count, states))

    def bytes_in(self, *states: State) -> int:
        """Return how many bytes they have."""
        total = self.count(*states) * self.geometry.block_size
        if self._states and self._states[-1] in states:  # the last one may be short
            total -= self.geometry.block_size - self.geometry.length(len(self._states) - 1)
        return total

    def as_dict(self) -> dict[str, Any]:
        """Return what there is of it in all, as JSON shows it."""
        return {
            "size": self.geometry.size,
            "block_size": self.geometry.block_size,
            "blocks": self.geometry.blocks,
            "complete": self.complete,
            "pinned": self.pinned,
            "bytes": {name: self.bytes_in(*states) for name, states in KINDS.items()},
        }

    def runs(self, *states: State) -> Iterator[Extent]:
        """Yield the runs of blocks in one of some states that go together: PRESENT, MISSING, or a single one."""
        found = _RUNS[states] if states in _RUNS else re.compile(re.escape(bytes(states)) + b"+")
        yield from (Extent(*match.span()) for match in found.finditer(self._states))

    def cells(self, most: int) -> tuple[int, Sequence[Cell]]:
        """Return how many blocks a cell stands for, a power of two, and the cells, no more than `most`."""
        blocks, each = len(self._states), 1
        while blocks > most * each:
            each *= 2
        bounds = [*range(0, blocks, each), blocks]
        return each, [self._cell(start, stop) for start, stop in pairwise(bounds)]

    def _cell(self, start: int, stop: int) -> Cell:
        hot = self._states.count(State.HOT, start, stop)
        cold = self._states.count(State.PRESENT, start, stop)
        return Cell(stop - start, cold + hot, hot, self._states.count(State.FETCHING, start, stop))
