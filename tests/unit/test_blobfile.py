"""One blob in the store: what is torn, flipped, cut or punched looks like a missing block."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from lazyfs import records
from lazyfs.errors import StoreError
from lazyfs.extents import Extent
from lazyfs.store import blobfile, trash
from lazyfs.store.blobfile import look_into, stand_in
from lazyfs.store.layout import Layout, open_layout
from tests.unit.stores import BLOB, BLOCK, SIZE, block, directory, fill, in_processes, layout, opened

__all__ = ["layout"]

ALL = Extent(0, 4)


def test_a_new_blob_is_all_missing(layout: Layout) -> None:
    with opened(layout) as blob:
        assert list(blob.missing(ALL)) == [0, 1, 2, 3]
        assert blob.present_bytes() == 0
        assert not blob.complete()
        assert blob.read(0, wait=True) is None
    assert (directory(layout) / "data").stat().st_size == SIZE
    assert (directory(layout) / "data").stat().st_blocks == 0
    assert (directory(layout) / "map").stat().st_size == 64 + 4 * 8


def test_what_was_committed_is_there_for_the_next(layout: Layout) -> None:
    with opened(layout) as blob:
        fill(blob)
        blob.sync()
        assert blob.complete()
    with opened(layout, block_size=4 * BLOCK) as blob:  # a known blob keeps its block size
        assert blob.geometry.block_size == BLOCK
        assert blob.present_bytes() == SIZE
        assert all(bytes(blob.read(index, wait=True) or b"") == block(blob, index) for index in range(4))


def test_present_bytes_are_those_of_one_moment(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may evict the last block while they are counted: never more are told than there can be."""
    with opened(layout, 1000) as blob:
        fill(blob)
        count = records.count_entries

        def counted(data: bytes) -> int:
            found = count(data)
            blob.forget(0)
            return found

        monkeypatch.setattr(records, "count_entries", counted)
        assert blob.present_bytes() == 1000
        assert blob.present_bytes() == 0


def test_present_bytes_with_and_without_the_short_last_block(layout: Layout) -> None:
    with opened(layout) as blob:
        blob.record(3, *blob.write(3, block(blob, 3)))
        assert blob.present_bytes() == 1000
        blob.record(0, *blob.write(0, block(blob, 0)))
        assert blob.present_bytes() == 1000 + BLOCK
        blob.record(3, records.MISSING)
        assert blob.present_bytes() == BLOCK


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_sizes_at_the_edges(layout: Layout, size: int) -> None:
    with opened(layout, size) as blob:
        fill(blob)
        assert blob.complete()
        assert blob.present_bytes() == size


def test_a_large_map_is_looked_at_only_where_something_was_written(layout: Layout) -> None:
    blocks = 1 << 20
    with opened(layout, blocks * BLOCK - 1) as blob:
        there = [0, 1, 300, 500_000, 500_001, blocks - 1]
        for index in there:
            blob.record(index, 1)
        assert sum(map(len, blob.mapped())) < 10_000
        assert [index for index, _use in blob.present()] == there
        assert blob.present_bytes() == len(there) * BLOCK - 1
        assert not blob.complete()
        assert blob.lacks_one()
        blob.record(2, 1)
        assert not blob.lacks_one(), "that is the one it had found"
        assert not blob.complete()
        assert blob.lacks_one()
        for start in range(0, blocks, 1 << 13):
            blob.record(start, *[1] * (1 << 13))
        assert blob.complete()
        assert not blob.lacks_one()
        assert blob.present_bytes() == blob.geometry.size
        blob.record(700_000, records.MISSING)
        assert not blob.complete_now()
        assert blob.present_bytes() == blob.geometry.size - BLOCK


def test_i1_a_write_without_its_record_is_missing(layout: Layout) -> None:
    with opened(layout) as blob:
        blob.write(1, block(blob, 1))
        assert 1 in blob.missing(ALL)
        assert blob.read(1, wait=True) is None


def _flip(directory: Path) -> None:
    with (directory / "data").open("r+b") as file:
        file.seek(BLOCK + 77)
        file.write(bytes([file.read(1)[0] ^ 4]))


def _tear(directory: Path) -> None:
    with (directory / "data").open("r+b") as file:
        file.seek(BLOCK + 4096)
        file.write(bytes(4096))


def _cut(directory: Path) -> None:
    os.truncate(directory / "data", BLOCK + 5)


def _cut_map(directory: Path) -> None:
    os.truncate(directory / "map", 64 + 8 + 3)


def _zero_map(directory: Path) -> None:
    os.truncate(directory / "map", 0)


def _spoil_header(directory: Path) -> None:
    with (directory / "map").open("r+b") as file:
        file.seek(20)
        file.write(b"x")


