"""What is of no use in a store, and goes: old versions, orphans, leftovers, rows of what is long gone.

An *old version* is a blob whose URL names another blob now, as far as the catalogue knows, and to which no name of a
mount leads. A blob that is known by its digest is never one: whoever names the digest can use it. So what names point
to is served after a restart without the network as before.

An *orphan* is a blob that no row of the catalogue knows. Its row may be lost, or only late: rows are written behind
(behind.py), on a full disk perhaps hours later. So it is listed again, without its URL, which whoever opens it next
tells, and it is of no use when nobody has done so for long. A directory without a map is of no use at once.

What is in use is left alone, and so is what is pinned.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from lazyfs.records import BadRecord, NewerRecord
from lazyfs.store import Store, trash
from lazyfs.store import layout as layouts
from lazyfs.store.blobfile import look_into
from lazyfs.store.removal import Kept, remove
from lazyfs.versions import BlobId

LONG_GONE: Final = 90 * 86400.0
"""Seconds for which nobody asked for a name or a listing of which the store has nothing, or for an orphan."""

Led = Callable[[list[BlobId]], set[BlobId]]
"""Returns those of some blobs to which names of running mounts lead."""


@dataclass
class Collected:
    """What a collection did. *Units*: bytes of the disk; the rest are numbers of blobs, entries, or rows.

    `listed` are orphans that the catalogue knows again.
    """

    old_versions: int = 0
    orphans: int = 0
    listed: int = 0
    leftovers: int = 0
    rows: int = 0
    freed: int = 0
    evicted: int = 0
    kept: Counter[str] = field(default_factory=Counter)


def collect(store: Store, led: Led, max_cache: int | None = None) -> Collected:
    """Remove what is of no use, then evict until the store is within its bounds, or this one for once.

    Blocks on the disk. *Locks*: tries those of blobs; as eviction. *Raises*: OSError; StoreError.
    """
    done = Collected()
    before = trash.disk_bytes(store.layout)
    done.leftovers = trash.sweep(store.layout)
    done.freed = max(0, before - trash.disk_bytes(store.layout))
    there = set(layouts.blob_ids(store.layout))  # before the rows: a blob that comes in between is in use
    done.kept["pinned"] = sum(layouts.is_pinned(store.layout, blob_id) for blob_id in there)
    _drop_rows(store, there, done)
    done.orphans = _remove(store, _orphans(store, there, done), done)
    old = [blob_id for blob_id in store.catalogue.outdated() if blob_id in there]
    named = led(old) if old else set()
    done.kept["named by a mount"] += len(named)
    done.old_versions = _remove(store, (blob_id for blob_id in old if blob_id not in named), done)
    done.rows += store.catalogue.forget_unused(time.time() - LONG_GONE)
    store.evictor.recount()
    # What is reserved and not on the disk yet counts in the store's own bound, but not in one that is for once.
    over = None if max_cache is None else lambda: max(0, store.bytes_on_disk() - max_cache)
    done.evicted = store.evictor.shrink(over)
    return done


def _drop_rows(store: Store, there: set[BlobId], done: Collected) -> None:
    """Drop the rows of blobs that are gone, unless one has come back."""
    for row in store.catalogue.blobs():
        if row.blob_id not in there and not layouts.is_there(store.layout, row.blob_id):
            store.catalogue.drop_blob(row.blob_id, row.last_used)
            done.rows += 1


def _orphans(store: Store, there: set[BlobId], done: Collected) -> list[BlobId]:
    """List orphans again, and return those of no use."""
    rows = store.catalogue.blobs()
    useless = [row.blob_id for row in rows if not row.url and row.last_used < time.time() - LONG_GONE]
    for blob_id in sorted(there.difference(row.blob_id for row in rows)):
        try:
            with contextlib.closing(look_into(store.layout, blob_id)) as blob:
                store.catalogue.add_blob(blob_id, "", blob.geometry.size, blob.geometry.block_size)
                done.listed += 1
        except NewerRecord:
            continue  # who wrote it knows what to do with it
        except (FileNotFoundError, BadRecord):
            useless.append(blob_id)
    return useless


def _remove(store: Store, blob_ids: Iterable[BlobId], done: Collected) -> int:
    """Remove blobs, and return how many that were."""
    removed = 0
    for blob_id in blob_ids:
        outcome = remove(store.layout, store.catalogue, blob_id)
        if isinstance(outcome, Kept):
            done.kept["in use"] += outcome is Kept.IN_USE
        else:
            removed += 1
            done.freed += outcome
    return removed
