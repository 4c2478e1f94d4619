"""The locks that this process holds are named as the table in locks.py names them."""

from __future__ import annotations

from lazyfs.extents import Extent
from lazyfs.store.held import held
from lazyfs.store.layout import Layout
from tests.unit.stores import BLOB, layout, opened

__all__ = ["layout"]


def test_what_a_blob_has_locked_is_said(layout: Layout) -> None:
    with opened(layout) as blob:
        locks = blob.locks
        assert locks.try_blocks(Extent(1, 3))
        assert locks.try_pass()
        locks.take_lease()
        (line,) = held(layout)
        place, _, names = line.partition(": ")
        assert place == f"blobs/{BLOB[4:6]}/{BLOB}/lock"
        assert set(names.split(", ")) == {"blocks 1-2", "pass", "lease (shared)", "in use (shared)"}
        locks.release_blocks(Extent(1, 2))
        locks.end_pass()
        (line,) = held(layout)
        assert set(line.partition(": ")[2].split(", ")) == {"block 2", "lease (shared)", "in use (shared)"}
    assert list(held(layout)) == []
