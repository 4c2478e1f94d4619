"""gc, rm, pin, unpin, and names for blobs, with real mounts: what goes, what stays, and what it costs the origin."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import under
from tests.mounts import ENVIRONMENT, PATIENCE, ROOT, Mount, Mounts, lazyfs, on_mount, start
from tests.servers import Nginx

BLOCK = 256 * 1024
SIZE = 4 * BLOCK + 1000
NAMES = ("disk.img", "other.img")


@pytest.fixture
def contents(docroot: Path) -> dict[str, bytes]:
    """Two files on the origin."""
    made = {name: random.Random(name).randbytes(SIZE) for name in NAMES}
    for name, content in made.items():
        (docroot / name).write_bytes(content)
    return made


@pytest.fixture
def mount(nginx: Nginx, contents: dict[str, bytes], mounts: Mounts) -> Mount:
    """A mount of both."""
    return mounts(*(f"{nginx.url}/{name}" for name in contents))


def did(*words: str | Path) -> str:
    done = lazyfs(*words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(*words: str | Path) -> str:
    done = lazyfs(*words)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def listed(store: Path) -> dict[str, dict[str, Any]]:
    """What `ls` says, by the last part of the URL."""
    return {row["url"].rpartition("/")[2]: row for row in json.loads(did("ls", "--store", store, "--json"))}


def collected(store: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(did("gc", "--store", store, "--json", *words))
    return found


def read(mount: Mount, name: str, length: int = 1 << 30) -> bytes:
    return on_mount(under.read, mount.path(name), 0, length)


# Pins.


def test_a_pin_by_path_fetches_nothing_and_keeps_what_is_read_later(
    mount: Mount, nginx: Nginx, contents: dict[str, bytes]
) -> None:
    nginx.forget()
    did("pin", mount.path("disk.img"))
    assert nginx.requests() == []
    assert listed(mount.store)["disk.img"]["pinned"] is True
    for name in contents:
        assert read(mount, name) == contents[name]
    done = collected(mount.store, "--max-cache", "0")
    assert done["kept"]["pinned"] == 1
    rows = listed(mount.store)
    assert [(rows[name]["cached"], rows[name]["complete"]) for name in NAMES] == [(SIZE, True), (0, False)]
    assert "100 %, pinned" in did("ls", "--store", mount.store)
    blob = rows["disk.img"]["blob"]
    assert f"lazyfs unpin {blob}" in refused("rm", "--store", mount.store, f"{nginx.url}/disk.img")
    did("unpin", "--store", mount.store, blob[:20])
    did("rm", "--store", mount.store, blob[:20])
    assert list(listed(mount.store)) == ["other.img"]


# Removal.


def test_what_is_removed_is_fetched_again_when_it_is_read(
    mount: Mount, nginx: Nginx, contents: dict[str, bytes], mounts: Mounts
) -> None:
    for name in contents:
        assert read(mount, name) == contents[name]
    assert did("rm", "--store", mount.store, f"{nginx.url}/disk.img", f"{nginx.url}/other.img").count("removed") == 2
    assert listed(mount.store) == {}
    nginx.forget()
    assert on_mount(under.opened, mount.path("disk.img")).content == contents["disk.img"]  # perhaps from memory
    assert read(mounts(f"{nginx.url}/other.img"), "other.img") == contents["other.img"]
    assert nginx.body_bytes() >= SIZE - 1, "its first byte is known from the look-up"
    assert listed(mount.store)["other.img"]["complete"] is True


def test_who_has_it_open_is_named_and_keeps_it(mount: Mount, nginx: Nginx, contents: dict[str, bytes]) -> None:
    read(mount, "other.img", 1)
    reader = start(under.hold_and_read, mount.path("disk.img"))
    reader.wait_until_open()
    line = refused("rm", "--store", mount.store, f"{nginx.url}/disk.img", f"{nginx.url}/other.img")
    assert f"lazyfs mount {mount.at} (pid {mount.pid})" in line
    assert list(listed(mount.store)) == ["disk.img"], "the other went all the same"
    reader.go()
    assert reader.result() == contents["disk.img"]
    did("rm", "--store", mount.store, f"{nginx.url}/disk.img")


STAGING = """
import sys
from pathlib import Path
from lazyfs.store import Store, trash
store = Store.open(Path(sys.argv[1]))
assert trash.stage(store.layout, sys.argv[2])
print("staged", flush=True)
sys.stdin.read()
"""


def test_what_a_remover_leaves_is_taken_over_when_it_is_killed_and_not_before(
    mount: Mount, contents: dict[str, bytes]
) -> None:
    read(mount, "disk.img")
    blob = listed(mount.store)["disk.img"]["blob"]
    words = [sys.executable, "-c", STAGING, str(mount.store), blob]
    with subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as remover:
        assert remover.stdout is not None
        assert remover.stdout.readline() == b"staged\n"
        before = collected(mount.store)
        remover.kill()
    after = collected(mount.store)
    assert (before["leftovers"], before["rows"]) == (0, 1)
    assert (after["leftovers"], after["bytes_freed"] >= SIZE) == (1, True)
    assert os.listdir(mount.store / "trash") == []
    assert on_mount(under.opened, mount.path("disk.img")).content == contents["disk.img"]


FAILURES = {
    "rm of no blob": (["rm", "nope"], "'nope' is no blob"),
    "rm of an unknown blob": (["rm", "url-0000"], "see: lazyfs ls"),
    "rm of an unknown URL": (["rm", "http://h/none?sig=hidden"], "no blob of http://h/none;"),
    "rm of several": (["rm", "url-ABOUT"], "'url-ABOUT' is no blob"),
    "pin of no blob": (["pin", "nope"], "neither a path under a mount nor a blob"),
    "pin of another path": (["pin", "/etc/passwd"], "neither a path under a mount nor a blob"),
    "unpin of an unknown blob": (["unpin", "sha256-0000"], "see: lazyfs ls"),
    "name for an unknown blob": (["mount", "x=url-0000", "$AT"], "has no blob url-0000"),
    "name for another path": (["mount", "x=/etc/passwd", "$AT"], "/etc/passwd is not under a lazyfs mount"),
    "unsafe name for a blob": (["mount", "../x=url-0000", "$AT"], "'../x' cannot be the name"),
}


@pytest.mark.parametrize(("words", "says"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_is_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    for name in ("at", "store"):
        (tmp_path / name).mkdir(mode=0o700)
    command, *rest = [str(tmp_path / "at") if word == "$AT" else word for word in words]
    line = refused(command, "--store", tmp_path / "store", *rest)
    assert says in line
    assert "hidden" not in line


# Collection.


def test_old_versions_go_when_no_mount_shows_them(
    nginx: Nginx, docroot: Path, contents: dict[str, bytes], mounts: Mounts
) -> None:
    url = f"{nginx.url}/disk.img"
    first = mounts("--revalidate", "never", url)
    read(first, "disk.img")
    (docroot / "disk.img").write_bytes(contents["other.img"][:-1])
    second = mounts("--revalidate", "0", url)
    assert read(second, "disk.img") == contents["other.img"][:-1]
    assert collected(first.store)["kept"] == {"named by a mount": 1}
    nginx.forget()
    assert on_mount(under.opened, first.path("disk.img")).content == contents["disk.img"]
    assert nginx.body_bytes() == 0
    first.umount()
    log = first.store / "run" / "0123456789abcdef.log"
    log.write_text("of a mount that was here once")
    with socket.socket(socket.AF_UNIX) as dead, _directory(log.parent) as directory:
        dead.bind(f"{directory}/fedcba9876543210.sock")
    done = collected(first.store)
    assert (done["old_versions"], done["run_files"]) == (1, 3), "and the first one's log"
    assert not log.exists()
    assert "daemon" in did("status", second.at), "its socket is alive"
    nginx.stop()
    assert on_mount(under.opened, second.path("disk.img")).content == contents["other.img"][:-1]


def test_a_mount_that_does_not_say_keeps_old_versions(
    nginx: Nginx, docroot: Path, contents: dict[str, bytes], mounts: Mounts
) -> None:
    url = f"{nginx.url}/disk.img"
    first = mounts(url)
    read(first, "disk.img")
    (docroot / "disk.img").write_bytes(contents["other.img"][:-1])
    assert read(mounts("--revalidate", "0", url), "disk.img") == contents["other.img"][:-1]
    first.umount()
    with _mount_of_another_version(first.store):
        done = lazyfs("gc", "--store", first.store, "--json")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "does not say which it needs" in done.stderr
    assert json.loads(done.stdout)["old_versions"] == 0
    assert collected(first.store)["old_versions"] == 1


@contextlib.contextmanager
def _mount_of_another_version(store: Path) -> Iterator[None]:
    """Listen as a mount that knows nothing of such questions."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if self.rfile.readline():
                self.wfile.write(b'{"error": "the mount could not do it (KeyError)"}\n')

    with (
        _directory(store / "run") as directory,
        socketserver.ThreadingUnixStreamServer(f"{directory}/0123456789abcdef.sock", Handler) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[str]:
    """Yield a path to a directory that is short enough for a socket."""
    fd = os.open(path, os.O_RDONLY)
    yield f"/proc/self/fd/{fd}"
    os.close(fd)


def test_a_bound_out_of_reach_is_a_failure(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    (docroot / "large.img").write_bytes(bytes(20 << 20))
    mount = mounts(f"{nginx.url}/large.img")
    on_mount(under.sha256, mount.path("large.img"))
    did("pin", mount.path("large.img"))
    line = refused("gc", "--store", mount.store, "--max-cache", "1M")
    assert "more than 1.0 MiB" in line
    assert "1 blob pinned" in line


# Names.


def test_a_blob_is_named_under_another_mount_without_a_request(
    nginx: Nginx, contents: dict[str, bytes], mounts: Mounts
) -> None:
    first = mounts(f"{nginx.url}/disk.img", f"signed={nginx.url}/other.img?sig=secret")
    assert on_mount(under.read, first.path("disk.img"), SIZE - 1) == contents["disk.img"][-1:]
    blob = listed(first.store)["disk.img"]["blob"]
    nginx.forget()
    second = mounts(f"vm/by-id={blob[:20]}", blob)
    did("add", second.at, f"by-path={first.path('disk.img')}", first.path("signed"))
    names = {"vm/by-id": "disk.img", "disk.img": "disk.img", "by-path": "disk.img", "signed": "other.img"}
    for name, meant in names.items():
        assert (
            on_mount(under.attributes, second.path(name))["user.lazyfs.blob"]
            == on_mount(under.attributes, first.path("signed" if meant == "other.img" else meant))["user.lazyfs.blob"]
        )
    assert nginx.requests() == []
    assert {name: on_mount(under.sha256, second.path(name)) for name in names} == {
        name: on_mount(under.sha256, first.path("signed" if meant == "other.img" else meant))
        for name, meant in names.items()
    }
    assert {request.uri for request in nginx.requests()} == {"/disk.img", "/other.img?sig=secret"}
    assert nginx.body_bytes() <= 2 * SIZE + len(names)  # and a byte of metadata where a name was asked for again


def test_a_name_stays_with_its_blob_when_the_url_gets_another(
    nginx: Nginx, docroot: Path, contents: dict[str, bytes], mounts: Mounts
) -> None:
    url = f"{nginx.url}/disk.img"
    first = mounts("--revalidate", "0", url)
    assert on_mount(under.sha256, first.path("disk.img"))
    old = listed(first.store)["disk.img"]["blob"]
    (docroot / "disk.img").write_bytes(contents["other.img"][:-1])
    assert read(first, "disk.img") == contents["other.img"][:-1]
    second = mounts("--revalidate", "0", f"old={old}")
    assert read(second, "old") == contents["disk.img"]
    assert collected(first.store)["kept"] == {"named by a mount": 1}
    second.umount()
    assert collected(first.store)["old_versions"] == 1


def test_a_blob_whose_query_is_not_kept_is_named_with_a_warning_unless_it_is_whole(
    nginx: Nginx, contents: dict[str, bytes], mounts: Mounts
) -> None:
    first = mounts(f"disk={nginx.url}/disk.img?sig=secret")
    on_mount(under.read, first.path("disk"), SIZE - 1)
    blob = listed(first.store)["disk.img"]["blob"]
    at = first.at.parent / "second"
    at.mkdir()
    words: list[str | Path] = ["mount", "--store", first.store, f"x={blob}", at]
    done = lazyfs(*words)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert f"does not keep the query or the user of {nginx.url}/disk.img," in done.stderr
    did("umount", at)
    assert lazyfs("fetch", first.path("disk")).returncode == 0
    did(*words)
    nginx.stop()
    assert on_mount(under.read, os.path.join(at, "x")) == contents["disk.img"]
    did("umount", at)


def test_a_path_of_another_store_is_refused(mount: Mount, nginx: Nginx, mounts: Mounts, tmp_path: Path) -> None:
    other = mounts(f"{nginx.url}/disk.img", store=tmp_path / "other")
    assert "is in another store" in refused("add", other.at, f"x={mount.path('disk.img')}")


# Fetching by several processes.


@pytest.mark.parametrize("interrupted", [False, True])
def test_several_that_fetch_are_one_download_and_the_end_of_one_leaves_the_others_going(
    tmp_path: Path, docroot: Path, interrupted: bool
) -> None:
    size = 10 << 20
    (docroot / "large.img").write_bytes(random.Random(3).randbytes(size))
    with Nginx(tmp_path / "slow", docroot, server="limit_rate 4m; sendfile_max_chunk 256k;") as nginx:
        store = tmp_path / "store"
        first, *others = [_fetching(store, f"{nginx.url}/large.img") for _ in range(3)]
        if interrupted:
            while not _cached(store) > 2 << 20:
                assert first.poll() is None
            first.send_signal(signal.SIGINT)
        errors = [each.communicate(timeout=PATIENCE)[1] for each in (first, *others)]
        assert [each.returncode for each in (first, *others)] == [130 if interrupted else 0, 0, 0], errors
        assert listed(store)["large.img"]["complete"] is True
        twice = nginx.body_bytes() - size
    assert twice <= (4 << 20 if interrupted else 3), "what was on its way to who ended; a byte of metadata for each"


def _fetching(store: Path, url: str) -> subprocess.Popen[bytes]:
    words: list[str | Path] = [sys.executable, "-m", "lazyfs", "fetch", "--store", store, url]
    return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE)


def _cached(store: Path) -> int:
    """The bytes in the data files of a store, as far as they are there."""
    return sum(path.stat().st_blocks * 512 for path in store.glob("blobs/*/*/data"))
