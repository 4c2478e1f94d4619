"""The scrub: it goes round, finds rot in idle blobs, leaves the others alone, and ends at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from lazyfs import records, scrubbing
from lazyfs.counters import Counters
from lazyfs.extents import Extent
from lazyfs.store import Store
from lazyfs.store import scrub as scrubs
from lazyfs.store.scrub import Looked, Scrub
from lazyfs.versions import BlobId
from tests import fakes
from tests.unit.stores import BLOB, BLOCK, SIZE, directory, fill

OTHER = BlobId("url-" + "cd" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with two blobs of four blocks."""
    with contextlib.closing(Store.open(tmp_path / "store", BLOCK)) as store:
        store.tidy()
        for blob_id in (BLOB, OTHER):
            with contextlib.closing(store.open_blob(blob_id, "http://h/x", SIZE)) as blob:
                fill(blob)
        yield store


@contextlib.contextmanager
def scrubbing_of(store: Store) -> Iterator[Scrub]:
    with contextlib.closing(Scrub(store.layout, store.quota, store.catalogue.mark_incomplete)) as scrub:
        yield scrub


def spoil(store: Store, index: int) -> None:
    with (directory(store.layout) / "data").open("r+b") as file:
        file.seek(index * BLOCK)
        file.write(b"rot")


def looks(scrub: Scrub) -> list[Looked]:
    """Step until there is nothing to do for now."""
    return list(iter(scrub.step, None))


def test_it_looks_at_each_block_once_a_round_and_goes_round(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    with scrubbing_of(store) as scrub:
        assert [looked.length for looked in looks(scrub)] == [BLOCK, BLOCK, BLOCK, 1000] * 2
        assert looks(scrub) == []
        now[0] += scrubs.ROUND
        assert looks(scrub) == [], "which begins the next one"
        assert len(looks(scrub)) == 8


def test_rot_becomes_a_missing_block(store: Store) -> None:
    used, whole = store.quota.look().used, [BLOB, OTHER]
    for blob_id in whole:
        store.behind.settle()
        store.catalogue.mark_complete(blob_id)
    spoil(store, 1)
    with scrubbing_of(store) as scrub:
        assert [looked.damaged for looked in looks(scrub)] == [False, True] + [False] * 6
    with contextlib.closing(store.open_blob(BLOB, "http://h/x", SIZE)) as blob:
        assert list(blob.missing(Extent(0, 4))) == [1]
        assert list(blob.unvouched()) == []
    assert store.quota.look().used <= max(0, used - BLOCK)
    assert [row.blob_id for row in store.catalogue.blobs() if row.complete] == [OTHER]


def test_a_blob_that_somebody_opens_is_left_alone(store: Store) -> None:
    with scrubbing_of(store) as scrub:
        assert scrub.step() is not None
        with contextlib.closing(store.open_blob(BLOB, "http://h/x", SIZE)):
            assert len(looks(scrub)) == 4, "those of the other one"


def test_another_process_goes_on_where_one_has_ended(store: Store) -> None:
    with scrubbing_of(store) as second:
        with scrubbing_of(store) as first:
            for _ in range(6):
                first.step()
            assert second.step() is None, "it is the first one's"
        assert len(looks(second)) == 3, "the last one looked at, once more"


@pytest.mark.parametrize("left", [b"", b"garbage", b"\xff" * 300, b"99999999999999 url- 3\n"])
def test_a_position_that_makes_no_sense_is_the_beginning(store: Store, left: bytes) -> None:
    (store.layout.path / "scrub").write_bytes(left)
    with scrubbing_of(store) as scrub:
        assert [looked.length for looked in looks(scrub)] == [BLOCK, BLOCK, BLOCK, 1000] * 2


def test_a_removed_blob_is_left(store: Store) -> None:
    with scrubbing_of(store) as scrub:
        scrub.step()
        for file in directory(store.layout).iterdir():
            file.unlink()
        directory(store.layout).rmdir()
        assert len(looks(scrub)) == 4


def test_it_counts_waits_and_ends_at_once(store: Store) -> None:
    spoil(store, 3)
    counters = Counters()

    async def main() -> None:
        with trio.move_on_after(scrubbing.FIRST + 4.5) as scope:
            await scrubbing.scrub(store, counters, BLOCK)  # a block a second
        assert scope.cancelled_caught

    fakes.run(main)
    assert (counters.blocks_scrubbed, counters.blocks_corrupt) == (6, 1)
    assert records.unpack_scrub((store.layout.path / "scrub").read_bytes()).blob_id == OTHER
    with scrubbing_of(store) as scrub:
        assert scrub.step() is not None, "the lock is free"


def test_a_disk_that_fails_does_not_end_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: Scrub) -> Looked:
        raise OSError(5, "Input/output error")

    async def main() -> None:
        with trio.move_on_after(scrubbing.FIRST + 2.5 * scrubbing.AGAIN):
            await scrubbing.scrub(store, Counters())

    monkeypatch.setattr(Scrub, "step", failing)
    fakes.run(main)
