"""The block map of a blob as it is now, whoever works on it: looked at without a lock, so nobody waits for who looks.

The locks are asked for first, the map is read after: a block that was committed in between is present, and one that is
still missing was being fetched.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from itertools import islice
from typing import Final

from lazyfs import records
from lazyfs.blockmap import BlockMap, states_of
from lazyfs.extents import Extent
from lazyfs.store import layout as layouts
from lazyfs.store.blobfile import BlobFile, look_into
from lazyfs.store.layout import Layout
from lazyfs.versions import BlobId

MOST_FETCHED: Final = 1000
"""Runs of blocks that are being fetched and are looked for: the kernel takes longer for each, the more there are."""


def survey(layout: Layout, blob_id: BlobId) -> BlockMap:
    """Return the block map of a blob; blocks on the disk, some 20 ms for a million blocks.

    *Raises*: FileNotFoundError, when there is no such blob; BadRecord, when its map says nothing; OSError.
    """
    with closing(look_into(layout, blob_id)) as blob:
        fetched = list(islice(blob.locks.held(Extent(0, blob.geometry.blocks)), MOST_FETCHED))
        found = BlockMap(blob.geometry, _states(blob), pinned=layouts.is_pinned(layout, blob_id))
        for run in fetched:
            found.fetched(run)
        return found


def glance(layout: Layout, blob_id: BlobId) -> tuple[int, bool]:
    """Return how many bytes of a blob are present, and whether somebody fetches any of it. *Raises*: as `survey`."""
    with closing(look_into(layout, blob_id)) as blob:
        return blob.present_bytes(), _is_fetched(blob)


def is_fetched(layout: Layout, blob_id: BlobId) -> bool:
    """Say whether somebody fetches any of a blob. *Raises*: as `survey`."""
    with closing(look_into(layout, blob_id)) as blob:
        return _is_fetched(blob)


def _is_fetched(blob: BlobFile) -> bool:
    return blob.locks.are_held(Extent(0, blob.geometry.blocks))


def _states(blob: BlobFile) -> bytearray:
    states = bytearray(blob.geometry.blocks)
    for run in blob.mapped():
        entries = os.pread(blob.files.map, len(run) * records.ENTRY_SIZE, records.entry_offset(run.start))
        uses = b""
        with suppress(OSError):  # they are hints
            uses = os.pread(blob.files.uses, len(run) * records.USE_SIZE, run.start * records.USE_SIZE)
        states[run.start : run.stop] = states_of(entries, uses, len(run))
    return states
