"""Removing a whole blob: its directory first, then what the catalogue says of it, then its bytes.

    row no longer "complete", synced
      ──> blobs/ab/ID/ ──rename, in-use lock held (trash.py)──> trash/ ──> row dropped ──> bytes deleted, lock released

A process that is killed between two of these steps leaves a row whose directory is gone, or an entry of the trash:
gc.py takes care of the one, whoever sweeps the trash next of the other. With the row dropped first, nobody would list
the blob any more. A reader that comes in between makes the blob anew: its row is younger than the removal, and stays.

The first step is there for a power loss, which may keep the rename and lose the drop: else the row would call complete
what is gone, or what has come again since in part. It is done before the lock is taken, for which whoever opens the
blob waits. Should that be in use, it is whole and not marked so, which costs nobody anything.
"""

from __future__ import annotations

import contextlib
import enum
import time

from lazyfs.errors import StoreError
from lazyfs.store import layout as layouts
from lazyfs.store import trash
from lazyfs.store.catalogue import Catalogue
from lazyfs.store.layout import Layout
from lazyfs.versions import BlobId


class Kept(enum.Enum):
    """Why a blob was not removed."""

    PINNED = enum.auto()
    IN_USE = enum.auto()
    NOT_THERE = enum.auto()


def remove(layout: Layout, catalogue: Catalogue, blob_id: BlobId) -> int | Kept:
    """Remove a blob and return how many bytes of the disk that frees; blocks on the disk.

    The quota counts them until its next recount. *Locks*: tries in-use, exclusively. *Raises*: OSError; StoreError.
    """
    with contextlib.suppress(StoreError):  # on a full disk the room is needed more
        catalogue.mark_incomplete([blob_id])
    staged = trash.stage(layout, blob_id)
    if staged is None:
        return _why(layout, catalogue, blob_id)
    try:
        catalogue.drop_blob(blob_id, time.time())
    finally:
        freed = trash.delete(layout, staged)
    return freed


def _why(layout: Layout, catalogue: Catalogue, blob_id: BlobId) -> Kept:
    """Say why a blob could not be staged; of one that has no directory, forget the row."""
    row = catalogue.blob(blob_id)
    if layouts.is_there(layout, blob_id):
        return Kept.PINNED if layouts.is_pinned(layout, blob_id) else Kept.IN_USE
    if row is not None:
        catalogue.drop_blob(blob_id, row.last_used)
    return Kept.NOT_THERE
