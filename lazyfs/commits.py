"""The commits of one blob's blocks: put in place, then recorded; or not, where the store does not take them.

All of it blocks on the disk, and runs in worker threads. *Locks*: the blocks', held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from lazyfs.counters import Counters
from lazyfs.extents import Block, Extent, runs
from lazyfs.records import MISSING
from lazyfs.store import BlobFile, Store
from lazyfs.verify import check_unrecorded, record_verified
from lazyfs.versions import digest_of
from lazyfs.ways import Ways

_UNBOUNDED: Final = 1 << 62


class Commits:
    """Commits blocks. *Raises*: DigestMismatch, for a blob that is known by its digest."""

    def __init__(self, store: Store, file: BlobFile, ways: Ways, counters: Counters) -> None:
        self._store = store
        self._file = file
        self._ways = ways
        self._counters = counters
        self._digest = digest_of(file.blob_id)

    def write(self, blocks: Mapping[int, Block], checksums: dict[int, int]) -> None:
        """Put those blocks in place that are not in `checksums`, and add their checksums, or MISSING."""
        for run in runs(sorted(blocks.keys() - checksums.keys()), _UNBOUNDED):
            written = self._store.write(self._file, run.start, [blocks[index] for index in run.blocks()])
            checksums.update(zip(run.blocks(), written, strict=True))

    def commit(self, blocks: Mapping[int, Block], checksums: dict[int, int]) -> None:
        """Record blocks, each once it is in place (I1), as those in `checksums` are."""
        self.write(blocks, checksums)
        for index in [index for index, checksum in checksums.items() if checksum == MISSING]:
            del checksums[index]
            self._bypass(index, blocks[index])
        if self._digest is None:
            for run in runs(sorted(checksums), _UNBOUNDED):
                self._record(run, partial(self._file.record, run.start, *(checksums[index] for index in run.blocks())))
        else:
            for index, checksum in checksums.items():
                self._record_block(index, blocks[index], checksum)

    def _bypass(self, index: int, block: Block) -> None:
        self._counters.blocks_bypassed += 1
        if self._digest is not None:
            with suppress(OSError):  # on a disk that fails it cannot be known
                check_unrecorded(self._file, index, block, self._ways.shown)

    def _record_block(self, index: int, block: Block, checksum: int) -> None:
        step = partial(self._file.record, index, checksum)
        if self._digest is not None:
            step = partial(record_verified, self._file, index, block, checksum, self._digest, self._ways.shown)
        self._record(Extent(index, index + 1), step)

    def _record(self, run: Extent, step: Callable[[], None]) -> None:
        try:
            self._store.record(step, len(self._file.geometry.bytes_of(run)))
        except OSError as exc:
            for index in run.blocks():
                self._store.take_back(self._file, index, exc)

    def record_written(self, checksums: Mapping[int, int]) -> None:
        """Record blocks that were put in place before they were proven."""
        for index, checksum in checksums.items():
            if checksum == MISSING:
                self._counters.blocks_bypassed += 1
                continue
            try:
                block = self._file.written(index, checksum)
            except OSError as exc:
                self._store.take_back(self._file, index, exc)
                continue
            if block is None:
                self._store.take_back(self._file, index)
            else:
                self._record_block(index, block, checksum)

    def take_back(self, checksums: Mapping[int, int]) -> None:
        """Give back the room of blocks that were put in place and will not be recorded."""
        for index, checksum in checksums.items():
            if checksum != MISSING:
                self._store.take_back(self._file, index)
