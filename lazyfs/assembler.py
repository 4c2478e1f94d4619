"""From a body as it comes to whole blocks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from lazyfs import buffers
from lazyfs.extents import Block, Extent, Geometry
from lazyfs.origin.client import Answer

LARGEST_PIECE: Final = 1024 * 1024
"""Bytes received in one go at the most: one wake-up for all of them is cheaper than one for each block."""

Piece = list[tuple[int, Block]]
"""Blocks with their indexes, ascending."""


class Assembler:
    """Receives a body that begins at byte `start`, a block's first, into whole blocks.

    `head` are bytes of it that are here already. A block of which the body has only a part is dropped.
    """

    def __init__(self, geometry: Geometry, start: int, head: bytes) -> None:
        self._geometry = geometry
        self._index = start // geometry.block_size
        self._head = head

    async def pieces(self, answer: Answer | None) -> AsyncGenerator[Piece, None]:
        """Yield the blocks of the head and of what `answer` sends, as they become whole.

        The first is received alone, since somebody may wait for it, what follows in pieces that grow. *Raises*: as
        `Answer.receive_into`.
        """
        length, longest = 1, max(1, LARGEST_PIECE // self._geometry.block_size)
        while self._index < self._geometry.blocks:
            run = Extent(self._index, min(self._index + length, self._geometry.blocks))
            blocks = [buffers.unfilled(self._geometry.length(index)) for index in run.blocks()]
            rest = [memoryview(block) for block in blocks]
            while rest:
                whole = len(blocks) - len(rest)
                count = await self._receive_into(rest, answer)
                if not count:
                    return
                buffers.advance(rest, count)
                if more := blocks[whole : len(blocks) - len(rest)]:
                    yield list(enumerate(more, run.start + whole))
            self._index = run.stop
            length = min(length * 2, longest)
        if answer is not None:
            await answer.receive_into(memoryview(bytearray(1)))  # its end, which proves the rest, frees the connection

    async def _receive_into(self, rest: list[memoryview], answer: Answer | None) -> int:
        if self._head:
            count = buffers.put(rest, self._head)
            self._head = self._head[count:]
            return count
        return 0 if answer is None else await answer.receive_into(*rest)
