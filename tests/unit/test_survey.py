"""The block map of a blob in the store, beside those who work on it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from lazyfs.blockmap import MISSING, PRESENT, State
from lazyfs.extents import Extent
from lazyfs.records import pack_entries
from lazyfs.store import layout as layouts
from lazyfs.store.layout import Layout
from lazyfs.store.locks import BlobLocks
from lazyfs.store.survey import glance, survey
from tests.unit.stores import BLOB, BLOCK, fill, layout, opened

__all__ = ["layout"]


def test_a_blob_that_is_not_there(layout: Layout) -> None:
    with pytest.raises(FileNotFoundError):
        survey(layout, BLOB)


def test_every_state_is_seen(layout: Layout) -> None:
    with opened(layout, 100 * BLOCK) as blob:
        for index in (3, 4, 50, 99):
            blob.record(index, 1)
        os.pwrite(blob.files.uses, pack_entries(3, 3), 4 * 8)  # the second is of no block that is present
        assert blob.locks.try_blocks(Extent(10, 20))
        assert blob.locks.try_blocks(Extent(48, 52))
        found = survey(layout, BLOB)
        assert list(found.runs(*PRESENT)) == [Extent(3, 5), Extent(50, 51), Extent(99, 100)]
        assert list(found.runs(State.HOT)) == [Extent(4, 5)]
        assert list(found.runs(State.FETCHING)) == [Extent(10, 20), Extent(48, 50), Extent(51, 52)]
        assert (found.pinned, found.complete) == (False, False)
        assert glance(layout, BLOB) == (4 * BLOCK, True)
        layouts.set_pin(layout, BLOB)
        fill(blob)
        blob.locks.release_blocks(Extent(0, 100))
    found = survey(layout, BLOB)
    assert (found.pinned, found.complete) == (True, True)
    assert found.count(*MISSING) == 0
    assert glance(layout, BLOB) == (100 * BLOCK, False)


def test_a_million_blocks_with_a_few_of_them_there(layout: Layout) -> None:
    with opened(layout, 1 << 36) as blob:
        blob.record(123_456, 1)
        blob.record((1 << 20) - 1, 1)
        found = survey(layout, BLOB)
    assert [run.start for run in found.runs(*PRESENT)] == [123_456, (1 << 20) - 1]


def test_looking_keeps_nobody_out(layout: Layout) -> None:
    with opened(layout) as blob:
        survey(layout, BLOB)
        assert len(blob.locks.try_blocks(Extent(0, 4))) == 4
        blob.locks.release_blocks(Extent(0, 4))
    assert not list((layout.path / "trash").iterdir())


def test_all_locks_of_others_are_found_among_many(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    with closing(_Locks(place)) as ours, closing(_Locks(place)) as one, closing(_Locks(place)) as other:
        held = {Extent(start, start + 1 + start % 3) for start in range(2, 1000, 7)}
        for number, run in enumerate(held):
            (one, other)[number % 2].locks.try_blocks(run)
        one.locks.try_use()
        assert ours.locks.try_blocks(Extent(2000, 2010))
        assert set(ours.locks.held(Extent(0, 3000))) == held, "but for ours"
        assert set(ours.locks.held(Extent(3, 10))) == {Extent(3, 5), Extent(9, 10)}, "cut at the ends"
        assert list(ours.locks.held(Extent(0, 0))) == []


class _Locks:
    def __init__(self, place: Path) -> None:
        self._fd = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        self.locks = BlobLocks(self._fd)

    def close(self) -> None:
        """Close it, and release them."""
        os.close(self._fd)
