"""One blob in the store: its sparse data, its map and its locks.

The invariants, each kept by the function in brackets:

 I1  A map entry is written only after the bytes it vouches for are in place (`record` after `write`).
 I2  Bytes leave this module only when they match their map entry (`_verified`).
 I3  The in-use lock is held, shared, from `open_blob` to `close`: while it is, nobody removes the directory.
 I4  `data` and `map` are made under the set-up lock, `map` with its header first (`_set_up`).
 I5  A block's bytes go only after its map entry (`evict`).

From I1, I2 and I5: a torn write, a lost write, a flipped bit, a file cut short, or a block that another process evicts
in mid-read can only look like a missing block. Nothing is synced on the way; `sync` is for whoever marks the blob
complete, or records the last block of one that has a digest. The uses (records.py) never are: they only say what to
evict first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from lazyfs import records, replacement
from lazyfs.buffers import advance, unfilled
from lazyfs.errors import StoreError
from lazyfs.extents import Block, Extent, Geometry, runs
from lazyfs.store import holes, mapping, trash
from lazyfs.store import layout as layouts
from lazyfs.store.files import Files, open_files, open_one, reopen
from lazyfs.store.layout import Layout
from lazyfs.store.locks import BlobLocks
from lazyfs.versions import BlobId, digest_of

_SET_UP_PATIENCE: Final = 5.0
"""Seconds to wait for another process that makes or removes the same blob; each takes well under one."""

_MAP_PIECE: Final = 1 << 13
"""Map entries looked at in one go when a whole map is counted."""

_AT_ONCE: Final = 64
"""Blocks in one call at the most; the system's own limit is 1024."""


