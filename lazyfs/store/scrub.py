"""The scrub: idle blobs are looked through, block by block, so that rot is found before somebody reads it.

    position ── next block of a blob that nobody has open ── sound: go on
        ^                                                └── damaged: it becomes missing, and is fetched when it is read
        └── kept in the file `scrub`, now and then; after the last blob it rests until a day after the round began

One process of a store does it at a time; when that ends, another goes on where it was. What is read for it leaves the
page cache again, and is read from the disk, not from there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from lazyfs import records
from lazyfs.records import BadRecord, ScrubPosition
from lazyfs.store import layout as layouts
from lazyfs.store.blobfile import BlobFile, look_into
from lazyfs.store.checking import Verdict, check_block, drop_block
from lazyfs.store.layout import Layout
from lazyfs.store.locks import StoreLocks
from lazyfs.store.quota import QuotaKeeper
from lazyfs.versions import BlobId

ROUND: Final = 86_400.0
"""Seconds from the beginning of one round to that of the next, at the least."""

KEEP_EVERY: Final = 64
"""Blocks after which the position is written down."""

_END: Final = "z"  # behind every blob's id


class Looked(NamedTuple):
    """What a step has looked at. *Units*: bytes."""

    length: int
    damaged: bool


class Scrub:
    """This process's part in the scrub of a store; its methods block on the disk, and are called one at a time.

    `on_dropped` hears which blobs have lost blocks. *Raises*: OSError.
    """

    def __init__(self, layout: Layout, quota: QuotaKeeper, on_dropped: Callable[[Iterable[BlobId]], None]) -> None:
        self._layout = layout
        self._quota = quota
        self._on_dropped = on_dropped
        self._fd = layouts.open_file("quota", layout.root, create=True)
        self._ours = False
        self._position = ScrubPosition()
        self._steps: Iterator[Looked] = iter(())
        self._unkept = 0  # blocks since the position was written down

    def close(self) -> None:
        """Let another process go on."""
        if self._unkept:
            self._keep()
        self._steps = iter(())
        os.close(self._fd)

    def step(self) -> Looked | None:
        """Look at the next block; None when there is nothing to do for now.

        *Locks*: takes scrub, if it is free, until `close`; tries the block's.
        """
        if not self._ours:
            if not StoreLocks(self._fd).try_scrub():
                return None
            self._ours = True
            self._position = self._kept()
            self._steps = self._round()
        looked = next(self._steps, None)
        if looked is None:
            self._rest()
            return None
        self._unkept += 1
        if self._unkept >= KEEP_EVERY:
            self._keep()
        return looked

    def _rest(self) -> None:
        """End a round, or begin one when it is time."""
        now = int(time.time())
        if self._position.blob_id != _END:
            self._position = ScrubPosition(self._position.began, _END)
            self._keep()
        if not now - ROUND < self._position.began <= now:
            self._position = ScrubPosition(now)
            self._steps = self._round()

    def _round(self) -> Iterator[Looked]:
        """Look at what is left of a round."""
        first = self._position
        for blob_id in sorted(layouts.blob_ids(self._layout)):
            if blob_id >= first.blob_id:
                start = first.block if blob_id == first.blob_id else 0
                # A blob that cannot be opened is for fsck.
                with contextlib.suppress(OSError, BadRecord), contextlib.closing(self._open(blob_id)) as blob:
                    yield from self._look_through(blob, start)

    def _look_through(self, blob: BlobFile, start: int) -> Iterator[Looked]:
        for index, _ in blob.present():
            if index >= start:
                if blob.removed or blob.locks.is_in_use():
                    return
                yield self._look(blob, index)
                self._position = ScrubPosition(self._position.began, blob.blob_id, index + 1)

    def _look(self, blob: BlobFile, index: int) -> Looked:
        blob.leave_page_cache(index)
        verdict, _ = check_block(blob, index, self._drop)
        blob.leave_page_cache(index)
        length = blob.geometry.length(index)
        if verdict is Verdict.DAMAGED:
            self._on_dropped([blob.blob_id])
        return Looked(length, verdict is Verdict.DAMAGED)

    def _drop(self, blob: BlobFile, index: int) -> None:
        with self._quota.freeing(blob.geometry.length(index)):
            drop_block(blob, index)

    def _open(self, blob_id: BlobId) -> BlobFile:
        return look_into(self._layout, blob_id)

    def _kept(self) -> ScrubPosition:
        try:
            with os.fdopen(layouts.open_file("scrub", self._layout.root, create=False), "rb") as file:
                kept = records.unpack_scrub(file.read(256))
        except FileNotFoundError:
            kept = ScrubPosition()
        return kept if kept.began else ScrubPosition(int(time.time()))

    def _keep(self) -> None:
        self._unkept = 0
        with os.fdopen(layouts.open_file("scrub", self._layout.root, create=True), "r+b") as file:
            file.write(records.pack_scrub(self._position))
            file.truncate()
