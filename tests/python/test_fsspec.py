"""lazyfs for fsspec, past what its own suite asks: chains, ranges, versions, listings, and refusals."""

from __future__ import annotations

import errno
import pickle
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import fsspec.core
import pytest

import lazyfs
from lazyfs.python.fsspec import LazyFileSystem
from tests.python.conftest import Site

BLOCK = 256 * 1024
CONTENT = random.Random(2).randbytes(20 * BLOCK)


@pytest.fixture
def fs(there: Path) -> Iterator[LazyFileSystem]:
    fs: LazyFileSystem = fsspec.filesystem("lazyfs", store=str(there))
    with fs.store:
        yield fs


@pytest.fixture(scope="module")
def url(running: Site) -> str:
    return running.put("data", CONTENT)


def test_fsspec_finds_it_and_chains_it(fs: LazyFileSystem, there: Path, url: str) -> None:
    assert fsspec.get_filesystem_class("lazyfs") is LazyFileSystem
    chained, name = fsspec.core.url_to_fs(f"lazyfs::{url}", lazyfs={"store": str(there)})
    assert isinstance(chained, LazyFileSystem)
    for which, place in ((chained, name), (fs, f"lazyfs://{url}"), (fs, url)):
        with which.open(place) as file:
            assert isinstance(file, lazyfs.File)
            assert (file.name, file.read(3)) == (url, CONTENT[:3])
    chained.store.close()
    assert fs.unstrip_protocol(url) == f"lazyfs://{url}"
    with fs.open(url, "r", encoding="latin-1") as text:
        assert text.read(3) == CONTENT[:3].decode("latin-1")
    with pytest.raises(ValueError, match="give them to lazyfs"):
        fsspec.open(f"lazyfs::{url}", https={}, http={"headers": {}}, lazyfs={"store": str(there)})
    with pytest.raises(TypeError, match="did you mean 'store'"):
        fsspec.filesystem("lazyfs", stor=str(there))


def test_instances_are_one_for_the_same_options_and_may_be_pickled(fs: LazyFileSystem, there: Path) -> None:
    assert pickle.loads(pickle.dumps(fs)) is fs
    assert fsspec.filesystem("lazyfs", store=str(there)) is fs
    other = fsspec.filesystem("lazyfs", store=str(there), skip_instance_cache=True)
    with other.store:
        assert other is not fs
        assert other.store.background("http://127.0.0.1/") is fs.store.background("http://127.0.0.1/")


def test_ranges_are_read_together_and_fetched_once(fs: LazyFileSystem, url: str, site: Site) -> None:
    missing = site.url("missing")
    urls = [url, url, missing, url, url]
    starts, ends = [5, 10 * BLOCK, 0, -7, 10 * BLOCK + 100], [8, 10 * BLOCK + 200, 5, None, 10 * BLOCK + 50]
    found = fs.cat_ranges(urls, starts, ends)
    assert [found[number] for number in (0, 1, 3, 4)] == [
        CONTENT[5:8],
        CONTENT[10 * BLOCK : 10 * BLOCK + 200],
        CONTENT[-7:],
        b"",
    ]
    assert isinstance(found[2], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(urls, starts, ends, on_error="raise")
    assert site.sent() == 3 * BLOCK, "once, also for who asked twice"
    dice = random.Random(5)
    places = [dice.randrange(len(CONTENT)) for _ in range(500)]
    found = fs.cat_ranges([url] * 500, places, [place + 1000 for place in places])
    assert found == [CONTENT[place : place + 1000] for place in places]
    assert fs.cat_file(url) == CONTENT
    assert fs.cat_file(url, -20, -10) == CONTENT[-20:-10]
    assert fs.cat([url, url]) == {url: CONTENT}
    assert fs.head(url, 4) == CONTENT[:4]
    assert fs.tail(url, 4) == CONTENT[-4:]
    with pytest.raises(ValueError, match="as many starts"):
        fs.cat_ranges([url], [1, 2], [3, 4])
    assert site.sent() == len(CONTENT)


def test_what_it_says_of_files_and_directories(fs: LazyFileSystem, site: Site) -> None:
    place = site.docroot / "tree" / "in side"
    place.mkdir(parents=True)
    (place / "a").write_bytes(b"aaa")
    (site.docroot / "tree" / "b").write_bytes(b"b")
    tree, inside, a, b = (site.url(name) for name in ("tree", "tree/in%20side", "tree/in%20side/a", "tree/b"))
    assert fs.ls(f"{tree}/", detail=False) == sorted([inside, b])
    assert {entry["name"]: (entry["type"], entry["size"]) for entry in fs.ls(tree)} == {
        inside: ("directory", 0),
        b: ("file", 1),
    }
    asked = len(site.nginx.requests())
    assert (fs.isdir(inside), fs.isfile(b), fs.isdir(b), fs.isdir(tree)) == (True, True, False, True)
    assert fs.info(inside)["type"] == "directory"
    assert len(site.nginx.requests()) == asked, "the listing says so"
    assert fs.find(tree) == sorted([a, b])
    assert fs.glob(f"{tree}/*/a") == [a]
    assert fs.du(tree) == 4
    assert list(fs.walk(tree)) == [(tree, ["in%20side"], ["b"]), (inside, [], ["a"])]
    assert fs.ls(a, detail=False) == [a]
    info = fs.info(a)
    assert (info["size"], info["type"], info["mtime"]) == (3, "file", int((place / "a").stat().st_mtime))
    assert info["etag"].startswith('"')
    assert fs.modified(a) == datetime.fromtimestamp(info["mtime"], UTC)
    assert fs.ukey(a) == info["blob"] == fs.ukey(a)
    assert fs.checksum(a) == fs.checksum(a) != fs.checksum(b)
    assert (fs.exists(a), fs.exists(site.url("none")), fs.isfile(site.url("none"))) == (True, False, False)
    query = f"{a}?part=1"
    assert fs.glob(query) == [query]
    assert fs.cat(query) == b"aaa"
    with pytest.raises(PermissionError):
        fs.exists(site.url("forbidden"))
    with pytest.raises(FileNotFoundError):
        fs.ls(site.url("none"))
    with pytest.raises(NotImplementedError, match="see modified"):
        fs.created(a)
    (place / "c").write_bytes(b"")
    assert len(fs.ls(inside)) == 1, "listed a moment ago"
    assert len(fs.ls(inside, refresh=True)) == 2


@pytest.mark.parametrize(
    "write",
    [
        lambda fs, url: fs.open(url, "wb"),
        lambda fs, url: fs.open(url, "ab"),
        lambda fs, url: fs.pipe(url, b"content"),
        lambda fs, url: fs.touch(url),
        lambda fs, url: fs.rm(url),
        lambda fs, url: fs.mkdir(url),
        lambda fs, url: fs.makedirs(url),
        lambda fs, url: fs.mv(url, url + "2"),
        lambda fs, url: fs.cp(url, url + "2"),
        lambda fs, url: fs.put_file(__file__, url),
    ],
)
def test_it_refuses_to_write(fs: LazyFileSystem, url: str, write: Callable[[Any, str], object]) -> None:
    with pytest.raises(OSError, match="Read-only file system") as raised:
        write(fs, url)
    assert raised.value.errno == errno.EROFS
