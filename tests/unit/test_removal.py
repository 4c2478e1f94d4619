"""Removal of whole blobs, pins, and what a collection finds to be of no use."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import xxhash

from lazyfs import records
from lazyfs.errors import StoreError
from lazyfs.store import Store, gc, trash
from lazyfs.store import layout as layouts
from lazyfs.store.blobfile import open_blob
from lazyfs.store.removal import Kept, remove
from lazyfs.versions import BlobId, Known, Version, blob_id_for
from tests.unit.stores import BLOCK, fill

URL = "http://h/a?sig=secret"
EMPTY = BlobId("url-" + "0" * 64)
OLD, NEW = Version(2 * BLOCK, '"old"'), Version(2 * BLOCK, '"new"')


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store, empty."""
    with contextlib.closing(Store.open(tmp_path / "store", BLOCK)) as store:
        yield store


def make(store: Store, url: str = URL, version: Version = OLD, digest: str | None = None) -> BlobId:
    """Make a blob, all of it present."""
    blob_id = blob_id_for(url, version, digest)
    with contextlib.closing(store.open_blob(blob_id, url, version.size, version)) as blob:
        fill(blob)
    store.behind.settle()
    return blob_id


def drop_row(store: Store, blob_id: BlobId) -> None:
    store.behind.settle()
    store.catalogue.drop_blob(blob_id)


def in_store(store: Store) -> set[BlobId]:
    return set(layouts.blob_ids(store.layout))


def listed(store: Store) -> set[BlobId]:
    return {row.blob_id for row in store.catalogue.blobs()}


def collect(store: Store, led_to: Collection[BlobId] = (), max_cache: int | None = None) -> gc.Collected:
    return gc.collect(store, lambda blob_ids: {blob_id for blob_id in blob_ids if blob_id in led_to}, max_cache)


# One blob.


def test_a_blob_goes_with_its_row(store: Store) -> None:
    blob_id = make(store)
    freed = remove(store.layout, store.catalogue, blob_id)
    assert freed == 2 * BLOCK
    assert in_store(store) == listed(store) == set()
    assert os.listdir(store.layout.trash) == []
    assert store.catalogue.version_of(blob_id) is None
    assert remove(store.layout, store.catalogue, blob_id) is Kept.NOT_THERE


def test_a_blob_in_use_stays_with_its_row(store: Store) -> None:
    blob_id = make(store)
    with contextlib.closing(store.open_blob(blob_id, URL, OLD.size)):
        assert remove(store.layout, store.catalogue, blob_id) is Kept.IN_USE
    assert in_store(store) == listed(store) == {blob_id}


def test_a_row_whose_directory_is_gone_goes_too(store: Store) -> None:
    blob_id = make(store)
    staged = trash.stage(store.layout, blob_id)
    assert staged is not None
    os.close(staged.lock)  # a remover that was killed here
    assert remove(store.layout, store.catalogue, blob_id) is Kept.NOT_THERE
    assert listed(store) == set()


def test_a_blob_that_comes_again_in_mid_removal_keeps_its_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blob_id = make(store)
    drop = store.catalogue.drop_blob

    def slowly(blob_id: BlobId, last_used: float) -> None:
        make(store)
        drop(blob_id, last_used)

    monkeypatch.setattr(store.catalogue, "drop_blob", slowly)
    assert remove(store.layout, store.catalogue, blob_id) == 2 * BLOCK
    assert in_store(store) == listed(store) == {blob_id}
    assert store.present_bytes(blob_id) == OLD.size
    assert store.catalogue.version_of(blob_id) is not None


def test_what_is_not_complete_any_more_is_not_marked_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blob_id = make(store)
    store.catalogue.mark_complete(blob_id)
    marked: list[bool] = []
    rename = os.rename

    def watched(*args: Any, **kwargs: Any) -> None:
        marked.extend(row.complete for row in store.catalogue.blobs())
        rename(*args, **kwargs)

    monkeypatch.setattr(os, "rename", watched)
    assert remove(store.layout, store.catalogue, blob_id) == 2 * BLOCK
    assert marked == [False], "the power may go before the row does"


