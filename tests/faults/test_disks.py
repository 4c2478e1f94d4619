"""A store on a disk that is full, fills up, or may not be written: readers always get the right bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazyfs import records
from lazyfs.store import Store
from lazyfs.store.trouble import ERRORS, PAUSE, Trouble
from lazyfs.versions import BlobId
from tests import under
from tests.faults.disks import KINDS, MIB, Disk, known
from tests.mounts import Mount, Mounts, lazyfs, on_mount
from tests.servers import Nginx

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount file systems")

BLOCK = records.MIN_BLOCK_SIZE
BLOB = BlobId("url-" + "ab" * 32)

Contents = dict[str, bytes]


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    with Disk(tmp_path / "disk", getattr(request, "param", "tmpfs")) as disk:
        yield disk


@pytest.fixture
def contents(docroot: Path) -> Contents:
    """What the origin has."""
    dice = random.Random(9)
    contents = {"small": dice.randbytes(3 * MIB + 5), "large": dice.randbytes(16 * MIB)}
    for name, content in contents.items():
        (docroot / name).write_bytes(content)
    return contents


@pytest.fixture
def store(disk: Disk) -> Path:
    """A store on the disk, with nothing in it yet."""
    path = disk.at / "store"
    Store.open(path).close()
    return path


def reads_right(mount: Mount, contents: Contents, *names: str) -> bool:
    return all(on_mount(under.read, mount.path(name)) == contents[name] for name in names)


@pytest.mark.parametrize("disk", [kind for kind in KINDS if known(kind)], indirect=True)
def test_a_disk_that_is_full_and_then_has_some_room(
    disk: Disk, store: Path, mounts: Mounts, nginx: Nginx, contents: Contents
) -> None:
    disk.fill()
    mount = mounts(f"{nginx.url}/", store=store)
    nginx.forget()
    assert reads_right(mount, contents, "small")
    assert nginx.body_bytes() < 1.1 * len(contents["small"]), "what was read once is not fetched for each read"
    assert mount.status()["degraded"] == "No space left on device"
    assert "degraded: No space left on device" in lazyfs("status", mount.at).stdout
    assert "Traceback" not in mount.log()
    mount.umount()
    disk.give_back()
    disk.fill(leave=8 * MIB)
    mount = mounts(f"{nginx.url}/", store=store)
    assert reads_right(mount, contents, "small", "large")
    status = mount.status()
    long_writes = disk.kind == "btrfs"  # which gives back the space of one only with its last block
    if not long_writes:
        assert status["degraded"] is None, "it makes room by itself"
        assert status["counters"]["blocks_bypassed"] < status["counters"]["blocks_fetched"] / 4
    mount.umount()
    with contextlib.closing(Store.open(store)) as opened:
        assert opened.catalogue.joined
        # Where evicting gives nothing back, one block goes after the other, and little may be left.
        assert (0 if long_writes else 3 * MIB) < opened.bytes_on_disk() <= 8 * MIB
        assert len(opened.catalogue.blobs()) == 2


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_a_disk_that_becomes_read_only_under_a_mount(
    disk: Disk, store: Path, mounts: Mounts, nginx: Nginx, contents: Contents
) -> None:
    mount = mounts(f"{nginx.url}/", store=store)
    assert on_mount(under.read, mount.path("large"), 0, MIB) == contents["large"][:MIB]
    disk.fail()
    assert reads_right(mount, contents, "small", "large")
    assert mount.status()["degraded"] == "Read-only file system"
    assert "Traceback" not in mount.log()
    mount.umount()


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_a_store_that_is_read_only_from_the_start(
    disk: Disk, store: Path, mounts: Mounts, nginx: Nginx, contents: Contents
) -> None:
    mount = mounts(f"{nginx.url}/", store=store)
    assert reads_right(mount, contents, "small")
    mount.umount()
    disk.mount_again("ro")
    nginx.forget()
    mount = mounts(f"{nginx.url}/", store=store, options=["--max-cache", "1G"])
    assert reads_right(mount, contents, "small", "large")
    assert sum(request.body_bytes for request in nginx.requests() if request.uri == "/small") <= 1, "it has it"
    assert mount.status()["degraded"] == "Read-only file system"
    assert mount.log().count("cannot take blocks") == 1
    shown = json.loads(lazyfs("status", "--store", store, "--json").stdout)
    assert (shown["store"]["blobs"], shown["store"]["degraded"]) == (1, "Read-only file system")
    assert [found["mountpoint"] for found in shown["mounts"]] == [str(mount.at)]
    done = lazyfs("fetch", "--store", store, f"{nginx.url}/large")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Read-only file system" in done.stderr
    mount.umount()
    offline = mounts(f"{nginx.url}/", store=store, options=["--offline"])
    assert reads_right(offline, contents, "small")
    offline.umount()
    done = lazyfs("mount", "--store", disk.at / "none", f"{nginx.url}/", mount.at)
    assert done.returncode == 1
    assert done.stderr == (
        f"lazyfs: the store {disk.at}/none cannot be used: Read-only file system; name another with --store\n"
    )


def test_min_free_on_a_small_disk(disk: Disk, store: Path, mounts: Mounts, nginx: Nginx, contents: Contents) -> None:
    mount = mounts(f"{nginx.url}/", store=store, options=["--min-free", "6M"])
    assert reads_right(mount, contents, "large")
    assert 5 * MIB < disk.free < 8 * MIB
    assert mount.status()["degraded"] is None
    disk.fill(leave=6 * MIB)  # by somebody else: what was ours goes
    assert reads_right(mount, contents, "small")
    mount.umount()


def test_a_locked_catalogue_delays_nobody(
    store: Path, mounts: Mounts, nginx: Nginx, docroot: Path, contents: Contents
) -> None:
    (docroot / "below").mkdir()
    with contextlib.closing(sqlite3.connect(store / "catalogue.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # a process that is stopped in the middle of a write
        mount = mounts(f"{nginx.url}/", store=store, options=["--max-cache", "1M"])
        timed = on_mount(under.timed_read, mount.path("small"))
        assert (timed.error, timed.content) == (0, contents["small"][:4096])
        assert timed.seconds < 5, "less than anybody waits for the lock"
        assert max(on_mount(under.timed_look, mount.path("below"), ["none"])) < 5
        assert on_mount(under.pass_through, mount.path("large")).longest_gap < 5, "nor does who evicts"
        other.execute("ROLLBACK")
    mount.umount()
    with contextlib.closing(Store.open(store)) as opened:
        assert {row.url for row in opened.catalogue.blobs()} == {f"{nginx.url}/small", f"{nginx.url}/large"}


def test_a_degraded_store_is_tried_again_after_a_while(disk: Disk, store: Path) -> None:
    now = [0.0]
    with contextlib.closing(Store.open(store, BLOCK)) as opened:
        trouble = Trouble(lambda: now[0])
        object.__setattr__(opened, "trouble", trouble)
        disk.fill()
        missing = opened.open_blob(BLOB, "http://h/", 4 * BLOCK)
        assert not missing.writable
        assert opened.write(missing, 0, [bytes(BLOCK)]) == [records.MISSING]
        missing.close()
        for _ in range(ERRORS):
            opened.open_blob(BLOB, "http://h/", 4 * BLOCK).close()
        assert trouble.degraded
        disk.give_back()
        blob = opened.open_blob(BLOB, "http://h/", 4 * BLOCK)
        assert opened.write(blob, 0, [bytes(BLOCK)]) == [records.MISSING], "it is at rest"
        now[0] += PAUSE
        checksum = opened.write(blob, 0, [bytes(BLOCK)])[0]
        assert checksum != records.MISSING
        opened.record(lambda: blob.record(0, checksum), BLOCK)
        assert trouble.reason == ""
        assert bytes(blob.read(0, wait=True) or b"") == bytes(BLOCK)
        blob.close()
