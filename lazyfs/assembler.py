"""From a body as it comes to whole blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from lazyfs import buffers
from lazyfs.extents import Block, Extent, Geometry
from lazyfs.origin.client import Answer
from lazyfs.origin.connection import hand_over

LARGEST_PIECE: Final = 4 * 1024 * 1024
"""Bytes for which there are buffers at a time: what is received in one go costs one wake-up, however much it is."""

Arrived = Callable[[int, Sequence[Block]], None]
"""Hears, in a worker thread, of blocks that are whole, and of the index of the first; receiving waits for it."""


class Assembler:
    """Receives a body that begins at byte `start`, a block's first, into whole blocks.

    `head` are bytes of it that are here already. A block of which the body has only a part is dropped.
    """

    def __init__(self, geometry: Geometry, start: int, head: bytes) -> None:
        self._geometry = geometry
        self._index = start // geometry.block_size
        self._head = head

    async def receive(self, answer: Answer | None, arrived: Arrived) -> None:
        """Tell of the blocks of the head and of what `answer` sends, each as soon as it is whole.

        The first is received alone, since somebody may wait for it, what follows in pieces that grow. *Raises*: as
        `Answer.receive_into`. *Cancellation*: at any time; what has arrived was told.
        """
        length, longest = 1, max(1, LARGEST_PIECE // self._geometry.block_size)
        while self._index < self._geometry.blocks:
            run = Extent(self._index, min(self._index + length, self._geometry.blocks))
            piece = _Piece(
                run.start, [buffers.unfilled(self._geometry.length(index)) for index in run.blocks()], arrived
            )
            if self._head:
                count = await hand_over(self._head, piece.rest, piece.filled)
                self._head = self._head[count:]
            while piece.rest:
                if answer is None or not await answer.receive_into(*piece.rest, filled=piece.filled):
                    return
            self._index = run.stop
            length = min(length * 4, longest)
        if answer is not None:
            await answer.receive_into(memoryview(bytearray(1)))  # its end, which proves the rest, frees the connection


class _Piece:
    """Some blocks that are being filled, one after the other."""

    def __init__(self, start: int, blocks: Sequence[Block], arrived: Arrived) -> None:
        self.rest = [memoryview(block) for block in blocks]
        self._start = start
        self._blocks = blocks
        self._arrived = arrived

    def filled(self, count: int) -> None:
        """Note that so many more bytes are in place."""
        first = len(self._blocks) - len(self.rest)
        buffers.advance(self.rest, count)
        if whole := self._blocks[first : len(self._blocks) - len(self.rest)]:
            self._arrived(self._start + first, whole)
