"""Which blocks of an open blob were read, written down beside it now and then, so that others are evicted first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from lazyfs.extents import Extent
from lazyfs.store import BlobFile, Store

EVERY: Final = 1.0
"""Seconds for which it is noted in memory only which blocks were read."""

AT_ONCE: Final = 1 << 13
"""Blocks whose use is written down in one go."""


class BlockUses:
    """The uses of one blob's blocks. `begin` has its files open until `end`."""

    def __init__(
        self, file: BlobFile, store: Store, nursery: trio.Nursery, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self._file = file
        self._store = store
        self._nursery = nursery
        self._begin = begin
        self._end = end
        self._used: set[int] = set()  # since that was last written down
        self._due = trio.current_time() + EVERY

    def note(self, index: int) -> None:
        """Note that a block is read, and see to it that this is written down now and then."""
        self._used.add(index)
        now = trio.current_time()
        if now >= self._due:
            self._due = now + EVERY
            used, self._used = self._used, set()
            self._begin()
            self._nursery.start_soon(self._write, [used])

    def note_all(self) -> None:
        """Note that all blocks are read."""
        self._begin()
        blocks = self._file.geometry.blocks
        runs = (Extent(start, min(start + AT_ONCE, blocks)).blocks() for start in range(0, blocks, AT_ONCE))
        self._nursery.start_soon(self._write, runs)

    def write_now(self) -> None:
        """Write down what was noted; the files are open if there is anything. Blocks on the disk."""
        used, self._used = self._used, set()
        if used:
            self._store.note_uses(self._file, used)

    async def _write(self, parts: Iterable[Iterable[int]]) -> None:
        try:
            for part in parts:
                await trio.to_thread.run_sync(self._store.note_uses, self._file, part)
        finally:
            self._end()
