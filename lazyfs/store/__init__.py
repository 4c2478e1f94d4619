"""The backing store: one directory that every process naming it shares.  Opening it is the way in."""

from __future__ import annotations

import contextlib
import errno
import logging
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from lazyfs import records
from lazyfs.errors import StoreError, StoreTooSmall
from lazyfs.extents import Block, Extent
from lazyfs.options import default_path
from lazyfs.sizes import format_size
from lazyfs.store import layout as layouts
from lazyfs.store import trash
from lazyfs.store.behind import Behind
from lazyfs.store.blobfile import BlobFile, look_into, open_blob, stand_in
from lazyfs.store.catalogue import BlobRow, Catalogue
from lazyfs.store.checking import reclaim
from lazyfs.store.eviction import Evictor
from lazyfs.store.layout import Layout, open_layout
from lazyfs.store.quota import QuotaKeeper
from lazyfs.store.room import Room
from lazyfs.store.trouble import Trouble
from lazyfs.versions import BlobId, Version

__all__ = ["BlobFile", "BlobRow", "Store", "default_path"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_PARTS: Final = (64, 16, 4)
"""Which part of the store is evicted when the disk is full, until it no longer is: btrfs gives the space of a long
write back only when the last of its blocks has gone."""


@dataclass(frozen=True, slots=True)
class Store:
    """An open backing store. *Units*: `block_size` bytes, for blobs that are new to it.

    One whose disk is full, failing or read-only opens all the same, if it is there: what it has is served, and
    `trouble` says why it takes no more.
    """

    layout: Layout
    catalogue: Catalogue
    quota: QuotaKeeper
    evictor: Evictor
    behind: Behind
    block_size: int
    trouble: Trouble = field(default_factory=Trouble)

    @classmethod
    def open(cls, path: Path, block_size: int = records.DEFAULT_BLOCK_SIZE) -> Store:
        """Open the store at `path`, making it if need be. *Raises*: StoreError with one line."""
        try:
            return cls._open(path, block_size)
        except OSError as exc:
            remedy = f"mend it with: lazyfs fsck --repair --store {shlex.quote(str(path))}"
            raise StoreError(f"the store {path} cannot be used: {exc.strerror or exc}; {remedy}") from exc

    @classmethod
    def _open(cls, path: Path, block_size: int) -> Store:
        with contextlib.ExitStack() as undo:
            layout = open_layout(path.absolute())
            undo.callback(layout.close)
            quota = QuotaKeeper(layout)  # first: it changes nothing of a store that it refuses
            undo.callback(quota.close)
            catalogue = Catalogue(layout.catalogue, partial(_blobs_on_disk, layout))
            undo.pop_all()
        behind = Behind(catalogue)
        evictor = Evictor(layout, quota, catalogue.mark_incomplete)
        store = cls(layout, catalogue, quota, evictor, behind, block_size)
        store._join_quota(for_certain=True)
        return store

    def close(self) -> None:
        """Close it; blobs that are still open stay so."""
        self.quota.close()
        if self.behind.close():  # else its thread still uses them, until the process ends
            self.catalogue.close()
            self.layout.close()

    def set_bounds(self, max_cache: int | None, min_free: int | None) -> None:
        """Set the store's bounds, as the quota does; where the disk does not let us, it takes no blocks either.

        *Raises*: StoreError.
        """
        try:
            self.quota.set_bounds(max_cache, min_free)
        except OSError as exc:
            log.warning("the store's bounds stay as they are")
            self.trouble.failed(exc)

    def _join_quota(self, *, for_certain: bool = False) -> None:
        """Have blocks counted where all processes of the store do: before that none are put into it."""
        if not self.trouble.at_rest:
            try:
                self.quota.join()
            except (OSError, StoreError) as exc:
                self.trouble.failed(exc, for_certain=for_certain)

    def open_blob(self, blob_id: BlobId, url: str, size: int, version: Version | None = None) -> BlobFile:
        """Open a blob, making it when it is new, or a stand-in when the disk does not let us; blocks on the disk.

        *Raises*: StoreError; OSError, when no file can be opened at all.
        """
        self._join_quota()
        try:
            blob = open_blob(self.layout, blob_id, size, self.block_size)
        except OSError as exc:
            self.trouble.failed(exc)
            return stand_in(blob_id, size, self.block_size)
        if not blob.writable:
            self.trouble.failed(layouts.read_only())
        self.behind.note(partial(self.catalogue.add_blob, blob_id, url, size, blob.geometry.block_size, version))
        return blob

    def tidy(self) -> None:
        """Delete what was left in the trash, count what is there, and come within the bounds; blocks on the disk.

        *Raises*: StoreError; OSError.
        """
        if self.quota.joined:
            trash.sweep(self.layout)
            self._reclaim()
            self.evictor.recount()
            self.evictor.shrink()

    def _reclaim(self) -> None:
        """Give back what killed writers have left; what is counted of it goes with the next recount."""
        for blob_id in layouts.blob_ids(self.layout):
            unusable = contextlib.suppress(OSError, records.BadRecord)
            with unusable, contextlib.closing(look_into(self.layout, blob_id)) as blob:
                if layouts.disk_bytes(self.layout, blob_id) > blob.present_bytes():
                    reclaim(blob)

    def write(self, file: BlobFile, start: int, blocks: Sequence[Block]) -> list[int]:
        """Put a run of blocks in place and return the checksums to `record`; MISSING for what the store does not take.

        It does not when its bounds leave no room, or its disk fails (`trouble`). Blocks on the disk, also to evict.
        *Locks*: the blocks', held; tries those of others.
        """
        checksums = [records.MISSING] * len(blocks)
        taken = blocks[: self._take(file, blocks)]
        if not taken:
            return checksums
        try:
            checksums[: len(taken)] = self._put(file, start, taken)
        finally:
            self.quota.written(sum(map(len, taken)))
        file.note_arrival(Extent(start, start + len(taken)), self.quota.clock, self.quota.room)
        return checksums

    def _put(self, file: BlobFile, start: int, blocks: Sequence[Block]) -> list[int]:
        """Put blocks in place, all at once, or, if that fails, one by one: a disk that is nearly full takes some."""
        if len(blocks) > 1:
            with contextlib.suppress(OSError):
                return file.write(start, *blocks)
        return [self._put_one(file, index, block) for index, block in enumerate(blocks, start)]

    def _put_one(self, file: BlobFile, index: int, block: Block) -> int:
        try:
            return self.with_room(partial(file.write, index, block), len(block))[0]
        except OSError as exc:
            self.take_back(file, index, exc)
            return records.MISSING

    def _take(self, file: BlobFile, blocks: Sequence[Block]) -> int:
        """Reserve room for blocks, and return for how many of the first there is some."""
        taken = 0
        if self.trouble.at_rest or not (file.writable and self.quota.joined):
            return taken
        try:
            while taken < len(blocks) and self.evictor.take(len(blocks[taken])):
                taken += 1
        except (OSError, StoreError) as exc:
            self.trouble.failed(exc)
        return taken

    def room(self, file: BlobFile, run: Extent) -> Room:
        """Reserve what room there is at once for the first blocks of a run. Never blocks. *Locks*: theirs, held."""
        stop, taken = run.start, file.writable and self.quota.joined and not self.trouble.at_rest
        while taken and stop < run.stop and self.quota.take_at_once(file.geometry.length(stop)):
            stop += 1
        return Room(self.quota, file, Extent(run.start, stop), taken=taken)

    def mark_complete(self, file: BlobFile) -> None:
        """Record, behind, that all of a blob is in the store, if it is: it is synced first. Blocks on the disk.

        *Raises*: OSError.
        """
        file.sync()
        layouts.sync_names(self.layout, file.blob_id)
        if file.complete_now():  # nobody has evicted from it meanwhile
            self.behind.note(partial(self._mark_complete, file.blob_id))

    def _mark_complete(self, blob_id: BlobId) -> None:
        self.catalogue.mark_complete(blob_id)
        unseen = contextlib.suppress(OSError, records.BadRecord)
        with unseen, contextlib.closing(look_into(self.layout, blob_id)) as file:
            if file.complete_now():
                return
        self.catalogue.mark_incomplete([blob_id])  # it was evicted from since

    def record(self, step: Callable[[], None], length: int) -> None:
        """Have `step` record a block that `write` has put in place.

        *Raises*: what `step` raises. *Locks*: as `with_room`.
        """
        self.with_room(step, length)
        self.trouble.succeeded()

    def with_room(self, step: Callable[[], T], length: int) -> T:
        """Do what writes to the disk; when that is full, evict for so many bytes and do it once more.

        *Raises*: what `step` raises. *Locks*: tries blocks, of any blob, and releases them.
        """
        for part in _PARTS:
            try:
                return step()
            except OSError as exc:
                if exc.errno not in _FULL or not self._make_room(length, part):
                    raise
        return step()

    def _make_room(self, length: int, part: int) -> bool:
        try:
            return self.evictor.make_room(length, part)
        except (OSError, StoreError):
            return False

    def take_back(self, file: BlobFile, index: int, why: OSError | None = None) -> None:
        """Give back the room of a block that was written and will not be recorded. *Locks*: the block's, held."""
        if why is not None:
            self.trouble.failed(why)
        try:
            with self.quota.freeing(file.geometry.length(index)):
                file.discard(index)
        except (OSError, StoreError) as exc:
            self.trouble.failed(exc)  # it stays counted, until the next recount

    def refuse_too_large(self, size: int, shown: str) -> None:
        """Refuse to keep a whole blob that is larger than the bound. *Raises*: StoreTooSmall. *Units*: bytes."""
        bound = self.quota.look().max_cache
        if 0 < bound < size:
            most = f"a store of {format_size(bound)} at the most (--max-cache)"
            raise StoreTooSmall(f"{shown}: {format_size(size)} cannot be kept in {most}")

    def why_full(self) -> str:
        """Say why the store does not take what was fetched."""
        if self.trouble.reason:
            reason = f"{self.trouble.reason}; make room, or name another store with --store"
        elif bound := self.quota.look().max_cache:
            full = f"it is full ({format_size(bound)} at the most), and nothing in it may go"
            reason = f"{full}; raise --max-cache, or let blobs go with: lazyfs unpin"
        else:
            reason = "what is written to it cannot be read back; name another with --store"
        return f"the store does not take what was fetched: {reason}"

    def note_uses(self, file: BlobFile, blocks: Iterable[int]) -> None:
        """Note that blocks of a blob were read: hints, which may be lost. Blocks on the disk."""
        file.note_uses(blocks, self.quota.clock, self.quota.room)

    def present_bytes(self, blob_id: BlobId) -> int:
        """Return how many bytes of a blob the store has; blocks on the disk. *Raises*: OSError."""
        try:
            with contextlib.closing(look_into(self.layout, blob_id)) as blob:
                return blob.present_bytes()
        except (FileNotFoundError, records.BadRecord):
            return 0

    def pin(self, blob_id: BlobId, url: str, size: int, version: Version | None = None) -> None:
        """Keep a blob from eviction and removal, whatever of it is there now. *Raises*: StoreError, OSError."""
        with contextlib.closing(self.open_blob(blob_id, url, size, version)):
            layouts.set_pin(self.layout, blob_id)

    def unpin(self, blob_id: BlobId) -> None:
        """Let a blob be evicted and removed again. *Raises*: OSError."""
        layouts.drop_pin(self.layout, blob_id)

    def bytes_on_disk(self) -> int:
        """Return the bytes of blob data that the store keeps on disk; blocks on the disk."""
        return sum(layouts.disk_bytes(self.layout, blob_id) for blob_id in layouts.blob_ids(self.layout))


def _blobs_on_disk(layout: Layout) -> Iterator[BlobRow]:
    """Yield what the blobs say of themselves, for a catalogue that has to be made anew."""
    for blob_id in layouts.blob_ids(layout):
        with contextlib.suppress(OSError, records.BadRecord), contextlib.closing(look_into(layout, blob_id)) as blob:
            if whole := blob.complete():
                blob.sync()
            yield BlobRow(blob_id, "", blob.geometry.size, blob.geometry.block_size, whole, time.time())
