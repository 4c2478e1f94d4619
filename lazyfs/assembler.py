"""From a body as it comes to whole blocks."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from lazyfs.extents import Block, Geometry
from lazyfs.origin.client import Answer


class Assembler:
    """Receives a body that begins at byte `start`, a block's first, into whole blocks.

    `head` are bytes of it that are here already. A block of which the body has only a part is dropped.
    """

    def __init__(self, geometry: Geometry, start: int, head: bytes) -> None:
        self._geometry = geometry
        self._index = start // geometry.block_size
        self._head = head

    async def blocks(self, answer: Answer | None) -> AsyncGenerator[tuple[int, Block], None]:
        """Yield the blocks of the head and of what `answer` sends, each as soon as it is whole."""
        filled = len(self._head)
        while self._index < self._geometry.blocks:
            block = bytearray(self._geometry.length(self._index))
            block[:filled] = self._head[:filled]
            if answer is None and filled < len(block):
                return
            if answer is not None and not await _fill(memoryview(block), filled, answer):
                return
            filled = 0
            yield self._index, block
            self._index += 1
        if answer is not None:
            await answer.receive_into(memoryview(bytearray(1)))  # its end, which proves the rest, frees the connection


async def _fill(buffer: memoryview, filled: int, answer: Answer) -> bool:
    """Fill a buffer from where it is filled to; False when the body ends before."""
    while filled < len(buffer):
        count = await answer.receive_into(buffer[filled:])
        if not count:
            return False
        filled += count
    return True
