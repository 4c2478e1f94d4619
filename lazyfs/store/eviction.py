"""Making room: blocks of blobs are evicted, the least useful first (replacement.py), while others read and fetch.

    look through the whole store ──> some thousand candidates of each queue, in order ──> evict from their heads
            ^                                                                                     │
            └──────────────────────────────────── used up ────────────────────────────────────────┘

A candidate was chosen a while ago, by a look that takes no lock. It is evicted only if, with its block's lock held, it
is still as it was: present, not used since, and of a blob that is neither pinned nor leased, by who fills it or by the
kernel (passage.py). So a block that is being fetched is never touched, and once a blob is pinned, no eviction of it
begins. The map entry goes first, the bytes after: whoever reads it meanwhile, here or in another process, finds bytes
that do not match, which look like a missing block (blobfile.py, I2). Who evicts from a blob uses it: nobody removes it
meanwhile.

Any number of processes may evict at once. They choose alike, and the locks tell them apart.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final, NamedTuple

from lazyfs import replacement
from lazyfs.errors import StoreError
from lazyfs.extents import Extent
from lazyfs.records import MISSING, BadRecord
from lazyfs.store import layout as layouts
from lazyfs.store import trash
from lazyfs.store.blobfile import BlobFile, look_into
from lazyfs.store.layout import Layout
from lazyfs.store.locks import DataLocks
from lazyfs.store.quota import QuotaKeeper
from lazyfs.versions import BlobId

CANDIDATES: Final = 8192
"""Of each queue, from one look through the store."""

MORE: Final = 64
"""A part of the room that is freed beyond what is lacking, so that not every block takes an eviction."""

MOST_AT_ONCE: Final = 64 * 1024 * 1024
"""Bytes beyond which nobody is kept waiting for more room: 256 blocks take some 10 ms."""

GIVES_WAY_AFTER: Final = 8 * 1024 * 1024
"""Bytes that `shrink` frees between two pauses, each as long as that took: nobody waits for it."""

AGAIN: Final = 1.0
"""Seconds until another look for room that was not to be had."""


class Candidate(NamedTuple):
    """A block that may go. They sort by their use, the oldest first."""

    use: int
    blob_id: BlobId
    block: int


class _Queue:
    """The candidates of one kind, cold or hot, and the bytes that there are of this kind in the whole store."""

    def __init__(self) -> None:
        self.bytes = 0
        self.most = 1 << 64  # no use beyond it is among the oldest that were found so far
        self._found: list[Candidate] = []
        self._ordered: deque[Candidate] = deque()

    def __bool__(self) -> bool:
        return bool(self._ordered)

    def add(self, use: int, blob_id: BlobId, block: int) -> None:
        """Take a candidate that a look through the store has found; its use is not beyond `most`."""
        self._found.append(Candidate(use, blob_id, block))
        if len(self._found) > 4 * CANDIDATES:
            self._found = heapq.nsmallest(CANDIDATES, self._found)
            self.most = self._found[-1].use

    def order(self) -> None:
        """Keep the oldest candidates, in order: the look is over."""
        self._ordered, self._found = deque(heapq.nsmallest(CANDIDATES, self._found)), []

    def pop(self) -> Candidate | None:
        """Take the oldest candidate."""
        return self._ordered.popleft() if self._ordered else None


class Evictor:
    """Frees room in the store for this process; its methods block on the disk and may be called from any thread.

    `on_loss` hears which blobs lose blocks, before they do, and once more when they have.
    """

    def __init__(self, layout: Layout, quota: QuotaKeeper, on_loss: Callable[[set[BlobId]], None]) -> None:
        self._layout = layout
        self._quota = quota
        self._on_loss = on_loss
        self._mutex = threading.Lock()
        self._cold, self._hot = _Queue(), _Queue()
        self._looked_at = 0  # the clock when they were found
        self._nothing_until = 0.0  # when to look again for room that was not to be had
        self._stopped = False
        self.evicted = 0  # blocks, by this process so far

    def stop(self) -> None:
        """Let `shrink` end soon: the process ends."""
        self._stopped = True

    def take(self, length: int) -> bool:
        """Reserve bytes for one block, evicting others as need be; False when there is no room to be had.

        Pair it with the quota's `written` or `unused`. *Raises*: OSError; StoreError. *Locks*: tries blocks, of any
        blob, and releases them; takes the quota's.
        """
        if not self._quota.take(length):
            return True
        with self._mutex:
            while lacking := self._quota.take(length):
                if time.monotonic() < self._nothing_until or length > self._quota.most:
                    return False
                if not self._free(lacking + self._quota.room // MORE):
                    if not self._quota.take(length):
                        return True  # the look has counted what is there, and that was less
                    self._nothing_until = time.monotonic() + AGAIN
                    return False
                if lacking > MOST_AT_ONCE:
                    return False
        return True

    def make_room(self, length: int, part: int) -> bool:
        """Evict for one block and a part of the room, although the bounds do not ask for it: the disk is full.

        Returns whether any is evicted. *Raises*, *Locks*: as `take`.
        """
        with self._mutex:
            if time.monotonic() < self._nothing_until:
                return False
            if self._free(length + self._quota.room // part):
                return True
            self._nothing_until = time.monotonic() + AGAIN
            return False

    def shrink(self, excess: Callable[[], int] | None = None) -> int:
        """Evict until the store is within its bounds, however long it takes, or nothing more can go.

        `excess` says instead how many bytes are too many. Returns how many that freed. *Raises*, *Locks*: as `take`.
        """
        freed = 0
        while not self._stopped and (lacking := (excess or self._quota.excess)()):
            began = time.monotonic()
            with self._mutex:
                if not (now := self._free(min(lacking, GIVES_WAY_AFTER))):
                    break
            freed += now
            time.sleep(time.monotonic() - began)
        return freed

    def recount(self) -> None:
        """Look through the store, so that the quota is what is there. *Raises*: OSError; StoreError."""
        with self._mutex:
            quota = self._quota.look()
            if quota.max_cache or quota.min_free:
                self._look_through()
            else:  # who does not evict needs no candidates, and to count blocks is a hundred times as fast
                self._quota.recount(self._count)

    def _free(self, wanted: int) -> int:
        """Evict until so many bytes are free, or a fresh look has found no more; return how many are."""
        freed, fresh = 0, False
        with _Blobs(self._layout) as blobs:
            while freed < min(wanted, MOST_AT_ONCE):
                candidate = self._next(fresh=fresh)
                if candidate is not None:
                    freed += self._evict(blobs, candidate)
                elif fresh:
                    break
                else:
                    self._look_through()
                    fresh = True
            if freed:
                self._tell(blobs.losing)  # once more: it may have been marked complete meanwhile
        return freed

    def _next(self, *, fresh: bool) -> Candidate | None:
        """Take the next candidate; None when it is time to look again, or when there is none."""
        came = self._quota.clock - self._looked_at
        cold_first = replacement.evict_cold(self._cold.bytes + came, self._hot.bytes, self._quota.room)
        first, second = (self._cold, self._hot) if cold_first else (self._hot, self._cold)
        return (second if fresh and not first else first).pop()

    def _evict(self, blobs: _Blobs, candidate: Candidate) -> int:
        """Evict a block unless it is being fetched or has been used; return how many bytes that frees."""
        blob = blobs.get(candidate.blob_id)
        run = Extent(candidate.block, candidate.block + 1)
        if blob is None or not _is_as_it_was(blob, candidate):
            return 0
        blobs.losing.add(candidate.blob_id)
        self._tell({candidate.blob_id})  # each time: who fetched the last one back may have marked it complete since
        if not blob.locks.try_blocks(run):
            return 0
        try:
            if not _is_as_it_was(blob, candidate) or _is_kept(self._layout, blob):
                return 0
            length = blob.geometry.length(candidate.block)
            with self._quota.freeing(length):
                blob.evict(candidate.block, self._quota.clock)
        finally:
            blob.locks.release_blocks(run)
        (self._hot if replacement.is_hot(candidate.use) else self._cold).bytes -= length
        self.evicted += 1
        return length

    def _tell(self, blob_ids: set[BlobId]) -> None:
        """See to it that no blob is marked complete that is not, also after a crash. *Locks*: not that of what goes."""
        with suppress(StoreError):  # room is needed more: on a full disk the catalogue cannot be written either
            self._on_loss(blob_ids)

    def _look_through(self) -> None:
        """Find new candidates, and count what is there on the way."""
        self._looked_at = self._quota.look().clock
        self._quota.recount(self._measure)

    def _measure(self) -> int:
        """Find the candidates, and return how many bytes of blob data are on the disk."""
        self._cold, self._hot = _Queue(), _Queue()
        total = self._count(self._add_blocks)
        self._cold.order()
        self._hot.order()
        return total

    def _count(self, present_in: Callable[[BlobFile], int] = BlobFile.present_bytes) -> int:
        """Return how many bytes of blob data are on the disk; `present_in` says how many of a blob are present.

        What goes to the trash meanwhile is counted twice rather than not at all: the trash comes last.
        """
        total = 0
        for blob_id in layouts.blob_ids(self._layout):
            present = 0
            # One that cannot be opened, for what lies there is no file, has nothing to evict.
            with suppress(OSError, BadRecord), closing(look_into(self._layout, blob_id)) as blob:
                present = present_in(blob)
            with suppress(OSError):
                total += max(present, layouts.disk_bytes(self._layout, blob_id))
        return total + trash.disk_bytes(self._layout)

    def _add_blocks(self, blob: BlobFile) -> int:
        """Find a blob's candidates, and return how many bytes of it are present."""
        if _is_kept(self._layout, blob):
            return blob.present_bytes()
        cold, hot, blocks, hot_blocks, index = self._cold, self._hot, 0, 0, -1
        for index, use in blob.present():  # of a large blob there are a million
            queue = cold
            if replacement.is_hot(use):
                queue, hot_blocks = hot, hot_blocks + 1
            if use <= queue.most:
                queue.add(use, blob.blob_id, index)
            blocks += 1
        unit = blob.geometry.block_size
        hot.bytes += hot_blocks * unit
        cold.bytes += (blocks - hot_blocks) * unit
        if blocks:
            short = unit - blob.geometry.length(index)  # the last one, perhaps of the blob
            queue.bytes -= short
            return blocks * unit - short
        return 0


