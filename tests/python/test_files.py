"""`lazyfs.open` and `lazyfs.Store`: file objects like Python's own, errors like its own, and nothing fetched twice."""

from __future__ import annotations

import errno
import hashlib
import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lazyfs
from lazyfs.python.background import KEPT
from tests.python.conftest import Site
from tests.servers import MisbehavingOrigin

BLOCK = 256 * 1024
CONTENT = random.Random(8).randbytes(40 * BLOCK + 1234)


@pytest.fixture(scope="module")
def url(running: Site) -> str:
    return running.put("data", CONTENT)


def test_it_does_what_pythons_own_files_do(store: lazyfs.Store, url: str, running: Site) -> None:
    dice = random.Random(1)
    with store.open(url) as ours, (running.docroot / "data").open("rb") as theirs:
        assert isinstance(ours, io.BufferedReader)
        assert (ours.readable(), ours.seekable(), ours.writable(), ours.mode) == (True, True, False, "rb")
        assert (ours.name, ours.size) == (url, len(CONTENT))
        for _ in range(400):
            offset, length = dice.randrange(len(CONTENT) + 1000), int(2 ** dice.uniform(0, 21))
            match dice.randrange(8):
                case 0:
                    assert ours.seek(offset) == theirs.seek(offset)
                case 1:
                    assert ours.seek(-min(offset, len(CONTENT)), 2) == theirs.seek(-min(offset, len(CONTENT)), 2)
                case 2:
                    assert ours.seek(length, 1) == theirs.seek(length, 1)
                case 3:
                    assert ours.readline() == theirs.readline()
                case 4:
                    ours_into, theirs_into = bytearray(length), bytearray(length)
                    assert ours.readinto(ours_into) == theirs.readinto(theirs_into)
                    assert ours_into == theirs_into
                case 5:
                    assert ours.read_at(offset, length) == CONTENT[offset : offset + length]
                case _:
                    assert ours.read(length) == theirs.read(length)
            assert ours.tell() == theirs.tell()
        ours.seek(0)
        theirs.seek(0)
        assert list(ours) == list(theirs)
        ours.seek(5)
        assert ours.read() == CONTENT[5:]
        assert ours.read() == b""
        assert ours.peek(1) == b""
        for offset, whence in ((-1, 0), (-len(CONTENT) - 1, 2)):
            with pytest.raises(ValueError, match="negative seek"):
                ours.seek(offset, whence)
        with pytest.raises(ValueError, match="0 or more"):
            ours.read_at(-1, 5)
        with pytest.raises(io.UnsupportedOperation):
            ours.write(b"no")
        with pytest.raises(io.UnsupportedOperation):
            ours.fileno()
    assert ours.closed
    ours.close()
    for use in (ours.read, ours.tell, lambda: ours.read_at(0, 1)):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert io.TextIOWrapper(store.open(running.put("text", b"ein\nzwei\n"))).readlines() == ["ein\n", "zwei\n"]


def test_a_small_read_fetches_its_block_and_a_second_process_would_fetch_none(
    store: lazyfs.Store, url: str, site: Site, there: Path
) -> None:
    with store.open(url) as file:
        file.seek(17 * BLOCK - 10)
        assert file.read(10) == CONTENT[17 * BLOCK - 10 : 17 * BLOCK]
        assert site.sent() == BLOCK
        assert file.read(1) == CONTENT[17 * BLOCK : 17 * BLOCK + 1]
    sent = site.sent()
    assert 2 * BLOCK <= sent <= 6 * BLOCK, "what was asked for, and what is ahead of who reads on"
    with lazyfs.Store(store=there, offline=True) as other, other.open(url) as file:
        assert file.read_at(17 * BLOCK - 10, 10) == CONTENT[17 * BLOCK - 10 : 17 * BLOCK]
        with pytest.raises(OSError, match="not all of it is in the store") as raised:
            file.read_at(0, 1)
        assert raised.value.errno == errno.EIO
    assert site.sent() == sent


