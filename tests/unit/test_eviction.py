"""Eviction: what goes first, what never goes, and that its space is given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from lazyfs import records
from lazyfs.extents import Extent
from lazyfs.records import MISSING
from lazyfs.store import BlobFile, Store, eviction
from lazyfs.store.blobfile import look_into
from lazyfs.versions import BlobId

BLOCK = records.MIN_BLOCK_SIZE
BLOCKS = 16
ONE, TWO = (BlobId("url-" + digit * 64) for digit in "12")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with room for 16 blocks; reserved and evicted is a block at a time."""
    monkeypatch.setattr(eviction, "MORE", BLOCKS * BLOCK + 1)
    with closing(Store.open(tmp_path / "store", BLOCK)) as store:
        store.quota.set_bounds(BLOCKS * BLOCK, 0)
        store.tidy()
        yield store


@pytest.fixture
def one(store: Store) -> Iterator[BlobFile]:
    with closing(store.open_blob(ONE, "http://a/one", 40 * BLOCK)) as file:
        yield file


@pytest.fixture
def two(store: Store) -> Iterator[BlobFile]:
    with closing(store.open_blob(TWO, "http://a/two", 40 * BLOCK)) as file:
        yield file


def put(store: Store, file: BlobFile, *blocks: int) -> list[int]:
    """Commit blocks as a fetch does, one after the other; return those that the store took."""
    taken = []
    for index in blocks:
        assert file.locks.try_blocks(Extent(index, index + 1))
        content = bytes([index + 1]) * BLOCK
        if (checksum := store.write(file, index, [content])[0]) != MISSING:
            store.record(partial(file.record, index, checksum), BLOCK)
            taken.append(index)
        file.locks.release_blocks(Extent(index, index + 1))
    return taken


def present(file: BlobFile) -> set[int]:
    """The blocks that can be read, each with its own bytes."""
    found = {}
    for index in range(file.geometry.blocks):
        if (block := file.read(index, wait=True)) is not None:
            found[index] = bytes(block)
    assert found == {index: bytes([index + 1]) * BLOCK for index in found}
    assert len(found) * BLOCK == file.present_bytes()
    return set(found)


def on_disk(store: Store) -> int:
    """How many blocks the data on the disk takes."""
    return store.bytes_on_disk() // BLOCK


def test_the_oldest_goes_when_there_is_no_room(store: Store, one: BlobFile) -> None:
    assert put(store, one, *range(20)) == list(range(20))
    assert present(one) == set(range(4, 20))
    assert on_disk(store) == BLOCKS


def test_it_goes_whichever_blob_it_is_of(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, one, *range(8))
    put(store, two, *range(8))
    put(store, one, *range(8, 20))
    assert present(one) == set(range(8, 20))
    assert present(two) == set(range(4, 8))
    assert on_disk(store) == BLOCKS


def test_a_scan_flushes_nothing_that_is_used_again_and_again(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, one, *range(8))
    put(store, two, *range(5))  # time goes by
    store.note_uses(one, range(8))
    put(store, two, *range(5, 40))
    assert present(one) == set(range(8))
    put(store, one, 8)
    assert present(one) == set(range(9))


def test_what_comes_back_soon_stays(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, one, *range(8))
    put(store, two, *range(16))  # ...which is more than there is room for beside them
    assert not present(one)
    put(store, one, 7)
    put(store, two, *range(16, 40))
    assert present(one) == {7}


def test_of_the_hot_the_one_that_was_not_used_for_longest_goes(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, one, *range(16))
    put(store, two, *range(5))
    store.note_uses(one, range(5, 16))
    put(store, two, 5, 6, 7)  # the cold have a quarter of the room, and pay for one another
    assert present(one) == set(range(5, 16))
    assert present(two) == set(range(3, 8))
    store.note_uses(one, [5, 6])
    put(store, two, 0)  # it comes back soon, so it is hot
    store.evictor.recount()
    put(store, two, 1)
    assert present(one) == {5, 6, *range(8, 16)}
    assert present(two) == {0, 1, *range(4, 8)}