class BlobFile:
    """An open blob of the store. Its methods block on the disk; none needs a lock unless it says so."""

    def __init__(self, blob_id: BlobId, geometry: Geometry, files: Files) -> None:
        self.blob_id = blob_id
        self.geometry = geometry
        self.writable = files.writable  # without that nobody locks its blocks, or puts any into it
        self.locks = BlobLocks(files.lock)
        self.files = files
        self._data, self._map = files.data, files.map
        self._writing = (
            threading.Lock()
        )  # one at a time: in the kernel they would wait for each other too, but spinning
        self._gate = threading.Lock()  # for the threads of this process, as the descriptor is one
        self._nowait = os.RWF_NOWAIT
        self._all_before = 0  # every block below it was present when last looked at

    def close(self) -> None:
        """Close the blob. *Locks*: releases all that this process holds of it."""
        self.files.close()

    @property
    def resting(self) -> bool:
        """Whether only its lock is open."""
        return self._data < 0

    def rest(self) -> bool:
        """Close all of its files but the lock, whose locks are held on; only `close` and `wake` may follow.

        Returns whether that is so: not when they could not be found again.
        """
        if not self.resting and self.files.have_names:
            self.files.close_all_but_the_lock()
            self._data = self._map = -1
        return self.resting

    def wake(self, layout: Layout) -> None:
        """Open its files again. *Raises*: FileNotFoundError, when they were taken out of the store; OSError."""
        self.files = reopen(layout, self.blob_id, self.files.lock)
        self._data, self._map = self.files.data, self.files.map

    def claim(self) -> bool:
        """Use a blob that was only looked into; False when it is being removed, or gone. *Raises*: OSError.

        *Locks*: takes in-use shared (held until `close`).
        """
        return self.locks.try_use() and not self.removed

    def entries(self, run: Extent) -> tuple[int, ...]:
        """Return the map entries of a run of blocks; 0 is a missing block, as is one whose entry cannot be read."""
        return records.unpack_entries(self._encoded(run), len(run))

    def _encoded(self, run: Extent) -> bytes:
        try:
            return os.pread(self._map, len(run) * records.ENTRY_SIZE, records.entry_offset(run.start))
        except OSError:
            return b""

    def missing(self, run: Extent) -> Iterator[int]:
        """Yield the missing blocks of a run, ascending."""
        entries = self.entries(run)
        return (index for index, entry in zip(run.blocks(), entries, strict=True) if entry == records.MISSING)

    def read(self, index: int, *, wait: bool) -> bytearray | None:
        """Return a block's bytes, checked; None when it is missing or does not match its entry.

        *Raises*: BlockingIOError without `wait`, when the bytes are not in the page cache; OSError from the disk.
        """
        return self.read_run(Extent(index, index + 1), wait=wait)

    def read_run(self, run: Extent, *, wait: bool) -> bytearray | None:
        """Return the bytes of a run of blocks, each checked; None when one is missing or does not match its entry.

        *Raises*: as `read`.
        """
        entries = self.entries(run)
        if records.MISSING in entries:
            self._all_before = min(self._all_before, run.start + entries.index(records.MISSING))  # it may be evicted
            return None
        extent = self.geometry.bytes_of(run)
        found = unfilled(len(extent))
        if self._read_into(found, extent.start, wait=wait) < len(found):
            return None
        return found if self._verified(found, entries) else None

    def write(self, start: int, *blocks: Block) -> list[int]:
        """Put the bytes of a run of blocks in place and return the checksums for `record`. *Locks*: theirs, held.

        *Raises*: OSError, when the disk is full or fails: then none of them is to be recorded.
        """
        offset = start * self.geometry.block_size
        rest = [memoryview(block) for block in blocks]
        with self._writing:
            while rest:
                written = os.pwritev(self._data, rest[:_AT_ONCE], offset)
                advance(rest, written)
                offset += written
        return [records.checksum(block) for block in blocks]

    def place_of(self, index: int) -> tuple[int, int]:
        """Return where a block belongs: a file that is open as long as this one, and an offset in it."""
        return self._data, index * self.geometry.block_size

    def written(self, index: int, checksum: int) -> bytearray | None:
        """Return the bytes of a block that was written and not recorded yet; None when they do not match.

        *Locks*: the block's, held. *Raises*: OSError.
        """
        block = unfilled(self.geometry.length(index))
        filled = self._read_into(block, index * self.geometry.block_size, wait=True)
        return block if filled == len(block) and self._verified(block, [checksum]) else None

    def record(self, start: int, *checksums: int) -> None:
        """Mark blocks present: their bytes have been written (I1). *Locks*: theirs, held. *Raises*: OSError."""
        os.pwrite(self._map, records.pack_entries(*checksums), records.entry_offset(start))

    def forget(self, index: int) -> None:
        """Mark a block missing, its bytes being wrong. *Locks*: none needed: at worst it is fetched once more.

        *Raises*: OSError.
        """
        self._all_before = min(self._all_before, index)
        self.record(index, records.MISSING)

    def evict(self, index: int, clock: int) -> None:
        """Make a block missing and give its disk space back. *Locks*: the block's, held. *Raises*: OSError.

        Of a blob that is known by its digest it is remembered what the block was. *Units*: `clock` as replacement.py.
        """
        if self.files.sums is not None and (block := self.read(index, wait=True)) is not None:
            self.note_sum(index, block)
        self.forget(index)
        self.discard(index)
        (use,) = self.uses(Extent(index, index + 1))
        self._note(index, replacement.on_eviction(use, clock))

    def discard(self, index: int) -> None:
        """Give back the disk space of a block that is not marked present. *Locks*: the block's, held.

        *Raises*: OSError.
        """
        holes.punch(self._data, index * self.geometry.block_size, self.geometry.block_size)

    def note_sum(self, index: int, block: Block) -> None:
        """Remember what a block is that may have been given out and is not kept. *Raises*: OSError."""
        self._write_sum(index + 1, hashlib.sha256(block).digest())

    def is_as_before(self, index: int, block: Block) -> bool | None:
        """Say whether a block is what it was when it was evicted; None when that is not known. *Raises*: OSError."""
        known = self._read_sum(index + 1)
        if not records.sum_is_known(known):  # the usual case, not worth hashing the block for
            return None
        return records.sum_matches(known, hashlib.sha256(block).digest())

    def note_whole(self, digest: str) -> None:
        """Remember that the whole blob has matched its SHA-256. *Raises*: OSError."""
        self._write_sum(0, bytes.fromhex(digest))

    def was_whole(self, digest: str) -> bool:
        """Say whether the whole blob has once matched its SHA-256. *Raises*: OSError."""
        return records.sum_matches(self._read_sum(0), bytes.fromhex(digest)) is True

    def _write_sum(self, place: int, sha256: bytes) -> None:
        if self.files.sums is not None:
            os.pwrite(self.files.sums, records.pack_sum(sha256), place * records.SUM_SIZE)

    def _read_sum(self, place: int) -> bytes:
        if self.files.sums is None:
            return b""
        return os.pread(self.files.sums, records.SUM_SIZE, place * records.SUM_SIZE)

    def leave_page_cache(self, index: int) -> None:
        """Have the kernel forget a block that it has read, so that the next read is the disk's."""
        geometry = self.geometry
        os.posix_fadvise(self._data, index * geometry.block_size, geometry.block_size, os.POSIX_FADV_DONTNEED)

    def unvouched(self) -> Iterator[int]:
        """Yield the missing blocks that have data on the disk, ascending. *Raises*: OSError.

        File systems may merge or split holes: it says what could be given back, never what is present.
        """
        offset = 0
        while offset < self.geometry.size:
            try:
                start = os.lseek(self._data, offset, os.SEEK_DATA)
                stop = os.lseek(self._data, start, os.SEEK_HOLE)
            except OSError as exc:
                if exc.errno == errno.ENXIO:  # there is only a hole up to the end
                    return
                raise
            on_disk = self.geometry.covering(start, stop - start)
            if not on_disk:
                return
            for position in range(on_disk.start, on_disk.stop, _MAP_PIECE):
                yield from self.missing(Extent(position, min(position + _MAP_PIECE, on_disk.stop)))
            offset = on_disk.stop * self.geometry.block_size

    def too_long(self) -> list[str]:
        """Name the files that are longer than they can be."""
        longest = {
            "data": (self._data, self.geometry.size),
            "map": (self._map, records.entry_offset(self.geometry.blocks)),
        }
        return [name for name, (fd, length) in longest.items() if os.fstat(fd).st_size > length]

    @property
    def removed(self) -> bool:
        """Whether its files have been deleted."""
        return os.fstat(self.files.lock).st_nlink == 0

    def uses(self, run: Extent) -> tuple[int, ...]:
        """Return when the blocks of a run were last used, present or not (replacement.py), as far as that is known."""
        try:
            data = os.pread(self.files.uses, len(run) * records.USE_SIZE, run.start * records.USE_SIZE)
        except OSError:
            data = b""
        return records.unpack_entries(data, len(run))

    def mapped(self, start: int = 0) -> Iterator[Extent]:
        """Yield runs of blocks from `start` on, ascending and of moderate length; all others are missing."""
        return mapping.mapped(self._map, self.geometry.blocks, start)

    def present(self) -> Iterator[tuple[int, int]]:
        """Yield the blocks that are marked present, ascending, each with its use; reads the whole map."""
        for run in self.mapped():
            entries = self.entries(run)
            if entries.count(records.MISSING) < len(entries):
                for index, entry, use in zip(run.blocks(), entries, self.uses(run), strict=True):
                    if entry != records.MISSING:
                        yield index, use

    def note_arrival(self, run: Extent, clock: int, room: int) -> None:
        """Note that blocks come into the store. *Units*: as replacement.py."""
        self._note(run.start, *(replacement.on_arrival(use, clock, room) for use in self.uses(run)))

    def note_uses(self, blocks: Iterable[int], clock: int, room: int) -> None:
        """Note that blocks were read. *Units*: as replacement.py."""
        for run in runs(sorted(blocks), _MAP_PIECE):
            for index, use in zip(run.blocks(), self.uses(run), strict=True):
                if (now := replacement.on_use(use, clock, room)) != use:
                    self._note(index, now)

    def _note(self, start: int, *uses: int) -> None:
        with contextlib.suppress(OSError):  # they are hints
            os.pwrite(self.files.uses, records.pack_entries(*uses), start * records.USE_SIZE)

    def complete(self) -> bool:
        """Say whether every block is marked present; looks only at what was not present the last time."""
        first = self._first_missing(self._all_before)
        self._all_before = self.geometry.blocks if first is None else first
        return first is None

    def lacks_one(self) -> bool:
        """Say whether a block is missing for certain, at a glance: one that was missing the last time still is."""
        first = self._all_before
        return first < self.geometry.blocks and self.entries(Extent(first, first + 1))[0] == records.MISSING

    def complete_now(self) -> bool:
        """The same, and looks at all: another process may have evicted what was present."""
        self._all_before = 0
        return self.complete()

    def only_missing(self, index: int) -> bool:
        """Say whether no block but this one is missing; looks only at what was not present the last time."""
        if self.complete():
            return True
        return self._all_before == index and self._first_missing(index + 1) is None

    def _first_missing(self, start: int) -> int | None:
        for run in self.mapped(start):
            if run.start > start:
                break
            encoded = self._encoded(run)
            if records.count_entries(encoded) < len(run):
                return run.start + records.unpack_entries(encoded, len(run)).index(records.MISSING)
            start = run.stop
        return start if start < self.geometry.blocks else None

    @contextlib.contextmanager
    def gate(self) -> Iterator[None]:
        """Hold the gate: no other thread or process records a block that passes it. *Locks*: gate, for microseconds."""
        with self._gate:
            while not self.locks.try_gate():
                time.sleep(0.0005)
            try:
                yield
            finally:
                self.locks.end_gate()

    def set_aside(self, layout: Layout) -> None:
        """Move this blob to the trash although it is in use; those who have it open go on with what they have.

        *Locks*: takes the gate. *Raises*: OSError.
        """
        with self.gate():
            trash.set_aside(layout, self.blob_id, self.files.lock)

    def present_bytes(self) -> int:
        """Return how many bytes of the blob are marked present; reads the whole map, each entry once."""
        total = 0
        for run in self.mapped():
            encoded = self._encoded(run)
            total += records.count_entries(encoded) * self.geometry.block_size
            last = encoded[(len(run) - 1) * records.ENTRY_SIZE :]
            if run.stop == self.geometry.blocks and records.count_entries(last):
                total -= self.geometry.block_size - self.geometry.length(run.stop - 1)
        return total

    def sync(self) -> None:
        """Make what was committed so far survive a power loss. *Raises*: OSError."""
        os.fdatasync(self._data)
        os.fdatasync(self._map)

    def _read_into(self, block: bytearray, offset: int, *, wait: bool) -> int:
        """Fill `block` from `offset` and return how far it got; short only at the end of the file."""
        view, filled = memoryview(block), 0
        while filled < len(block):
            flags = 0 if wait else self._nowait
            try:
                count = os.preadv(self._data, [view[filled:]], offset + filled, flags)
            except OSError as exc:
                if flags and exc.errno == errno.EOPNOTSUPP:
                    # tmpfs and some others know no RWF_NOWAIT; they have their bytes in memory anyway.
                    self._nowait = 0
                    continue
                raise
            if count == 0:
                break
            filled += count
        return filled

    def _verified(self, found: bytearray, entries: Sequence[int]) -> bool:
        """Let bytes out only when they match (I2)."""
        view, size = memoryview(found), self.geometry.block_size
        return all(records.checksum(view[n * size : (n + 1) * size]) == entry for n, entry in enumerate(entries))