def _is_as_it_was(blob: BlobFile, candidate: Candidate) -> bool:
    run = Extent(candidate.block, candidate.block + 1)
    return blob.entries(run)[0] != MISSING and blob.uses(run)[0] == candidate.use


class _Blobs:
    """Blobs that are being evicted from, each opened once."""

    def __init__(self, layout: Layout) -> None:
        self.losing = set[BlobId]()  # of which blocks are evicted
        self._layout = layout
        self._open: dict[BlobId, BlobFile | None] = {}

    def __enter__(self) -> _Blobs:
        return self

    def __exit__(self, *_: object) -> None:
        for blob in self._open.values():
            if blob is not None:
                blob.close()

    def get(self, blob_id: BlobId) -> BlobFile | None:
        """Return a blob that is there, and let nobody remove it."""
        if blob_id not in self._open:
            self._open[blob_id] = None
            with suppress(OSError, BadRecord):
                blob = look_into(self._layout, blob_id)
                if blob.claim():
                    self._open[blob_id] = blob
                else:
                    blob.close()
        return self._open[blob_id]


def _is_kept(layout: Layout, blob: BlobFile) -> bool:
    """Say whether nothing of a blob may go."""
    leased = blob.locks.is_leased() or DataLocks(blob.files.data).is_leased()
    return leased or layouts.is_pinned(layout, blob.blob_id)