def test_what_is_being_fetched_stays(store: Store, one: BlobFile) -> None:
    put(store, one, *range(16))
    one.locks.try_blocks(Extent(0, 3))
    put(store, one, 16, 17)
    assert present(one) == {0, 1, 2, *range(5, 18)}


def test_for_a_block_that_never_has_room_nothing_is_evicted(store: Store, one: BlobFile) -> None:
    put(store, one, *range(16))
    assert not store.evictor.take(17 * BLOCK)
    assert present(one) == set(range(16))


def test_what_is_pinned_stays_and_then_there_may_be_no_room(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, one, *range(14))
    pin = store.layout.path / "blobs" / "11" / ONE / "pin"
    pin.touch()
    assert put(store, two, *range(6)) == list(range(6))
    assert present(one) == set(range(14))
    assert present(two) == {4, 5}
    put(store, one, 14, 15)
    assert put(store, two, 6, 7) == []  # they are read all the same, and not kept
    assert "full" in store.why_full()
    pin.unlink()
    with mock.patch.object(eviction, "AGAIN", 0.0), mock.patch.object(store.evictor, "_nothing_until", 0.0):
        assert put(store, two, 8) == [8]


def test_a_pin_holds_for_candidates_too(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, one, *range(16))
    put(store, two, 0)
    (store.layout.path / "blobs" / "11" / ONE / "pin").touch()
    left = present(one)
    put(store, two, *range(1, 10))
    assert present(one) == left


def test_what_is_being_filled_stays_for_that_long(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, one, *range(8))
    one.locks.take_lease()
    put(store, two, *range(16))
    assert present(one) == set(range(8))
    one.locks.end_lease()
    store.evictor.recount()
    put(store, two, *range(16, 20))
    assert present(one) == set(range(4, 8))


def test_a_candidate_that_was_used_meanwhile_stays(store: Store, one: BlobFile) -> None:
    put(store, one, *range(17))
    assert present(one) == set(range(1, 17))
    store.note_uses(one, [1, 2])  # now they are hot, and the candidates are those of before
    put(store, one, 17, 18)
    assert present(one) == {1, 2, *range(5, 19)}


def test_two_who_evict_at_once_choose_alike_and_do_not_evict_twice(store: Store, one: BlobFile, tmp_path: Path) -> None:
    put(store, one, *range(16))
    with closing(Store.open(tmp_path / "store", BLOCK)) as other:
        other.evictor.recount()
        store.evictor.recount()
        with closing(look_into(other.layout, ONE)) as theirs:
            put(store, one, 16)
            put(other, theirs, 17)
    assert present(one) == set(range(2, 18))
    assert store.quota.look().used == BLOCKS * BLOCK


def test_a_blob_that_lost_a_block_is_not_called_complete(store: Store, one: BlobFile, two: BlobFile) -> None:
    with closing(store.open_blob(BlobId("url-" + "3" * 64), "http://a/three", 2 * BLOCK)) as three:
        put(store, three, 0, 1)
        store.behind.settle()
        store.catalogue.mark_complete(three.blob_id)
        put(store, one, *range(15))
    assert {row.blob_id: row.complete for row in store.catalogue.blobs()}[three.blob_id] is False


def test_a_lower_bound_is_come_to(store: Store, one: BlobFile) -> None:
    put(store, one, *range(16))
    store.quota.set_bounds(5 * BLOCK, None)
    store.tidy()
    assert present(one) == set(range(11, 16))
    assert on_disk(store) == 5


def test_far_too_much_is_shrunk_without_keeping_a_block_waiting_for_all_of_it(
    store: Store, one: BlobFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "MOST_AT_ONCE", 2 * BLOCK)
    put(store, one, *range(16))
    store.quota.set_bounds(8 * BLOCK, None)
    assert put(store, one, 16) == []
    assert len(present(one)) == 14
    assert put(store, one, 16, 17, 18, 19) == [19]
    assert len(present(one)) == 8


def test_blobs_that_cannot_be_looked_into_are_passed_over(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, two, 0)
    blobs = store.layout.path / "blobs"
    (blobs / "22" / TWO / "map").write_bytes(b"garbage")
    (blobs / "33").touch()
    (blobs / "44" / "strange").mkdir(parents=True)
    (blobs / "55" / ("url-" + "5" * 64)).mkdir(parents=True)
    put(store, one, *range(20))
    assert len(present(one)) == 15


