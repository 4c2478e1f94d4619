"""The store's bound, kept by all its processes together: space is reserved before it is written.

    take ──> this process's pool has it ───────────────────────────────────────────────> reserved
         └─> a batch from the quota, within the bounds ──> pool ──> reserved
         └─> not within the bounds ──> says how much must be freed first (eviction.py)

The quota is a file (records.py) with the sum of what is on the disk and what is reserved. What a process has reserved
and not written yet stands in its slot. The invariants:

 Q1  `used` is never less than the bytes on the disk plus the slots: it grows before bytes are written (`_grant`) and
     shrinks after they are gone (`freeing`). So the disk never holds more than the bound.
 Q2  A slot is never less than what its process has yet to write.

A killed process leaves `used` too large, by what stands in its slot. `recount` mends that: it measures the disk and
takes the sum for `used` if it is less. Bytes that go while it measures, it may have seen or not. So recounts are
numbered, and what went while there was one stays counted (Q1), until the next.

Where the file cannot be opened to write, a stand-in in memory that nobody shares takes its place, and nothing is
written to the store, until `join` finds that it can be.

It is not in the catalogue: a grant takes 15 microseconds here and never waits for another's transaction, and the bounds
outlive a catalogue that has to be made anew. Its locks are in locks.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from lazyfs import records
from lazyfs.errors import StoreError
from lazyfs.records import Quota
from lazyfs.store import holes
from lazyfs.store import layout as layouts
from lazyfs.store.layout import Layout
from lazyfs.store.locks import QuotaLocks

log = logging.getLogger(__name__)

LARGEST_BATCH: Final = 16 * 1024 * 1024
"""Bytes reserved in one go at the most; what a killed process may leave reserved until the next recount."""

BATCHES: Final = 128
"""Batches in the bound: so that a few processes together do not hold much of a small one."""

UNKNOWN: Final = 1 << 62
"""What is used until it was measured: with a bound, nothing is reserved before that."""

_PATIENCE: Final = 2.0
"""Seconds to wait for another process's change of the file, which takes microseconds, unless it is stopped in it."""


