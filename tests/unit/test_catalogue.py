"""The catalogue: restarts, other writers, and what is left of it when it is damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyfs.errors import StoreError
from lazyfs.store.catalogue import Catalogue
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


def write_all(path: Path) -> None:
    with opened(path) as catalogue:
        for number in range(500):
            assert catalogue.listing(f"http://h/{number}") in (None, bytes(200))
            catalogue.remember_listing(f"http://h/{number}", bytes(201))


@pytest.mark.parametrize("start", [0, 100, 4096])
def test_a_damaged_file_is_one_line(tmp_path: Path, start: int) -> None:
    with opened(tmp_path) as catalogue:
        for number in range(500):
            catalogue.remember_listing(f"http://h/{number}", bytes(200))
    with (tmp_path / "catalogue.db").open("r+b") as file:
        file.seek(start)
        file.write(b"\x55" * 40_000)
    with pytest.raises(StoreError) as caught:
        write_all(tmp_path)
    assert "move it away" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "catalogue.db") in str(caught.value)


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
