"""Faults in the store's protocol that somebody might make, and the scenario in which the explorer must find each."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

from lazyfs import records, replacement
from lazyfs.extents import Block, Extent
from lazyfs.fetch import Fetcher
from lazyfs.flight import Flight
from lazyfs.store import eviction, passage, trash
from lazyfs.store.blobfile import BlobFile
from lazyfs.store.eviction import Evictor
from lazyfs.store.locks import BlobLocks, QuotaLocks
from lazyfs.store.quota import QuotaKeeper

Plant = Callable[[], AbstractContextManager[Any]]


def _bytes_before_entry() -> AbstractContextManager[Any]:
    def evict(self: BlobFile, index: int, clock: int) -> None:
        self.discard(index)
        self.forget(index)
        self._note(index, replacement.on_eviction(self.uses(Extent(index, index + 1))[0], clock))

    return mock.patch.object(BlobFile, "evict", evict)


def _entry_before_bytes() -> AbstractContextManager[Any]:
    rightly = BlobFile.write

    def write(self: BlobFile, start: int, *blocks: Block) -> list[int]:
        self.record(start, *map(records.checksum, blocks))
        return rightly(self, start, *blocks)

    return mock.patch.object(BlobFile, "write", write)


def _no_look_again() -> AbstractContextManager[Any]:
    async def look_again(self: Fetcher, flight: Flight, locked: Extent) -> list[int]:
        return list(locked.blocks())

    return mock.patch.object(Fetcher, "_look_again", look_again)


def _no_block_lock() -> AbstractContextManager[Any]:
    return mock.patch.object(BlobLocks, "try_blocks", lambda self, run: run)


def _lock_kept() -> AbstractContextManager[Any]:
    return mock.patch.object(BlobLocks, "release_blocks", return_value=None)


def _sweep_without_try() -> AbstractContextManager[Any]:
    return mock.patch.object(BlobLocks, "try_own", return_value=True)


def _no_gate() -> AbstractContextManager[Any]:
    return mock.patch.object(BlobFile, "gate", nullcontext)


def _no_update_lock() -> AbstractContextManager[Any]:
    return mock.patch.multiple(QuotaLocks, try_update=lambda self: True, end_update=lambda self: None)


def _no_claim() -> AbstractContextManager[Any]:
    return mock.patch.object(BlobFile, "claim", return_value=True)


def _pin_looked_at_once() -> AbstractContextManager[Any]:
    rightly, kept = eviction._is_kept, {}

    def is_kept(layout: Any, blob: BlobFile) -> bool:
        if blob not in kept:
            kept[blob] = rightly(layout, blob)
        return kept[blob]

    return mock.patch.object(eviction, "_is_kept", is_kept)


def _no_look_for_locks() -> AbstractContextManager[Any]:
    return mock.patch.object(BlobLocks, "are_held", return_value=False)


def _no_glance() -> AbstractContextManager[Any]:
    return mock.patch.object(passage, "_glance", return_value=passage.Glance((), 0))


def _taken_off_twice() -> AbstractContextManager[Any]:
    @contextlib.contextmanager
    def freeing(self: QuotaKeeper, length: int) -> Iterator[None]:
        yield
        with self._mutex, self._changing() as quota:
            self._write(dataclasses.replace(quota, used=max(0, quota.used - length)))

    return mock.patch.object(QuotaKeeper, "freeing", freeing)


def _trash_measured_first() -> AbstractContextManager[Any]:
    rightly = Evictor._measure

    def measure(self: Evictor) -> int:
        found = trash.disk_bytes(self._layout)
        with mock.patch.object(trash, "disk_bytes", return_value=found):
            return rightly(self)

    return mock.patch.object(Evictor, "_measure", measure)


def _deaf_waiter() -> AbstractContextManager[Any]:
    async def wait_for_others(self: Fetcher, flight: Flight) -> None:
        for index in tuple(flight.blocks):
            self.flights.settle(flight, index)

    return mock.patch.object(Fetcher, "_wait_for_others", wait_for_others)


FAULTS: dict[str, tuple[str, int, Plant]] = {
    "bytes go before their entry": ("read, evict", 0, _bytes_before_entry),
    "an entry is written before its bytes": ("write, write, write", 0, _entry_before_bytes),
    "nobody looks again after locking": ("fetch, fetch", 0, _no_look_again),
    "a block is taken without its lock": ("fetch, fetch", 0, _no_block_lock),
    "a lock is kept": ("fetch, fetch", 0, _lock_kept),
    "a sweep does not try the lock": ("remove, sweep, sweep", 0, _sweep_without_try),
    "there is no gate": ("wrong digest", 0, _no_gate),
    "the quota is changed without its lock": ("take, take", 0, _no_update_lock),
    "an evictor does not use the blob": ("evict, remove, recount", 0, _no_claim),
    "a pin is looked at once": ("pin, evict", 0, _pin_looked_at_once),
    "the kernel reads beside an evictor": ("evict, pass by", 0, _no_look_for_locks),
    "the kernel reads what was evicted": ("pass by, evict, write", 0, _no_glance),
    "what goes is taken off twice": ("evict, recount", 0, _taken_off_twice),
    "the trash is measured first": ("set aside, recount", 0, _trash_measured_first),
    "who waits gives up": ("fetch, fetch", 1, _deaf_waiter),
}
"""By what is wrong: the scenario, how many processes it takes to be killed, and how to plant it."""