class QuotaKeeper:
    """This process's part in the quota of an open store; its methods may be called from any thread.

    *Raises*: StoreError, when the file cannot be changed; OSError.
    """

    def __init__(self, layout: Layout) -> None:
        self._path = layout.path
        self._root = layout.root
        self.joined = True  # whether it is the store's own file
        try:
            self._fd = self._open()
        except OSError:
            self._fd, self.joined = self._stand_in(), False
        self._locks = QuotaLocks(self._fd)
        self._owed: dict[str, int] = {}  # bounds that could not be written there yet
        self._mutex = threading.Lock()  # the update lock is one for all threads of this process
        self._pool = 0  # reserved, and nobody has it yet
        self._taken = 0  # reserved, and being written
        self._slot = -1
        self._seen = Quota()
        try:
            self.look()
        except (StoreError, OSError):
            os.close(self._fd)
            raise
        self.damaged = self._seen.used == UNKNOWN and os.fstat(self._fd).st_size > 0  # when it was opened
        if self.damaged:
            log.warning("the store's quota is damaged: set its bounds again with --max-cache and --min-free")

    def join(self) -> None:
        """Work with the store's own file from here on, if that is not so. *Raises*: OSError; StoreError."""
        with self._mutex:
            if not self.joined:
                stand_in, self._fd = self._fd, self._open()
                os.close(stand_in)
                self._locks, self.joined = QuotaLocks(self._fd), True
        if self._owed:
            self.set_bounds(None, None)

    def _open(self) -> int:
        """Open the file to write. *Raises*: OSError."""
        fd = layouts.open_file("quota", self._root, create=True)
        if not layouts.writable(fd):
            os.close(fd)
            raise layouts.read_only()
        return fd

    def _stand_in(self) -> int:
        """Return a file in memory with what can be read of ours. *Raises*: OSError."""
        stand_in = os.memfd_create("quota")
        with contextlib.suppress(OSError):
            fd = layouts.open_file("quota", self._root, create=False)
            try:
                os.pwrite(stand_in, os.pread(fd, records.QUOTA_SIZE, 0), 0)
            finally:
                os.close(fd)
        return stand_in

    def close(self) -> None:
        """Give back what is reserved, and the slot."""
        with contextlib.suppress(StoreError, OSError):
            if self._slot >= 0:
                with self._changing() as quota:
                    self._write_slot(self._slot, 0)
                    self._write(dataclasses.replace(quota, used=max(0, quota.used - self._pool)))
        os.close(self._fd)

    @property
    def clock(self) -> int:
        """The store's logical time, as this process last saw it. *Units*: bytes."""
        return self._seen.clock

    @property
    def room(self) -> int:
        """The bytes among which blocks compete: the bound, or without one what there is."""
        return self._seen.max_cache or self._seen.used

    @property
    def most(self) -> int:
        """The bytes that there is ever room for."""
        return self._seen.max_cache or UNKNOWN

    def look(self) -> Quota:
        """Return the quota as it is now."""
        self._seen = self._read()
        return self._seen

    def set_bounds(self, max_cache: int | None, min_free: int | None) -> None:
        """Set the store's bounds, for all its processes from their next grant on. *Units*: bytes; None: as it is.

        What cannot be written is not forgotten: `join` tries it again.

        *Raises*: StoreError, also when the file system cannot give the room of an evicted block back.
        """
        now = self.look()
        bounds = {"max_cache": max_cache, "min_free": min_free}
        self._owed |= {name: value for name, value in bounds.items() if value is not None}
        changes = {name: value for name, value in self._owed.items() if getattr(now, name) != value}
        if changes:
            if any(changes.values()):
                self._refuse_without_holes()
            with self._mutex, self._changing() as quota:
                self._write(dataclasses.replace(quota, **changes))
            if self.joined:
                os.fdatasync(self._fd)  # a bound outlives a power loss
                layouts.sync(self._root)
        if self.joined:
            self._owed = {}

    def _refuse_without_holes(self) -> None:
        try:
            holes.punch(self._fd, 1 << 30, 1 << 16)  # where nothing is
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            remedy = "put the store on ext4, xfs, btrfs or tmpfs, or go without --max-cache and --min-free"
            raise StoreError(f"the store's file system cannot free parts of a file: {remedy}") from exc

    def take(self, length: int) -> int:
        """Reserve bytes for one block; return 0, or how many must be freed before it is worth trying again.

        Pair it with `written` or `unused`. *Locks*: takes update, for microseconds.
        """
        with self._mutex:
            if self._pool < length and (lacking := self._grant(length)):
                return lacking
            self._pool -= length
            self._taken += length
            return 0

    def take_at_once(self, length: int) -> bool:
        """Reserve bytes for one block if they are in the pool, and nothing else is waited for; otherwise as `take`."""
        if not self._mutex.acquire(blocking=False):
            return False
        try:
            if self._pool < length:
                return False
            self._pool -= length
            self._taken += length
            return True
        finally:
            self._mutex.release()

    def restock(self) -> None:
        """Have so much in the pool, where there is room, that the next blocks are had at once. *Locks*: as `take`."""
        batch = min(LARGEST_BATCH, self.most // BATCHES)
        if self._pool < batch // 2:
            with self._mutex:
                self._grant(batch)

    def written(self, length: int) -> None:
        """Say that bytes which were taken are on the disk."""
        with self._mutex:
            self._taken -= length

    def unused(self, length: int) -> None:
        """Give back bytes that were taken and are not on the disk."""
        with self._mutex:
            self._taken -= length
            self._pool += length

    @contextlib.contextmanager
    def freeing(self, length: int) -> Iterator[None]:
        """Take bytes off the disk inside, and count them no more. *Locks*: takes update, at the end."""
        recounts = self.look().recounts
        yield
        with self._mutex, self._changing() as quota:
            if quota.recounts == recounts:
                self._write(dataclasses.replace(quota, used=max(0, quota.used - length)))

    def excess(self) -> int:
        """Return how many bytes must be freed until the store is within its bounds."""
        return self._lacking(self.look(), 0)

    def recount(self, measure: Callable[[], int]) -> None:
        """Make `used` what `measure` finds on the disk and what is reserved, where that is less, or far more.

        On a full disk it may not be possible to write that down: then it stays as it is.

        Others may go on meanwhile: what they reserve after the slots were read is counted by the clock, and what they
        write from their slots at worst twice. *Locks*: takes update, for microseconds, not while measuring.
        """
        with self._mutex, self._changing() as before:
            reserved = self._live_slots()
        found = measure()
        with self._mutex, self._changing() as quota:
            most = found + reserved + quota.clock - before.clock
            if most < quota.used or quota.used < found:
                with contextlib.suppress(OSError):
                    self._write(dataclasses.replace(quota, used=most, recounts=quota.recounts + 1))

    def _grant(self, length: int) -> int:
        """Move a batch from the quota to the pool; return what is lacking for `length` bytes."""
        with self._changing() as quota:
            batch = max(length, min(LARGEST_BATCH, self.most // BATCHES))
            if self._lacking(quota, batch):
                batch = length
            if lacking := self._lacking(quota, batch):
                return lacking
            if self._slot < 0:
                self._slot = self._free_slot()
            self._pool += batch
            self._write_slot(self._slot, self._pool + self._taken)  # Q2
            self._write(dataclasses.replace(quota, clock=quota.clock + batch, used=quota.used + batch))
        return 0

    def _lacking(self, quota: Quota, length: int) -> int:
        over = quota.used + length - quota.max_cache if quota.max_cache else 0
        if quota.min_free:
            disk = os.fstatvfs(self._root)
            unwritten = self._pool + self._taken  # of ours: it is free now, and will not be
            over = max(over, quota.min_free + unwritten + length - disk.f_bavail * disk.f_frsize)
        return max(0, over)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Quota]:
        """Hold the update lock around a change of the quota. *Raises*: StoreError, when another holds it for 2 s."""
        self._follow()
        deadline = time.monotonic() + _PATIENCE
        while not self._locks.try_update():
            if time.monotonic() > deadline:
                raise StoreError("the store's quota is held by a process that does not go on")
            time.sleep(0.0005)
        try:
            yield self.look()
        finally:
            self._locks.end_update()

    def _follow(self) -> None:
        """Go over to the file that has the name now, if ours was deleted: those who come later have that one.

        It gets our bounds, if it is new, and is measured before anything is reserved. What we had in the pool is lost.
        """
        if not self.joined or os.fstat(self._fd).st_nlink:
            return
        try:
            fd = self._open()
        except OSError:
            return  # what has its name is no file, or read-only: ours does as well
        os.close(self._fd)
        self._fd, self._locks = fd, QuotaLocks(fd)
        self._pool, self._slot = 0, -1

    def _read(self) -> Quota:
        try:
            return records.unpack_quota(os.pread(self._fd, records.QUOTA_SIZE, 0))
        except records.NewerRecord as exc:
            raise StoreError(
                f"the store {self._path}: {exc}; upgrade lazyfs or name another store with --store"
            ) from exc
        except (records.BadRecord, OSError):
            return dataclasses.replace(self._seen, used=UNKNOWN)  # new, damaged, or on a disk that fails

    def _write(self, quota: Quota) -> None:
        os.pwrite(self._fd, records.pack_quota(quota), 0)
        self._seen = quota

    def _free_slot(self) -> int:
        """Take the first slot that is nobody's. *Locks*: update, held; takes the slot's, for good."""
        slot = 0
        while not self._locks.try_slot(slot):
            slot += 1
        return slot

    def _write_slot(self, slot: int, value: int) -> None:
        os.pwrite(self._fd, records.pack_entries(value), records.QUOTA_SIZE + slot * records.SLOT_SIZE)

    def _live_slots(self) -> int:
        """Return what live processes have reserved and may not have written; clear the slots of others."""
        count = max(0, os.fstat(self._fd).st_size - records.QUOTA_SIZE) // records.SLOT_SIZE
        slots = records.unpack_entries(os.pread(self._fd, count * records.SLOT_SIZE, records.QUOTA_SIZE), count)
        reserved = 0
        for slot, value in enumerate(slots):
            if slot == self._slot:
                reserved += self._pool + self._taken
            elif self._locks.slot_is_held(slot):
                reserved += value
            elif value:
                with contextlib.suppress(OSError):
                    self._write_slot(slot, 0)
        return reserved