def _spoil_entry(directory: Path) -> None:
    with (directory / "map").open("r+b") as file:
        file.seek(64 + 8)
        file.write(b"12345678")


@pytest.mark.parametrize("spoil", [_flip, _tear, _cut, _cut_map, _zero_map, _spoil_header, _spoil_entry])
@pytest.mark.parametrize("while_open", [True, False], ids=["while open", "between"])
def test_i2_damage_is_never_given_out(layout: Layout, spoil: object, while_open: bool) -> None:
    assert callable(spoil)
    with opened(layout) as blob:
        fill(blob)
        if while_open:
            spoil(directory(layout))
            assert blob.read(1, wait=True) is None or spoil is _spoil_header
    if not while_open:
        spoil(directory(layout))
    with opened(layout) as blob:
        found = [blob.read(index, wait=True) for index in range(4)]
        assert found[1] is None
        assert all(got in (None, block(blob, index)) for index, got in enumerate(found))
        fill(blob)  # and it can be put right
        assert all(bytes(blob.read(index, wait=True) or b"") == block(blob, index) for index in range(4))


def test_i2_a_block_that_is_evicted_in_mid_read(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(layout) as reader, opened(layout) as evicter:
        fill(evicter)
        preadv = os.preadv

        def evict_first(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
            evicter.record(1, records.MISSING)
            evicter.write(1, bytes(BLOCK))
            return preadv(fd, buffers, offset, flags)

        monkeypatch.setattr(os, "preadv", evict_first)
        assert reader.read(1, wait=True) is None


def test_a_whole_blob_of_which_a_block_is_evicted(layout: Layout) -> None:
    with opened(layout) as blob:
        fill(blob)
        assert blob.complete()
        blob.record(2, records.MISSING)
        assert blob.read(2, wait=True) is None
        assert not blob.complete()


def _make_and_commit(path: Path) -> int:
    layout = open_layout(path)
    with opened(layout) as blob:
        fill(blob)
        return blob.present_bytes()


def test_i4_processes_that_make_a_blob_at_once(tmp_path: Path) -> None:
    assert in_processes(4, _make_and_commit, tmp_path / "store") == [SIZE] * 4


def test_i4_set_up_is_not_done_beside_another(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobfile, "_SET_UP_PATIENCE", 0.0)
    with opened(layout) as blob:
        assert blob.locks.try_set_up()
        with pytest.raises(StoreError, match="try again"), opened(layout):
            pass
        blob.locks.end_set_up()
        with opened(layout):
            pass


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_one_that_rests_keeps_its_lock_and_nothing_else(layout: Layout) -> None:
    before = descriptors()
    with opened(layout) as blob:
        fill(blob)
        assert blob.rest()
        assert blob.rest()
        assert blob.resting
        assert descriptors() == before + 1
        assert trash.stage(layout, BLOB) is None, "it is in use"
        blob.wake(layout)
        assert blob.complete_now()
        assert bytes(blob.read(1, wait=True) or b"") == block(blob, 1)
        assert blob.rest()
    assert descriptors() == before
    staged = trash.stage(layout, BLOB)
    assert staged is not None
    trash.delete(layout, staged)


def test_one_that_is_thrown_away_while_it_rests_does_not_wake_as_another(layout: Layout) -> None:
    before = descriptors()
    with opened(layout) as blob:
        fill(blob)
        assert blob.rest()
        blob.set_aside(layout)
        with pytest.raises(FileNotFoundError):
            blob.wake(layout)
        with opened(layout) as another:  # under the same name
            fill(another)
            with pytest.raises(FileNotFoundError):
                blob.wake(layout)
        assert blob.resting
    assert descriptors() == before


def test_what_is_only_in_memory_does_not_rest(layout: Layout) -> None:
    with contextlib.closing(stand_in(BLOB, SIZE, BLOCK)) as blob:
        assert not blob.rest()
        assert list(blob.missing(ALL)) == [0, 1, 2, 3]
    with opened(layout) as blob:
        fill(blob)
        shutil.rmtree(directory(layout))
        assert not blob.rest()
        assert blob.complete()


def test_what_the_store_has_not(layout: Layout) -> None:
    with pytest.raises(FileNotFoundError):
        look_into(layout, BLOB)


def test_no_descriptor_is_left(layout: Layout) -> None:
    before = os.listdir("/proc/self/fd")
    with opened(layout):
        pass
    (directory(layout) / "data").unlink()
    (directory(layout) / "data").mkdir()
    with pytest.raises(OSError, match="directory"), opened(layout):
        pass
    assert os.listdir("/proc/self/fd") == before