def test_sixteen_threads_read_one_file(store: lazyfs.Store, url: str, site: Site) -> None:
    def read(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(60):
            offset, length = dice.randrange(len(CONTENT)), int(2 ** dice.uniform(0, 18))
            assert file.read_at(offset, length) == CONTENT[offset : offset + length]

    with store.open(url) as file, ThreadPoolExecutor(16) as threads:
        list(threads.map(read, range(16)))
    assert site.sent() <= len(CONTENT)


def test_errors_are_those_that_users_of_files_expect(
    store: lazyfs.Store, site: Site, there: Path, odd: MisbehavingOrigin
) -> None:
    (site.docroot / "directory").mkdir()
    for name, expected, number in (
        ("nothing", FileNotFoundError, errno.ENOENT),
        ("forbidden", PermissionError, errno.EACCES),
        ("directory", IsADirectoryError, errno.EISDIR),
        ("directory/", IsADirectoryError, errno.EISDIR),
    ):
        with pytest.raises(expected) as raised:
            store.open(site.url(f"{name}?token=secret"))
        assert (raised.value.errno, raised.value.filename) == (number, site.url(name))
        assert "secret" not in str(raised.value)
        assert isinstance(raised.value.__cause__, Exception)
    with lazyfs.Store(store=there, read_timeout=0.3) as hasty:
        with pytest.raises(OSError, match=r"500|read may take|no answer"):
            hasty.open(site.url("broken"))
        with pytest.raises(TimeoutError), hasty.open(odd.url("stall@2-", "random-1M-slow")) as file:
            file.read(1)
    for place in ("data", "ftp://example.org/data", "/data"):
        with pytest.raises(ValueError, match="neither an http or https URL nor a blob"):
            store.open(place)
    with pytest.raises(OSError, match="has no blob sha256-0000"):
        store.open("sha256-0000")
    with pytest.raises(ValueError, match="digest is written as sha256:"):
        store.open(site.url("data"), digest="md5:0")
    with pytest.raises(NotADirectoryError, match="not a directory index"):
        store.scandir(site.url("style/"))


def test_options_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no option 'max_cach'; did you mean 'max_cache'"):
        lazyfs.open("http://127.0.0.1/", max_cach="1G")  # type: ignore[call-arg]
    for options, message in (
        ({"block_size": 1000}, "power of two"),
        ({"max_cache": "much"}, "not a size"),
        ({"read_timeout": -1}, "from 0 on"),
        ({"hedge": 300}, "from 0 to 100"),
        ({"headers": {"Range": "bytes=0-"}}, "lazyfs's own"),
        ({"mirrors": {"http://a/": "ftp://b/"}}, "FROM=TO"),
        ({"header_file": tmp_path / "none"}, "cannot be read"),
        ({"ca_file": tmp_path / "none"}, "cannot be read"),
        ({"client_key": tmp_path / "none"}, "without --client-cert"),
    ):
        with pytest.raises(ValueError, match=message):
            lazyfs.Store(store=tmp_path, **options)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"not empty and not a store|open to others"):
        lazyfs.open("http://127.0.0.1/file", store=tmp_path)