def open_blob(layout: Layout, blob_id: BlobId, size: int, block_size: int) -> BlobFile:
    """Open a blob, making it when it is new; a known one keeps the block size it has.

    *Raises*: StoreError, when what lies there is damaged beyond use or busy for 5 s; OSError from the disk.
    *Locks*: takes in-use shared (held until `close`) and, to make it, set-up. *Units*: bytes.
    """
    deadline = time.monotonic() + _SET_UP_PATIENCE
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
            # What is not found went to the trash between two steps.
            directory = layouts.blob_directory(layout, blob_id, create=True)
            stack.callback(os.close, directory)
            opened = _open_in(layout, blob_id, directory, size, block_size)
            if opened is not None:
                return opened
        if os.fstat(layout.blobs).st_nlink == 0:
            raise StoreError(f"the store {layout.path} was removed while it was in use; mount again")
        if time.monotonic() > deadline:
            raise StoreError(f"blob {blob_id} is being removed or made by another process for too long; try again")
        time.sleep(0.001)


def stand_in(blob_id: BlobId, size: int, block_size: int) -> BlobFile:
    """Return what stands for a blob that cannot be opened: all of it is missing, and stays so. *Raises*: OSError."""
    nothing = os.memfd_create("stand-in")
    sums = os.memfd_create("sums") if digest_of(blob_id) is not None else None
    return BlobFile(blob_id, Geometry(size, block_size), Files(nothing, nothing, nothing, nothing, sums))