def test_a_blob_goes_although_the_catalogue_cannot_be_written(store: Store) -> None:
    blob_id = make(store)
    store.catalogue.mark_complete(blob_id)
    with contextlib.closing(sqlite3.connect(store.layout.catalogue)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.catalogue._database._at.writes.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(StoreError, match="locked"):
            remove(store.layout, store.catalogue, blob_id)
    assert in_store(store) == set()
    assert os.listdir(store.layout.trash) == []
    assert collect(store).rows == 1


# Pins.


def test_a_pinned_blob_is_neither_removed_nor_evicted(store: Store) -> None:
    pinned, other = make(store), make(store, "http://h/b")
    store.pin(pinned, URL, OLD.size)
    assert remove(store.layout, store.catalogue, pinned) is Kept.PINNED
    done = collect(store, max_cache=0)
    assert (store.present_bytes(pinned), store.present_bytes(other)) == (OLD.size, 0)
    assert done.kept["pinned"] == 1
    store.unpin(pinned)
    store.unpin(pinned)
    collect(store, max_cache=0)
    assert store.present_bytes(pinned) == 0


def test_what_is_not_in_the_store_can_be_pinned(store: Store) -> None:
    blob_id = blob_id_for(URL, OLD, None)
    store.pin(blob_id, URL, OLD.size, OLD)
    assert store.present_bytes(blob_id) == 0
    make(store)
    collect(store, max_cache=0)
    assert store.present_bytes(blob_id) == OLD.size


def test_a_pin_outlives_the_catalogue(store: Store) -> None:
    blob_id, other = make(store), make(store, "http://h/b")
    store.pin(blob_id, URL, OLD.size)
    drop_row(store, blob_id)
    assert collect(store).orphans == 0
    assert in_store(store) == listed(store) == {blob_id, other}
    assert layouts.is_pinned(store.layout, blob_id)


# What is of no use.


def test_an_old_version_goes_and_the_one_that_is_named_stays(store: Store) -> None:
    old, new = make(store, version=OLD), make(store, version=NEW)
    assert collect(store).old_versions == 0, "nobody knows which of them the URL names"
    store.catalogue.remember([Known(URL, NEW)])
    done = collect(store)
    assert (done.old_versions, done.freed) == (1, OLD.size)
    assert in_store(store) == listed(store) == {new}
    assert old not in listed(store)


@pytest.mark.parametrize("now", [OLD, Version(OLD.size, OLD.etag, "Sun, 06 Nov 1994 08:49:37 GMT")])
def test_the_same_version_stays(store: Store, now: Version) -> None:
    blob_id = make(store)
    store.catalogue.remember([Known(URL, now)])
    collect(store)
    assert in_store(store) == {blob_id}


def test_two_urls_that_differ_in_what_is_not_kept_are_two(store: Store) -> None:
    first, second = make(store, "http://h/a?id=1", OLD), make(store, "http://h/a?id=2", NEW)
    store.catalogue.remember([Known("http://h/a?id=1", OLD), Known("http://h/a?id=2", NEW), Known("http://h/a", NEW)])
    collect(store)
    assert in_store(store) == {first, second}


def test_a_blob_that_is_known_by_its_digest_is_never_old(store: Store) -> None:
    blob_id = make(store, digest="sha256:" + "5" * 64)
    store.catalogue.remember([Known(URL, NEW)])
    collect(store)
    assert in_store(store) == {blob_id}


def test_old_versions_that_a_mount_shows_or_somebody_reads_or_has_pinned_stay(store: Store) -> None:
    urls = [f"http://h/{name}" for name in "abcd"]
    led_to, read, pinned, gone = [make(store, url) for url in urls]
    store.catalogue.remember([Known(url, NEW) for url in urls])
    store.pin(pinned, urls[2], OLD.size)
    with contextlib.closing(store.open_blob(read, urls[1], OLD.size)):
        done = collect(store, {led_to})
    assert in_store(store) == {led_to, read, pinned}
    assert gone not in listed(store)
    assert done.kept == {"named by a mount": 1, "in use": 1, "pinned": 1}


def test_orphans_are_listed_again_and_go_when_nobody_opens_them_for_long(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, read, pinned, gone, other = blobs = [make(store, f"http://h/{name}") for name in "abcde"]
    store.pin(pinned, "http://h/c", OLD.size)
    for blob_id in blobs[:4]:
        drop_row(store, blob_id)
    done = collect(store)
    assert (done.orphans, done.listed) == (0, 4)
    assert in_store(store) == listed(store) == set(blobs)
    make(store, "http://h/a")
    monkeypatch.setattr(gc, "LONG_GONE", -10.0)
    with contextlib.closing(open_blob(store.layout, read, OLD.size, BLOCK)):
        done = collect(store)
    assert (done.orphans, done.listed, done.kept["in use"]) == (1, 0, 1)
    assert in_store(store) == listed(store) == {opened, read, pinned, other}
    assert gone not in in_store(store)


def test_a_blob_whose_row_could_not_be_written_for_long_is_no_orphan(store: Store) -> None:
    make(store, "http://h/b")
    with contextlib.closing(Store.open(store.layout.path, BLOCK)) as late:
        late.catalogue._database._at.writes.execute("PRAGMA busy_timeout = 0")
        with contextlib.closing(sqlite3.connect(store.layout.catalogue, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            blob_id = blob_id_for(URL, OLD, None)
            with contextlib.closing(late.open_blob(blob_id, URL, OLD.size, OLD)) as blob:
                fill(blob)
            while not late.behind._reason:
                time.sleep(0.001)
        assert blob_id not in listed(store)
        done = collect(store)
        assert (done.orphans, done.listed) == (0, 1)
        assert store.present_bytes(blob_id) == OLD.size


def test_the_blobs_of_a_catalogue_that_was_lost_are_listed_again(store: Store) -> None:
    blobs = {make(store), make(store, "http://h/b")}
    for blob_id in blobs:
        drop_row(store, blob_id)
    assert collect(store).orphans == 0
    assert in_store(store) == listed(store) == blobs
    make(store)
    assert {row.url for row in store.catalogue.blobs()} == {"http://h/a", ""}, "it is known again who has it"


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "map", "data"]])
def test_a_directory_without_a_map_goes_when_nobody_has_it(store: Store, left: list[str]) -> None:
    blob_id = make(store)
    os.close(layouts.blob_directory(store.layout, EMPTY, create=True))
    directory = store.layout.path / "blobs" / layouts.shelf_of(EMPTY) / EMPTY
    for name in left:
        (directory / name).touch()
    assert collect(store).orphans == 1
    assert in_store(store) == listed(store) == {blob_id}


def test_a_blob_that_a_newer_one_has_written_stays(store: Store) -> None:
    blob_id, other = make(store), make(store, "http://h/b")
    drop_row(store, blob_id)
    with (store.layout.path / "blobs" / layouts.shelf_of(blob_id) / blob_id / "map").open("r+b") as file:
        header = file.read(8) + (records.FORMAT + 1).to_bytes(4, "little") + file.read(48)[4:]
        file.seek(0)
        file.write(header + xxhash.xxh3_64_intdigest(header).to_bytes(8, "little"))
    done = collect(store)
    assert (done.orphans, done.listed) == (0, 0)
    assert in_store(store) == {blob_id, other}


def test_rows_and_leftovers_of_a_killed_remover_go(store: Store) -> None:
    staged = trash.stage(store.layout, make(store))
    assert staged is not None
    os.close(staged.lock)
    done = collect(store)
    assert (done.rows, done.leftovers, done.freed) == (1, 1, OLD.size)
    assert listed(store) == set()
    assert os.listdir(store.layout.trash) == []


def test_names_go_that_nobody_asked_for_unless_the_store_has_something_of_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store)
    store.catalogue.remember([Known(URL, OLD), Known("http://h/long/gone", OLD)])
    for url in ("http://h/", "http://h/long/"):
        store.catalogue.remember_listing(url, b"listing")
    assert collect(store).rows == 0 + 1, "it was never asked for: its time is 0"
    monkeypatch.setattr(gc, "LONG_GONE", -10.0)
    assert collect(store).rows == 1
    assert store.catalogue.known(URL) is not None
    assert store.catalogue.listing("http://h/") is not None
    assert store.catalogue.listing("http://h/long/") is None


def test_a_bound_for_once_is_met_block_by_block_and_does_not_stay(store: Store) -> None:
    make(store)
    make(store, "http://h/b")
    store.quota.take(BLOCK)  # what is reserved is not on the disk, and need not go
    done = collect(store, max_cache=3 * BLOCK)
    assert done.evicted == BLOCK
    assert store.bytes_on_disk() == 3 * BLOCK
    assert store.quota.look().max_cache == 0