def test_a_short_last_block(store: Store, one: BlobFile) -> None:
    with closing(store.open_blob(TWO, "http://a/two", BLOCK + 100)) as short:
        checksum = store.write(short, 1, [b"x" * 100])[0]
        short.record(1, checksum)
        put(store, one, *range(20))
    store.evictor.recount()
    assert store.quota.look().used <= BLOCKS * BLOCK


@pytest.mark.parametrize("bound", [0, BLOCKS * BLOCK])
def test_a_recount_counts_the_same_with_a_bound_and_without(store: Store, one: BlobFile, bound: int) -> None:
    put(store, one, *range(5))
    store.quota.set_bounds(bound, 0)
    with store.quota.freeing(-100 * BLOCK):
        pass
    store.evictor.recount()
    assert store.quota.look().used == 5 * BLOCK
    store.quota.set_bounds(2 * BLOCK, 0)
    store.evictor.shrink()
    assert present(one) == {3, 4}


def test_what_was_written_and_is_not_recorded_gives_its_room_back(store: Store, one: BlobFile) -> None:
    assert store.write(one, 0, [b"x" * BLOCK]) != [MISSING]
    store.take_back(one, 0)
    assert on_disk(store) == 0
    assert store.quota.look().used == 0


def test_what_a_killed_writer_left_is_given_back(store: Store, one: BlobFile, two: BlobFile) -> None:
    put(store, one, 0, 1)
    for index in (3, 4, 9):
        assert store.write(one, index, [b"x" * BLOCK]) != [MISSING]  # and there it was killed
    two.locks.try_blocks(Extent(7, 8))
    assert store.write(two, 7, [b"x" * BLOCK]) != [MISSING]  # and this one lives
    store.tidy()
    assert on_disk(store) == 3
    assert store.quota.look().used == 3 * BLOCK
    assert present(one) == {0, 1}


def test_a_disk_that_fails_is_left_alone_for_a_while(store: Store, one: BlobFile) -> None:
    with mock.patch.object(BlobFile, "write", side_effect=OSError(5, "Input/output error")) as write:
        assert put(store, one, *range(9)) == []
        assert write.call_count == 3
    assert store.trouble.degraded
    assert store.quota.look().used == 0
    with mock.patch.object(store.trouble, "_until", 0.0):
        assert put(store, one, 0) == [0]
    assert not store.trouble.reason


def test_the_first_block_of_a_new_store_is_taken_though_nothing_can_go(tmp_path: Path) -> None:
    """What is used of a new bound is not known until somebody has looked."""
    with closing(Store.open(tmp_path / "new", BLOCK)) as store:
        store.quota.set_bounds(BLOCKS * BLOCK, 0)
        with closing(store.open_blob(ONE, "http://a/one", 40 * BLOCK)) as file:
            assert put(store, file, 0) == [0]


def test_what_loses_a_block_is_not_marked_complete_any_more_when_it_does(store: Store) -> None:
    with closing(store.open_blob(ONE, "http://a/one", BLOCKS * BLOCK)) as file:
        put(store, file, *range(BLOCKS))
        store.mark_complete(file)
        store.behind.settle()
        evict = BlobFile.evict
        seen: list[bool] = []

        def look_and_evict(blob: BlobFile, index: int, clock: int) -> None:
            seen.extend(row.complete for row in store.catalogue.blobs())
            evict(blob, index, clock)

        with mock.patch.object(BlobFile, "evict", look_and_evict):
            store.quota.set_bounds((BLOCKS - 1) * BLOCK, 0)
            store.evictor.shrink()
    assert seen == [False]


def test_what_another_process_evicts_from_while_it_is_synced_is_not_marked_complete(store: Store) -> None:
    with closing(store.open_blob(ONE, "http://a/one", 2 * BLOCK)) as file:
        put(store, file, 0, 1)
        assert file.complete()
        with closing(look_into(store.layout, ONE)) as other:
            other.evict(0, store.quota.clock)
        store.mark_complete(file)
        store.behind.settle()
    assert [row.complete for row in store.catalogue.blobs()] == [False]