def look_into(layout: Layout, blob_id: BlobId) -> BlobFile:
    """Open a blob that the store has, as it is, and without a claim to it: it may be removed meanwhile.

    *Raises*: FileNotFoundError; BadRecord, when its map says nothing; OSError.
    """
    with contextlib.ExitStack() as undo:
        directory = layouts.blob_directory(layout, blob_id, create=False)
        try:
            lock = open_one("lock", directory, undo, create=False)
            files = open_files(blob_id, directory, lock, undo, create=False)
        finally:
            os.close(directory)
        header = records.unpack_map_header(os.pread(files.map, records.MAP_HEADER_SIZE, 0))
        undo.pop_all()
        return BlobFile(blob_id, Geometry(header.size, header.block_size), files)


def _open_in(layout: Layout, blob_id: BlobId, directory: int, size: int, block_size: int) -> BlobFile | None:
    """Open the blob in `directory`; None when another process is at work on it, or has removed it meanwhile."""
    with contextlib.ExitStack() as undo:
        lock = open_one("lock", directory, undo, create=True)
        locks = BlobLocks(lock)
        if not (locks.try_use() and layouts.leads_to(layout, blob_id, directory)):
            return None
        if not layouts.writable(lock):
            files, geometry = _open_as_it_is(blob_id, directory, lock, undo, size)
        elif locks.try_set_up():
            files = open_files(blob_id, directory, lock, undo, create=True)
            geometry = _set_up(files.map, files.data, size, block_size)
            locks.end_set_up()
        else:
            return None
        undo.pop_all()
        return BlobFile(blob_id, geometry, files)


