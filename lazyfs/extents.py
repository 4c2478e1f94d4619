"""Half-open runs of blocks, and the arithmetic between bytes and blocks.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Block = bytes | bytearray
"""The bytes of one block; nobody changes them."""


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A half-open run `[start, stop)` of bytes or of blocks; empty when the two are equal."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not an extent: [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and self.start <= index < self.stop

    def blocks(self) -> range:
        """The indexes in it, ascending."""
        return range(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a blob of `size` bytes falls into blocks of `block_size`; the last one may be short."""

    size: int
    block_size: int

    @property
    def blocks(self) -> int:
        """How many blocks there are; 0 for an empty blob."""
        return -(-self.size // self.block_size)

    def covering(self, offset: int, length: int) -> Extent:
        """The blocks that hold the bytes `[offset, offset + length)`, cut at the end of the blob."""
        stop = min(offset + length, self.size)
        if offset >= stop:
            return Extent(0, 0)
        return Extent(offset // self.block_size, -(-stop // self.block_size))

    def bytes_of(self, run: Extent) -> Extent:
        """The bytes of a run of blocks, cut at the end of the blob."""
        return Extent(run.start * self.block_size, min(run.stop * self.block_size, self.size))

    def length(self, index: int) -> int:
        """The length of one block in bytes."""
        return min(self.block_size, self.size - index * self.block_size)


def runs(indexes: Iterable[int], longest: int) -> Iterator[Extent]:
    """Join ascending indexes into maximal runs, none longer than `longest` blocks."""
    start = stop = -1
    for index in indexes:
        if index == stop and stop - start < longest:
            stop += 1
            continue
        if start >= 0:
            yield Extent(start, stop)
        start, stop = index, index + 1
    if start >= 0:
        yield Extent(start, stop)


def trimmed(blocks: Sequence[Block], held: Extent, offset: int, length: int) -> list[memoryview]:
    """Return the bytes `[offset, offset + length)` of what blocks that follow each other hold, in pieces of them."""
    pieces = [memoryview(block) for block in blocks]
    if (surplus := held.stop - (offset + length)) > 0:
        pieces[-1] = pieces[-1][:-surplus]
    pieces[0] = pieces[0][offset - held.start :]
    return pieces
