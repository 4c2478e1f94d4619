"""A store is opened safely, or refused with one line."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from lazyfs import mountinfo
from lazyfs.errors import StoreError
from lazyfs.extents import Extent
from lazyfs.store import Store, default_path
from lazyfs.store import layout as layouts
from lazyfs.store.layout import open_layout
from lazyfs.versions import Known, Version
from tests.unit import golden
from tests.unit.stores import BLOB, in_processes

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store is, made and closed."""
    open_layout(tmp_path / "store").close()
    return tmp_path / "store"


def refusal(path: Path) -> str:
    """The line with which it is refused; no descriptor is left."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StoreError) as caught:
        Store.open(path)
    assert os.listdir("/proc/self/fd") == before
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_new_store(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "store"
    before = os.umask(0)
    try:
        open_layout(path).close()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o700
    assert (path / "FORMAT").read_bytes() == b"lazyfs store 1\n"
    assert sorted(os.listdir(path)) == ["FORMAT", "blobs", "run", "trash"]
    assert all((path / name).stat().st_mode & 0o077 == 0 for name in os.listdir(path))


def test_an_empty_directory_of_ours_is_taken_and_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    open_layout(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o7777 == 0o700


def test_open_to_others(path: Path) -> None:
    path.chmod(0o750)
    assert "chmod 700" in refusal(path)


@needs_root
def test_of_another_user(path: Path) -> None:
    os.chown(path, 1234, 1234)
    assert "belongs to another user (uid 1234)" in refusal(path)


def test_not_a_store(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "thesis.tex").touch()
    assert "not empty and not a store" in refusal(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "words"), [(b"lazyfs store 2\n", "newer lazyfs (format 2"), (b"\xff\n", "not a store"), (b"", "not a")]
)
def test_another_format(path: Path, content: bytes, words: str) -> None:
    (path / "FORMAT").write_bytes(content)
    assert words in refusal(path)


def _link_store(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _file_store(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.touch()


def _link(name: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        (path / name).rename(path.with_name(name))
        (path / name).symlink_to(f"../{name}")

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [_link_store, _file_store, _link("FORMAT"), _link("blobs"), _link("trash")],
    ids=["store is a link", "store is a file", "FORMAT is a link", "blobs is a link", "trash is a link"],
)
def test_never_through_a_link(path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(path)
    refusal(path)


@pytest.mark.parametrize("level", ["ab", f"ab/{BLOB}"])
def test_no_blob_through_a_link(path: Path, level: str) -> None:
    layout = open_layout(path)
    os.close(layouts.blob_directory(layout, BLOB, create=True))
    (path / "blobs" / level).rename(path.with_name("elsewhere"))
    (path / "blobs" / level).symlink_to(path.with_name("elsewhere"))
    with pytest.raises(OSError, match=r"(?i)not a directory|symbolic links"):
        layouts.blob_directory(layout, BLOB, create=True)
    layout.close()


@pytest.mark.parametrize("fstype", ["nfs4", "9p", "fuse.sshfs"])
def test_not_on_a_file_system_of_other_hosts(path: Path, fstype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountinfo, "mounts", lambda: iter([mountinfo.Mounted("/", fstype, "0:1", "x")]))
    assert fstype in refusal(path)


def test_a_damaged_catalogue(path: Path) -> None:
    Store.open(path).close()
    (path / "catalogue.db").write_bytes(b"\x55" * 4096)
    Store.open(path).close()
    assert [name for name in os.listdir(path) if "damaged" in name]


def test_a_store_of_format_1(path: Path) -> None:
    path = path.with_name("golden")
    golden.format_1(path)
    with contextlib.closing(Store.open(path)) as store:
        quota = store.quota.look()
        assert (quota.clock, quota.used, quota.max_cache, quota.min_free) == (8 << 20, 0x10064, 1 << 30, 1 << 20)
        (row,) = store.catalogue.blobs()
        url = "https://user:secret@h/a?sig=secret"
        assert (row.blob_id, row.url, row.size, row.block_size) == (BLOB, "https://h/a", 131_172, 65_536)
        assert store.catalogue.listing(url) == b"a listing"
        version = Version(131_172, '"a"', "Sun, 06 Nov 1994 08:49:37 GMT")
        assert store.catalogue.known(url) == Known(url, version, True, b"\0x", 12.5)
        with contextlib.closing(store.open_blob(BLOB, url, 131_172)) as blob:
            right = bytes(range(251)) * 600
            assert bytes(blob.read(0, wait=True) or b"") == right[:65_536]
            assert blob.read(1, wait=True) is None
            assert bytes(blob.read(2, wait=True) or b"") == right[131_072:131_172]
            assert blob.uses(Extent(0, 3)) == (1 << 24, 0, 1 << 24)
    assert (path / "catalogue.db").stat().st_mode & 0o777 == 0o600


def _newer(data: bytes) -> bytes:
    """Make a record one of format 2."""
    body = data[:8] + b"\x02" + data[9:56]
    return body + xxhash.xxh3_64_digest(body)[::-1] + data[64:]


@pytest.mark.parametrize("what", ["FORMAT", "quota", "catalogue.db", "map"])
def test_what_a_newer_lazyfs_wrote_is_refused(path: Path, what: str) -> None:
    path = path.with_name("golden")
    golden.format_1(path)
    if what == "catalogue.db":
        with contextlib.closing(sqlite3.connect(path / what)) as catalogue:
            catalogue.execute("PRAGMA user_version = 99")
    elif what == "FORMAT":
        (path / what).write_text("lazyfs store 2\n")
    else:
        file = path / what if what == "quota" else path / "blobs" / "ab" / BLOB / what
        file.write_bytes(_newer(file.read_bytes()))
    before = tree(path)
    if what == "map":
        with contextlib.closing(Store.open(path)) as store, pytest.raises(StoreError, match="newer lazyfs") as caught:
            store.open_blob(BLOB, "http://h/", 131_172)
        assert "\n" not in str(caught.value)
        return
    assert "newer lazyfs" in refusal(path)
    assert {name: content for name, content in tree(path).items() if "catalogue.db-" not in name} == before


def tree(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_where_it_cannot_be_made() -> None:
    assert "--store" in refusal(Path("/proc/lazyfs"))
    assert "--store" in refusal(Path("/dev/null/store"))


def test_a_store_that_another_process_makes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not there for the look at FORMAT, and is there, whole and in use, for the look at what else there is."""
    path, listdir = tmp_path / "store", os.listdir

    def first_another(fd: int) -> list[str]:
        if "FORMAT" not in listdir(fd):
            monkeypatch.undo()
            Store.open(path).close()
        return listdir(fd)

    path.mkdir(0o700)
    monkeypatch.setattr(os, "listdir", first_another)
    Store.open(path).close()


def _open(path: Path) -> int:
    store = Store.open(path)
    store.catalogue.add_blob(BLOB, "http://h/", 1, 1 << 16)
    store.close()
    return len(os.listdir(path))


@pytest.mark.parametrize("attempt", range(3))
def test_processes_that_make_a_store_at_once(tmp_path: Path, attempt: int) -> None:
    assert all(in_processes(6, _open, tmp_path / "store"))


def test_threads_that_make_a_store_at_once(tmp_path: Path) -> None:
    """As two containers would that share it: their pids are the same."""
    start, failures = threading.Barrier(4), list[Exception]()

    def make(path: Path) -> None:
        start.wait()
        try:
            open_layout(path).close()
        except StoreError as exc:
            failures.append(exc)

    for attempt in range(20):
        threads = [threading.Thread(target=make, args=(tmp_path / str(attempt),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_where_it_lies_when_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYFS_STORE", "/named")
    assert default_path() == Path("/named")
    monkeypatch.delenv("LAZYFS_STORE")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_path() == Path("/var/cache/lazyfs")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/x/.cache")
    assert default_path() == Path("/home/x/.cache/lazyfs")
