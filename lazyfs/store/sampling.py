"""A few blocks of a blob that are in the store, any of them."""

from __future__ import annotations

import random

from lazyfs.store.blobfile import BlobFile


def some_present(blob: BlobFile, count: int) -> list[int]:
    """Return some blocks that are marked present, at most so many; reads the whole map."""
    chosen: list[int] = []
    for run in blob.mapped():
        present = sorted(set(run.blocks()).difference(blob.missing(run)))
        chosen = _some([*chosen, *_some(present, count)], count)
    return chosen


def _some(indexes: list[int], count: int) -> list[int]:
    return random.sample(indexes, min(count, len(indexes)))
