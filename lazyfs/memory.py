"""The blocks in memory that have been checked, bounded in bytes, the least recently used given up first."""

from __future__ import annotations

from collections import OrderedDict

from lazyfs.extents import Block
from lazyfs.versions import BlobId

Key = tuple[BlobId, int]


class CheckedBlocks:
    """Checked blocks of all blobs of a process. *Units*: `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._blocks: OrderedDict[Key, Block] = OrderedDict()
        self._bytes = 0  # the sum of the lengths in _blocks; at most _limit after each call

    def __contains__(self, key: Key) -> bool:
        return key in self._blocks

    def get(self, key: Key) -> Block | None:
        """Return a block, now the most recently used, or None."""
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def drop(self, blob_id: BlobId) -> None:
        """Give up all blocks of a blob."""
        for key in [key for key in self._blocks if key[0] == blob_id]:
            self._bytes -= len(self._blocks.pop(key))

    def add(self, key: Key, block: Block) -> None:
        """Keep a block that has been checked, as long as there is room."""
        old = self._blocks.pop(key, None)
        self._bytes += len(block) - (len(old) if old is not None else 0)
        self._blocks[key] = block
        while self._bytes > self._limit:
            _, given_up = self._blocks.popitem(last=False)
            self._bytes -= len(given_up)
