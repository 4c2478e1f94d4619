"""A mount of files on a real nginx: what is shown, what is read, what that costs the origin, and how it ends."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import under
from tests.mounts import Mounts, lazyfs, on_mount, run, start
from tests.servers import Nginx

BLOCK = 256 * 1024
MIB = 1 << 20


def made(docroot: Path, name: str, size: int, seed: int = 1) -> Path:
    """Make a file of random bytes."""
    path = docroot / name
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What is shown.


def test_a_file_is_listed_at_once_with_size_and_date(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "disk.img", 40 * MIB)
    os.utime(docroot / "disk.img", (1_600_000_000, 1_600_000_000))
    mount = mounts(nginx.url + "/disk.img", f"other={nginx.url}/disk.img?x=1")
    seen = on_mount(under.look, mount.path())
    assert seen == dict.fromkeys(("disk.img", "other"), under.Seen(0o444, 40 * MIB, 1_600_000_000 * 10**9))
    assert nginx.body_bytes() <= 2, "a listing costs the metadata and nothing else"


ODD = [
    "with space",
    "per%25cent",
    "plus+and&amp",
    "ünï.bin",
    "hash#mark",
    "question?mark",
    "'quote\"",
    "\\slash",
    "-x",
]
"""Names that a URL, HTML or a shell would take for something else."""


def test_odd_names(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    contents = {name: made(docroot, name, 1000, seed).read_bytes() for seed, name in enumerate(ODD)}
    mount = mounts(nginx.url + "/")
    assert on_mount(under.names, mount.path()) == sorted(ODD)
    assert {name: on_mount(under.read, mount.path(name)) for name in ODD} == contents


def test_sizes_around_a_block(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    sizes = [0, 1, 4095, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 5]
    contents = {f"{size}": made(docroot, f"{size}", size).read_bytes() for size in sizes}
    mount = mounts(*(f"{nginx.url}/{size}" for size in sizes))
    assert {name: seen.size for name, seen in on_mount(under.look, mount.path()).items()} == {
        f"{size}": size for size in sizes
    }
    for name, content in contents.items():
        path = mount.path(name)
        assert on_mount(under.read, path, max(len(content) - 1, 0), 10) == content[-1:]
        assert on_mount(under.read, path) == content
        assert on_mount(under.read, path, len(content) + 10, 10) == b""
    assert sum(request.body_bytes for request in nginx.requests() if request.status == 206) == sum(sizes)


def test_extended_attributes(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    content = made(docroot, "blob", BLOCK + 10)
    mount = mounts(nginx.url.replace("//", "//user:secret@") + "/blob?token=secret")
    before = on_mount(under.attributes, mount.path("blob"))
    assert before["user.lazyfs.url"] == nginx.url + "/blob"
    assert before["user.lazyfs.cached"] == "0"
    assert re.fullmatch(r'"[0-9a-f]+-[0-9a-f]+"', before["user.lazyfs.etag"])
    assert re.fullmatch(r"url-[0-9a-f]{64}", before["user.lazyfs.blob"])
    assert "user.lazyfs.digest" not in before
    assert on_mount(under.sha256, mount.path("blob")) == digest(content)
    after = on_mount(under.attributes, mount.path("blob"))
    assert after == before | {"user.lazyfs.cached": str(BLOCK + 10)}
    assert "secret" not in mount.log()


def test_what_a_manifest_says_is_shown(nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path) -> None:
    content = made(docroot, "blob", 70_000)
    url = nginx.url + "/blob"
    entries = [
        {"path": "plain", "url": url},
        {"path": "dir/tool", "url": url, "size": 70_000, "mode": "0755", "mtime": 1_500_000_000.25},
        {"path": "dir/link", "symlink": "../plain", "mtime": "2020-02-02T02:02:02Z"},
        {"path": "dangling", "symlink": "no/such"},
        {"path": "checked", "url": url, "digest": "sha256:" + digest(content)},
    ]
    manifest = tmp_path / "files.jsonl"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    mount = mounts(manifest)
    on_mount(under.wait_for_names, mount.path(), 4, 10.0)
    seen = on_mount(under.tree, mount.path())
    assert seen["dir/tool"] == under.Seen(0o755, 70_000, 1_500_000_000_250_000_000)
    assert seen["dir/link"] == under.Seen(0o777, 8, 1_580_608_922 * 10**9, "../plain")
    assert seen["dangling"].target == "no/such"
    assert seen["plain"] == under.Seen(0o444, 70_000, int(content.stat().st_mtime) * 10**9)
    assert on_mount(under.sha256, mount.path("dir/link")) == digest(content)
    attributes = on_mount(under.attributes, mount.path("checked"))
    assert attributes["user.lazyfs.digest"] == "sha256:" + digest(content)
    assert attributes["user.lazyfs.blob"] == "sha256-" + digest(content)


def test_statfs_tells_what_is_there_and_that_nothing_is_free(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "a", 3 * MIB)
    made(docroot, "b", 5 * MIB)
    mount = mounts(nginx.url + "/a", nginx.url + "/b")
    room = on_mount(under.room, mount.path())
    assert (room.f_blocks * room.f_frsize, room.f_bfree, room.f_files, room.f_namemax) == (8 * MIB, 0, 2, 255)
    assert room.f_flag & os.ST_RDONLY
    assert room.f_flag & os.ST_NOSUID


# What is read, and what it costs.


def test_a_small_read_moves_little_and_a_whole_one_each_byte_once(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "disk.img", 64 * MIB)
    mount = mounts(nginx.url + "/disk.img")
    with source.open("rb") as file:
        for offset in (0, 33 * MIB + 123, 64 * MIB - 4096, 17 * MIB - 2048, 50 * MIB):
            nginx.forget()
            file.seek(offset)
            assert on_mount(under.timed_read, mount.path("disk.img"), offset).content == file.read(4096)
            assert nginx.body_bytes() <= MIB
    assert on_mount(under.sha256, mount.path("disk.img")) == digest(source)
    fetched = mount.counters()
    assert fetched["origin_bytes"] == 64 * MIB
    assert fetched["blocks_fetched"] == 256
    nginx.forget()
    mount.umount()
    again = mounts(nginx.url + "/disk.img")
    assert on_mount(under.sha256, again.path("disk.img")) == digest(source)
    assert nginx.body_bytes() == 0, "the store has all of it"


def test_mapped_and_direct_reads(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * MIB + 4096 + 77)
    mount = mounts(nginx.url + "/blob")
    content = source.read_bytes()
    for offset, length in ((0, 4096), (2 * MIB - 4096, MIB), (3 * MIB + 4096, 4096)):
        assert on_mount(under.direct_read, mount.path("blob"), offset, length) == content[offset : offset + length]
    assert on_mount(under.mapped_sha256, mount.path("blob")) == digest(source)
    assert nginx.body_bytes() == len(content)


def test_random_readers_see_what_the_source_holds(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 24 * MIB + 1234)
    first, second = mounts(nginx.url + "/blob"), mounts(nginx.url + "/blob")
    tasks = [
        start(under.differing_reads, mount.path("blob"), str(source), 4, 100, seed)
        for seed, mount in enumerate((first, second, first))
    ]
    assert [task.result() for task in tasks] == [[], [], []]
    assert nginx.body_bytes() <= 24 * MIB + 1234 + 2


def test_a_reader_keeps_what_it_opened_when_the_name_is_removed(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * MIB)
    mount = mounts(nginx.url + "/blob")
    reader = start(under.hold_and_read, mount.path("blob"))
    reader.wait_until_open()
    assert lazyfs("remove", mount.at, "blob").returncode == 0
    assert on_mount(under.errno_of_stat, mount.path("blob")) == errno.ENOENT
    assert reader.result() == source.read_bytes()


def test_ordinary_tools_find_their_way(nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path) -> None:
    for number in range(3):
        (docroot / "a" / "b").mkdir(parents=True, exist_ok=True)
        made(docroot / "a" / "b", f"f{number}", 100_000 + number, number)
    os.utime(docroot / "a" / "b" / "f0", (1_600_000_020, 1_600_000_020))  # a whole minute: all that the index shows
    mount = mounts(nginx.url + "/")
    found = run(["find", mount.at, "-type", "f", "-size", "+97k", "-printf", "%P %s\n"]).stdout
    assert sorted(found.splitlines()) == ["a/b/f0 100000", "a/b/f1 100001", "a/b/f2 100002"]
    assert run(["du", "-sb", "--apparent-size", mount.path("a/b/f1")]).stdout.split()[0] == "100001"
    run(["cp", "-a", mount.path("a"), tmp_path / "copy"])
    run(["chmod", "-R", "u+w", tmp_path / "copy"])
    run(["diff", "-r", docroot / "a", tmp_path / "copy"])
    assert (tmp_path / "copy" / "b" / "f0").stat().st_mtime == 1_600_000_020


# What is refused.


def test_nothing_can_be_written(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", 10)
    mount = mounts(nginx.url + "/blob")
    refused = on_mount(under.attempts_to_write, mount.path(), mount.path("blob"))
    assert {name: code for name, code in refused.items() if code not in (errno.EROFS, errno.EACCES)} == {}
    assert on_mount(under.read, mount.path("blob")) == (docroot / "blob").read_bytes()


def test_a_missing_name_is_enoent_and_costs_nothing(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", 10)
    mount = mounts(nginx.url + "/blob")
    nginx.forget()
    for name in ("missing", "blob2", "dir/below", "x" * 255):
        assert on_mount(under.errno_of_stat, mount.path(name)) == errno.ENOENT
    assert on_mount(under.errno_of_stat, mount.path("blob/below")) == errno.ENOTDIR
    assert nginx.requests() == []
    assert mount.counters()["errors"] == 0


# Its commands.


def test_status_has_the_keys_that_scripts_rely_on(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", 3 * BLOCK)
    mount = mounts(nginx.url + "/blob")
    on_mount(under.read, mount.path("blob"), BLOCK, 5000)
    shown = json.loads(lazyfs("status", "--store", mount.store, "--json").stdout)
    assert set(shown) == {"store", "mounts"}
    assert set(shown["store"]) == {"path", "format", "blobs", "bytes_on_disk", "max_cache", "min_free", "degraded"}
    assert shown["store"] | {"bytes_on_disk": 0} == {
        "path": str(mount.store),
        "format": 1,
        "blobs": 1,
        "bytes_on_disk": 0,
        "max_cache": None,
        "min_free": None,
        "degraded": None,
    }
    assert BLOCK <= shown["store"]["bytes_on_disk"] <= 2 * BLOCK
    (described,) = shown["mounts"]
    assert described.items() >= {"mountpoint": str(mount.at), "pid": mount.pid, "files": 1}.items()
    counters = described["counters"]
    assert counters.items() >= {"origin_requests": 2, "origin_bytes": BLOCK + 1, "blocks_fetched": 1}.items()
    assert counters["reads"] >= 1
    assert counters["read_bytes"] >= 5000
    assert {"blocks_awaited", "blocks_hit", "blocks_corrupt", "retries", "errors"} <= set(counters)
    assert all(type(count) is int for count in counters.values())
    table = lazyfs("status", mount.at)
    assert str(mount.at) in table.stdout
    assert json.loads(lazyfs("ls", "--store", mount.store, "--json").stdout)[0]["cached"] == BLOCK


def test_names_are_added_and_removed(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    content = made(docroot, "a", 100).read_bytes()
    made(docroot, "b", 200)
    mount = mounts(nginx.url + "/a")
    assert on_mount(under.errno_of_stat, mount.path("c")) == errno.ENOENT
    assert lazyfs("add", mount.at, "c=" + nginx.url + "/b", "d=" + nginx.url + "/a").returncode == 0
    assert on_mount(under.names, mount.path()) == ["a", "c", "d"]
    assert on_mount(under.read, mount.path("d")) == content
    assert lazyfs("remove", mount.at, "a", "c").returncode == 0
    assert on_mount(under.names, mount.path()) == ["d"]
    for words in (("add", mount.at, nginx.url + "/404"), ("remove", mount.at, "a")):
        failed = lazyfs(*words)
        assert failed.returncode == 1
        assert len(failed.stderr.splitlines()) == 1
    assert on_mount(under.names, mount.path()) == ["d"]


def test_fetch_by_path_completes_the_blob_of_a_mount(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 5 * MIB + 3)
    mount = mounts(nginx.url + "/blob")
    on_mount(under.read, mount.path("blob"), 3 * MIB, 10)
    done = lazyfs("fetch", mount.path("blob"))
    assert (done.returncode, done.stdout.partition(" in ")[0]) == (0, "fetched blob, 5.0 MiB")
    assert on_mount(under.attributes, mount.path("blob"))["user.lazyfs.cached"] == str(5 * MIB + 3)
    nginx.stop()
    assert on_mount(under.sha256, mount.path("blob")) == digest(source)
    assert mount.counters()["origin_bytes"] == 5 * MIB + 3
    assert lazyfs("fetch", mount.path("missing")).returncode == 1


def test_fetch_writes_out_and_checks(nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    source = made(docroot, "blob", 2 * MIB + 3)
    out, url = tmp_path / "out", nginx.url + "/blob"
    words: list[str | Path] = ["fetch", "--store", tmp_path / "store", "-o", out, "--digest"]
    assert lazyfs(*words, "sha256:" + digest(source), url).returncode == 0
    assert out.read_bytes() == source.read_bytes()
    out.unlink()
    wrong = lazyfs(*words, "sha256:" + "0" * 64, url)
    assert wrong.returncode == 1
    assert digest(source) in wrong.stderr
    assert list(tmp_path.glob("*out*")) == []
    assert lazyfs(*words, "md5:1", url).returncode == 2
    assert nginx.body_bytes() == 2 * MIB + 3


def test_fetch_writes_into_what_is_no_file_and_leaves_it_there(nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    source, pipe = made(docroot, "blob", MIB), tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        content = pool.submit(pipe.read_bytes)
        done = lazyfs("fetch", "--store", tmp_path / "store", "-o", pipe, nginx.url + "/blob")
        assert done.returncode == 0, done.stderr
        assert content.result(30) == source.read_bytes()
    assert pipe.is_fifo()


def test_fetch_in_four_processes_costs_the_bytes_once(nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    source = made(docroot, "blob", 32 * MIB)
    outs = [tmp_path / f"out{number}" for number in range(4)]

    def fetch(out: Path) -> int:
        return lazyfs("fetch", "--store", tmp_path / "store", "-o", out, nginx.url + "/blob").returncode

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(fetch, outs)) == [0] * 4
    assert {digest(out) for out in outs} == {digest(source)}
    assert 32 * MIB <= nginx.body_bytes() <= 32 * MIB + 4, "the bytes once, and a byte of metadata for each process"


# How it ends.


def test_a_busy_mount_names_its_holder_and_goes_lazily(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * MIB)
    mount = mounts(nginx.url + "/blob")
    reader = start(under.hold_and_read, mount.path("blob"))
    reader.wait_until_open()
    busy = lazyfs("umount", mount.at)
    assert busy.returncode == 1
    assert f"(pid {reader.pid})" in busy.stderr
    assert len(busy.stderr.splitlines()) == 1
    assert lazyfs("umount", "--lazy", mount.at).returncode == 0
    assert list(mount.at.iterdir()) == []
    assert reader.result() == source.read_bytes()


def test_after_a_crash_the_place_is_mounted_again(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", MIB)
    mount = mounts(nginx.url + "/blob")
    live = lazyfs("mount", "--store", mount.store, nginx.url + "/blob", mount.at)
    assert live.returncode == 1
    assert "has a mount already" in live.stderr
    mount.kill()
    assert on_mount(under.errno_of_stat, mount.path("blob")) == errno.ENOTCONN
    again = mounts(nginx.url + "/blob", at=mount.at)
    assert on_mount(under.sha256, again.path("blob")) == digest(source)
    again.kill()
    assert lazyfs("umount", mount.at).returncode == 0
    assert list(mount.at.iterdir()) == []
    assert json.loads(lazyfs("status", "--store", mount.store, "--json").stdout)["mounts"] == []


def test_the_mountpoint_and_the_store_are_not_open_to_others(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", 10)
    mount = mounts(nginx.url + "/blob")
    assert stat.S_IMODE(mount.store.stat().st_mode) == 0o700
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(mount.at) in line)
    assert {"ro", "nosuid", "nodev"} <= set(line.split()[5].split(","))