def test_what_is_configured_counts_beneath_what_is_given(
    there: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lazyfs.toml").write_text(f'store = "{there}"\noffline = true\n')
    monkeypatch.setenv("LAZYFS_CONFIG", str(tmp_path / "lazyfs.toml"))
    monkeypatch.delenv("LAZYFS_STORE", raising=False)
    with lazyfs.Store() as store, pytest.raises(OSError, match="--offline forbids"):
        store.open(url)
    with lazyfs.Store(offline=False) as store:
        assert store.open(url).read(5) == CONTENT[:5]
    assert (there / "FORMAT").exists()


def test_a_file_is_of_one_version_all_its_life(there: Path, site: Site) -> None:
    url = site.put("changing", CONTENT[: 4 * BLOCK])
    with lazyfs.Store(store=there, revalidate=0) as store:
        with store.open(url) as old:
            assert old.read(10) == CONTENT[:10]
            site.put("changing", CONTENT[BLOCK : 6 * BLOCK])
            assert old.read_at(0, BLOCK) == CONTENT[:BLOCK], "what was fetched"
            with pytest.raises(OSError, match="open it again to read what is there now") as raised:
                old.read_at(3 * BLOCK, 1)
            assert (raised.value.errno, raised.value.filename) == (errno.ESTALE, url)
            with store.open(url) as new:
                assert new.blob != old.blob
                assert new.read() == CONTENT[BLOCK : 6 * BLOCK]
        (site.docroot / "changing").unlink()
        with pytest.raises(FileNotFoundError):
            store.open(url)
        assert store.open(new.blob).read() == CONTENT[BLOCK : 6 * BLOCK], "all of it is in the store"


def test_with_a_digest_nobody_reads_all_of_what_is_wrong(store: lazyfs.Store, url: str, site: Site) -> None:
    right = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    with store.open(url, digest=right) as file:
        assert file.blob == right.replace(":", "-")
        assert file.read() == CONTENT
    with store.open(url, digest=f"sha256:{'0' * 64}") as file, pytest.raises(OSError, match="its digest is sha256:"):
        file.read()


def test_headers_go_to_the_origin_of_their_url_and_to_no_other(there: Path, odd: MisbehavingOrigin) -> None:
    for place in (odd.base, odd.other):
        url = f"{place}/b/redirect-port/random-1M-headers"
        with lazyfs.Store(store=there, headers={"X-Secret": "mine"}) as store, store.open(url) as file:
            file.read(1)
    sent = {line["path"].split("/")[1]: line["headers"].get("x-secret") for line in odd.log()}
    assert sent["b"] == "mine"


def test_what_is_known_of_a_url_and_of_a_directory(there: Path, store: lazyfs.Store, url: str, site: Site) -> None:
    (site.docroot / "some where" / "below").mkdir(parents=True)
    (site.docroot / "some where" / "a#b").write_bytes(b"1")
    with lazyfs.Store(store=there, hedge=0) as another, another.open(url) as file:
        file.read_at(0, BLOCK)
    info = store.info(url)
    assert (info.kind, info.name, info.size, info.cached, info.blob) == ("file", "data", len(CONTENT), BLOCK, file.blob)
    assert info.mtime_ns == int((site.docroot / "data").stat().st_mtime) * 10**9
    listed = store.scandir(site.url("some%20where"))
    assert [(found.name, found.kind, found.size) for found in listed] == [
        ("below", "directory", None),
        ("a#b", "file", 1),
    ]
    assert [found.url for found in listed] == [site.url("some%20where/below/"), site.url("some%20where/a%23b")]
    assert store.info(listed[0].url).kind == "directory"
    assert store.open(listed[1].url).read() == b"1"


def test_a_store_that_was_closed_says_so_and_another_of_the_same_options_goes_on(there: Path, url: str) -> None:
    one, other = lazyfs.Store(store=there), lazyfs.Store(store=there)
    file, kept = one.open(url), other.open(url)
    assert one.background(url) is other.background(url)
    one.close()
    one.close()
    assert file.read(5) == CONTENT[:5], "it is the same session"
    with pytest.raises(ValueError, match="the store was closed"):
        one.open(url)
    other.close()
    for which in (file, kept):
        with pytest.raises(ValueError, match="the store was closed"):
            which.read_at(0, 5)
        which.close()


def test_of_stores_that_nobody_uses_few_stay_open(there: Path, url: str) -> None:
    """As with tokens that are good for an hour: each is another setting."""
    before = {thread.ident for thread in threading.enumerate()}
    header = "Authorization"
    with lazyfs.open(url, store=there, headers={header: "Bearer first"}) as first:
        for number in range(KEPT + 4):
            with lazyfs.open(url, store=there, headers={header: f"Bearer {number}"}) as file:
                assert file.read(5) == CONTENT[:5]
        left = [one for one in threading.enumerate() if one.name == "lazyfs" and one.ident not in before]
        assert KEPT <= len(left) <= KEPT + 2, "besides, the first and the last one's"
        assert first.read(5) == CONTENT[:5], "its store is in use"
