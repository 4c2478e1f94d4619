"""The catalogue: restarts, other writers, and what is left of it when it is damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyfs.errors import StoreError
from lazyfs.store.catalogue import PROFILES, BlobRow, Catalogue
from lazyfs.store.locks import StoreLocks
from lazyfs.versions import BlobId, Known, Version, blob_id_for
from tests.unit.stores import in_processes

URL = "https://user:secret@h/a?sig=secret"
KNOWN = Known(URL, Version(2**63 - 1, '"a"', "Sun, 06 Nov 1994 08:49:37 GMT"), True, b"\0x", 12.5)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Catalogue]:
    """Have the catalogue in a directory open."""
    with contextlib.closing(Catalogue(path / "catalogue.db")) as catalogue:
        yield catalogue


def test_what_a_url_named_is_known_after_a_restart(tmp_path: Path) -> None:
    later = Known(URL, Version(0), False, b"", 13.0)
    with opened(tmp_path) as catalogue:
        assert catalogue.known(URL) is None
        catalogue.remember([KNOWN])
    with opened(tmp_path) as catalogue, opened(tmp_path) as other:
        assert catalogue.known(URL) == KNOWN
        other.remember([later])
        assert catalogue.known(URL) == later
        assert catalogue.known(URL + "x") is None


def test_nothing_secret_is_on_the_disk(tmp_path: Path) -> None:
    with opened(tmp_path) as catalogue:
        catalogue.remember([KNOWN])
        catalogue.remember_listing(URL, b"listing")
        catalogue.add_blob(BlobId("url-" + "0" * 64), URL, 1, 65536)
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())


def test_profiles_are_found_by_id_or_by_etag_and_size_and_outlive_their_blobs(tmp_path: Path) -> None:
    one, other = BlobId("url-" + "0" * 64), BlobId("url-" + "1" * 64)
    with opened(tmp_path) as catalogue:
        catalogue.add_blob(one, URL, 9, 65536)
        catalogue.remember_profile(one, 9, '"e"', b"old")
        catalogue.remember_profile(one, 9, '"e"', b"new")
        catalogue.drop_blob(one)
        found = catalogue.profile(one)
        assert found is not None
        assert found[1] == b"new"
        assert catalogue.profile(other, Version(9, '"e"')) == found
        for version in (None, Version(9), Version(9, 'W/"e"'), Version(8, '"e"')):
            assert catalogue.profile(other, version) is None
        catalogue.forget_unused(found[0])
        assert catalogue.profiled() == [one]
        catalogue.forget_unused(found[0] + 1)
        assert catalogue.profiled() == []


def test_only_the_last_profiles_are_kept(tmp_path: Path) -> None:
    ids = [BlobId(f"url-{number:064x}") for number in range(PROFILES + 3)]
    with opened(tmp_path) as catalogue:
        for blob_id in ids:
            catalogue.remember_profile(blob_id, 1, None, b"")
        assert sorted(catalogue.profiled()) == ids[3:]


def test_a_profile_that_rots_is_none(tmp_path: Path) -> None:
    blob_id = BlobId("url-" + "0" * 64)
    with opened(tmp_path) as catalogue:
        catalogue.remember_profile(blob_id, 9, None, b"body")
    with contextlib.closing(sqlite3.connect(tmp_path / "catalogue.db")) as rotten, rotten:
        rotten.execute("UPDATE profiles SET body = 'bodx'")
    with opened(tmp_path) as catalogue:
        assert catalogue.profile(blob_id) is None
        assert catalogue.damaged_rows() == 1
        catalogue.drop_damaged_rows()
        assert catalogue.profiled() == []


def test_listings(tmp_path: Path) -> None:
    with opened(tmp_path) as catalogue:
        assert catalogue.listing(URL) is None
        catalogue.remember_listing(URL, b"one")
        catalogue.remember_listing(URL, b"\0two")
    with opened(tmp_path) as catalogue:
        assert catalogue.listing(URL) == b"\0two"


def test_blobs(tmp_path: Path) -> None:
    first, second = (blob_id_for(url, Version(5), None) for url in ("http://h/1", "http://h/2"))
    with opened(tmp_path) as catalogue:
        catalogue.add_blob(first, URL, 5, 65536)
        catalogue.mark_complete(first)
        catalogue.add_blob(second, URL, 5, 65536)
        catalogue.add_blob(first, "http://other/", 5, 65536)  # used again: still complete, first seen there
        rows = catalogue.blobs()
        assert [(row.blob_id, row.url, row.complete) for row in rows] == [
            (first, "https://h/a", True),
            (second, "https://h/a", False),
        ]
        catalogue.drop_blob(first)
        assert [row.blob_id for row in catalogue.blobs()] == [second]


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Known,
        st.text(max_size=20).map("http://h/".__add__),
        st.builds(Version, st.integers(0, 2**63 - 1), st.none() | st.text(max_size=9), st.none() | st.text(max_size=9)),
        st.booleans(),
        st.binary(max_size=9),
        st.floats(0, 1e10),
    )
)
def test_whatever_is_known_comes_back(tmp_path: Path, known: Known) -> None:
    with opened(tmp_path) as catalogue:
        catalogue.remember([known])
        assert catalogue.known(known.url) == known


def _write(path: Path) -> int:
    with opened(path) as catalogue:
        for number in range(60):
            catalogue.remember([Known(f"http://h/{number}", Version(number))])
            catalogue.add_blob(blob_id_for(f"http://h/{number}", Version(1), None), URL, 1, 65536)
        return len(catalogue.blobs())


def test_processes_that_write_at_once(tmp_path: Path) -> None:
    assert in_processes(3, _write, tmp_path) == [60] * 3


def test_who_reads_does_not_wait_for_who_writes(tmp_path: Path) -> None:
    with opened(tmp_path) as writer, opened(tmp_path) as reader:
        writer.remember([KNOWN])
        seen: list[Known | None] = []

        def slowly() -> Iterator[Known]:
            yield KNOWN
            seen.append(reader.known(URL))
            seen.append(writer.known(URL))  # on the connection that reads
            yield Known(URL, Version(1))

        writer.remember(slowly())
        assert seen == [KNOWN, KNOWN]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Known]:
        yield KNOWN
        raise RuntimeError

    with opened(tmp_path) as catalogue:
        with pytest.raises(RuntimeError):
            catalogue.remember(failing())
        assert catalogue.known(URL) is None
        catalogue.remember([KNOWN])


BLOBS = [BlobRow(blob_id_for(f"http://h/{number}", Version(5), None), "", 5, 65536, True, 1.0) for number in range(3)]


def fill(path: Path) -> None:
    with opened(path) as catalogue:
        for number in range(500):
            catalogue.remember_listing(f"http://h/{number}", bytes(200))


def spoil(path: Path, start: int) -> None:
    with (path / "catalogue.db").open("r+b") as file:
        file.seek(start)
        file.write(b"\x55" * 40_000)


def aside(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if "damaged" in file.name)


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def _directory(file: Path) -> None:
    file.unlink(missing_ok=True)
    (file / "x").mkdir(parents=True)


def _other(file: Path) -> None:
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE names (x)")


def _version_1_again(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA user_version = 1")


SPOILS: dict[str, Callable[[Path], None]] = {
    "head": lambda file: spoil(file.parent, 0),
    "version of SQLite": lambda file: spoil(file.parent, 18),
    "root page": lambda file: spoil(file.parent, 100),
    "pages": lambda file: spoil(file.parent, 4096),
    "link": _link,
    "directory": _directory,
    "the log a directory": lambda file: _directory(file.with_name("catalogue.db-wal")),
    "another database": _other,
    "a version that it has not": _version_1_again,
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_a_damaged_one_is_set_aside_and_made_anew(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    for _ in range(2):  # the second one takes the place of the first
        fill(tmp_path)
        spoil(tmp_path / "catalogue.db")
        with contextlib.closing(Catalogue(tmp_path / "catalogue.db", lambda: BLOBS)) as catalogue:
            assert sorted(row.blob_id for row in catalogue.blobs()) == sorted(row.blob_id for row in BLOBS)
            catalogue.remember_listing(URL, b"one")
        with opened(tmp_path) as catalogue:
            assert catalogue.listing(URL) == b"one"
            assert catalogue.listing("http://h/1") is None
        assert len({name.partition("T")[2][:6] for name in aside(tmp_path)}) == 1, aside(tmp_path)


def test_the_next_open_fills_in_where_a_blob_is_from(tmp_path: Path) -> None:
    with contextlib.closing(Catalogue(tmp_path / "catalogue.db", lambda: BLOBS)) as catalogue:
        catalogue.add_blob(BLOBS[0].blob_id, URL, 5, 65536)
        catalogue.add_blob(BLOBS[0].blob_id, "http://other/", 5, 65536)
        first = catalogue.blobs()[0]
        assert (first.url, first.complete) == ("https://h/a", True)


def test_damage_that_a_write_meets(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path) as catalogue, opened(tmp_path) as other:
        spoil(tmp_path, 0)
        catalogue.remember(iter([KNOWN, replace(KNOWN, url="http://h/x")]))
        assert catalogue.known(URL) == KNOWN
        assert catalogue.known("http://h/x") is not None
        other.remember_listing(URL, b"one")  # it has the old one open, and writes into the new one
        assert catalogue.listing(URL) == b"one"
        assert other.known(URL) == KNOWN
    with opened(tmp_path) as catalogue:
        assert catalogue.known(URL) == KNOWN, "the old one, closed last, took nothing of the new one along"


def test_damage_that_a_look_up_meets(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path) as catalogue, opened(tmp_path) as other:
        spoil(tmp_path, 0)
        spoil(tmp_path, 4096)
        assert catalogue.listing("http://h/1") is None
        wait_until_renewed(catalogue)
        catalogue.remember([KNOWN])
        other.known(URL)
        wait_until_renewed(other)
        assert other.known(URL) == KNOWN
    assert len(aside(tmp_path)) <= 3


def wait_until_renewed(catalogue: Catalogue) -> None:
    renewer = catalogue._database._renewer
    assert renewer is not None
    renewer.join()


def _write_until_replaced(path: Path) -> int:
    """Write until somebody has replaced the catalogue, and then some more."""
    number = 0
    with opened(path) as catalogue:
        while not aside(path):
            catalogue.remember_listing(f"http://h/{number}", bytes(200))
            number += 1
            if number % 50 == 0:  # what is in SQLite's log mends some of it
                spoil(path, 0)
        for again in range(100):
            catalogue.remember_listing(f"http://again/{again}", b"x")
        return sum(catalogue.listing(f"http://again/{again}") == b"x" for again in range(100))


def test_processes_that_meet_damage_at_once(tmp_path: Path) -> None:
    assert in_processes(3, _write_until_replaced, tmp_path) == [100] * 3
    assert len([name for name in aside(tmp_path) if name[-4:] not in ("-wal", "-shm", "rnal")]) == 1
    with opened(tmp_path) as catalogue:
        assert catalogue.listing("http://again/99") == b"x"


@pytest.mark.parametrize("change", ["size = 6", "head = x'00'", "etag = NULL", "checked_at = 1", "url_key = 'x'"])
def test_a_row_that_was_changed_is_as_good_as_lost(tmp_path: Path, change: str) -> None:
    with opened(tmp_path) as catalogue:
        catalogue.remember([KNOWN])
        catalogue.remember_listing(URL, b"one")
        with contextlib.closing(sqlite3.connect(tmp_path / "catalogue.db")) as other:
            other.execute(f"UPDATE names SET {change}")
            other.execute("UPDATE listings SET body = x'01'")
            other.commit()
        assert catalogue.known(URL) is None
        assert catalogue.listing(URL) is None


def test_rows_that_make_no_sense_are_not_shown(tmp_path: Path) -> None:
    with opened(tmp_path) as catalogue:
        for number in range(4):
            catalogue.add_blob(BlobId(f"url-{number}" + "0" * 63), URL, 5, 65536)
        with contextlib.closing(sqlite3.connect(tmp_path / "catalogue.db")) as other:
            for number, change in enumerate(("size = x'01'", "blob_id = 'x'", "size = -1")):
                other.execute(f"UPDATE blobs SET {change} WHERE blob_id LIKE 'url-{number}%'")
            other.commit()
        assert [row.blob_id[4] for row in catalogue.blobs()] == ["3"]


def test_where_it_cannot_be_a_stand_in_works_and_later_gives_way(tmp_path: Path) -> None:
    with opened(tmp_path / "later") as catalogue:
        assert not catalogue.joined
        catalogue.remember([KNOWN])
        assert catalogue.known(URL) == KNOWN
        with pytest.raises(StoreError, match="cannot be used now"):
            catalogue.join()
        (tmp_path / "later").mkdir()
        catalogue.join()
        assert catalogue.known(URL) is None, "what the stand-in heard is lost"
        catalogue.remember([KNOWN])
    with opened(tmp_path / "later") as catalogue:
        assert catalogue.known(URL) == KNOWN


def test_a_disk_that_fails_a_lock_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some take a call of the disk's, and fail as it does."""

    def fails(_locks: StoreLocks, *, alone: bool) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    catalogue = Catalogue(tmp_path / "catalogue.db")
    monkeypatch.setattr(StoreLocks, "try_catalogue", fails)
    with contextlib.closing(Catalogue(tmp_path / "catalogue.db")) as other:
        assert not other.joined
        with pytest.raises(StoreError, match="cannot be used now: Input/output error"):
            other.join()
    catalogue.close()