def _open_as_it_is(
    blob_id: BlobId, directory: int, lock: int, undo: contextlib.ExitStack, size: int
) -> tuple[Files, Geometry]:
    """Open a blob on a read-only disk. *Raises*: StoreError; OSError, when it was not made to its end."""
    try:
        files = open_files(blob_id, directory, lock, undo, create=False)
        header = records.unpack_map_header(os.pread(files.map, records.MAP_HEADER_SIZE, 0))
    except (FileNotFoundError, records.BadRecord):
        raise layouts.read_only() from None
    _check_size(header, size)
    return files, Geometry(size, header.block_size)


def _set_up(map_fd: int, data: int, size: int, block_size: int) -> Geometry:
    """Give map and data their header and size where they lack them (I4). *Locks*: set-up, held."""
    try:
        header = records.unpack_map_header(os.pread(map_fd, records.MAP_HEADER_SIZE, 0))
    except records.NewerRecord as exc:
        raise StoreError(f"{exc}; upgrade lazyfs or name another store with --store") from exc
    except records.BadRecord:
        # New, or damaged: with an empty map every block is missing, whatever lies in the data.
        header = records.MapHeader(block_size, size)
        os.ftruncate(map_fd, 0)
        os.pwrite(map_fd, records.pack_map_header(header), 0)
    _check_size(header, size)
    geometry = Geometry(size, header.block_size)
    for fd, length in ((map_fd, records.entry_offset(geometry.blocks)), (data, size)):
        if os.fstat(fd).st_size != length:
            os.ftruncate(fd, length)
    return geometry


def _check_size(header: records.MapHeader, size: int) -> None:
    """Refuse one of two that name the same digest: one is wrong, and nobody knows which. *Raises*: StoreError."""
    if header.size != size:
        raise StoreError(f"the store has a blob with this digest and {header.size} bytes, not {size}")
