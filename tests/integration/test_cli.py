"""The commands as a person meets them: each failure is one line that names the thing, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pytest

from tests import under
from tests.mounts import ENVIRONMENT, PATIENCE, ROOT, Leftovers, Mounts, lazyfs, on_mount, start, wait_for_end
from tests.servers import MisbehavingOrigin, Nginx

DISK = bytes(range(256)) * 4096
"""What the origin has as disk.img: 1 MiB."""


@dataclass(frozen=True)
class World:
    """An nginx and a directory with what the failures need; `at` is an empty directory, `store` is not there yet."""

    base: Path
    nginx: Nginx

    def word(self, text: str) -> str:
        """Fill in the places in a word of a command."""
        places = {"URL": self.nginx.url, "TLS": self.nginx.url.removeprefix("http"), "BASE": str(self.base)}
        return Template(text).substitute(places, AT=f"{self.base}/at")

    def run(self, words: str, *last: str) -> subprocess.CompletedProcess[str]:
        """Run a command; `words` are parted by spaces, those in `last` may have some."""
        command, *rest = [*map(self.word, words.split()), *last]
        return lazyfs(command, *rest)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Make the world, once for all failures: none of them may change it."""
    base = tmp_path_factory.mktemp("world")
    for name in ("docroot", "at", "foreign", "open", "newer"):
        (base / name).mkdir(mode=0o700)
    (base / "docroot" / "disk.img").write_bytes(DISK)
    (base / "docroot" / "a.txt").write_text("hello\n")
    (base / "foreign" / "letter").write_text("not a store")
    (base / "open" / "letter").write_text("not a store")
    (base / "open").chmod(0o755)
    (base / "newer" / "FORMAT").write_text("lazyfs store 99\n")
    (base / "file").write_text("a file")
    (base / "not.toml").write_text("not toml [")
    (base / "other.toml").write_text("[other]\n")
    (base / "latin.toml").write_bytes(b"\xff\xfe")
    (base / "headers").write_text("Good: one\nbad\n")
    (base / "binary").write_bytes(b"\xff\xfe")
    with Nginx(base / "nginx", base / "docroot") as nginx:
        yield World(base, nginx)


MOUNT = "mount --store $BASE/store"
FAILURES = {
    # What is there, and what is not.
    "404": (f"{MOUNT} $URL/none.img $AT", 1, ["$URL/none.img", "HTTP 404", "check the URL"]),
    "one of two is 404": (f"{MOUNT} $URL/disk.img $URL/none.img $AT", 1, ["$URL/none.img", "404"]),
    "index 404": (f"{MOUNT} $URL/none/ $AT", 1, ["$URL/none/", "404"]),
    "manifest 404": (f"{MOUNT} $URL/none.jsonl $AT", 1, ["$URL/none.jsonl", "404"]),
    "no such host": (f"{MOUNT} http://no-such-host.invalid/x.img $AT", 1, ["no-such-host.invalid", "cannot connect"]),
    "nobody listens": (f"{MOUNT} http://127.0.0.1:1/x.img $AT", 1, ["http://127.0.0.1:1/x.img", "Connection refused"]),
    "proxy refuses": (f"{MOUNT} --proxy http://127.0.0.1:1 $URL/x.img $AT", 1, ["Connection refused"]),
    "no tls there": (f"{MOUNT} https$TLS/disk.img $AT", 1, ["disk.img", "TLS"]),
    "offline and unknown": (f"{MOUNT} --offline $URL/new.img $AT", 1, ["$URL/new.img", "--offline"]),
    # The store.
    "store is a file": ("mount --store $BASE/file $URL/disk.img $AT", 1, ["$BASE/file", "Not a directory", "--store"]),
    "store below a file": ("mount --store $BASE/file/x $URL/disk.img $AT", 1, ["$BASE/file/x", "--store"]),
    "store cannot be made": ("mount --store /proc/x $URL/disk.img $AT", 1, ["/proc/x", "--store"]),
    "foreign store": ("mount --store $BASE/foreign $URL/disk.img $AT", 1, ["$BASE/foreign", "not a store", "--store"]),
    "store open to others": ("mount --store $BASE/open $URL/disk.img $AT", 1, ["$BASE/open", "chmod 700"]),
    "newer store": ("mount --store $BASE/newer $URL/disk.img $AT", 1, ["$BASE/newer", "format 99", "upgrade"]),
    "store under mountpoint": ("mount --store $AT/s $URL/disk.img $AT", 1, ["$AT/s", "under the mountpoint $AT"]),
    "store is mountpoint": ("mount --store $AT $URL/disk.img $AT", 1, ["under the mountpoint $AT"]),
    "mountpoint in store": ("mount --store $BASE $URL/disk.img $AT", 1, ["$AT is inside the store $BASE"]),
    "status without store": ("status --store $BASE/none", 1, ["no store at $BASE/none", "--store"]),
    "gc without store": ("gc --store $BASE/none", 1, ["no store at $BASE/none", "--store"]),
    "ls without store": ("ls --store $BASE/none", 1, ["no store at $BASE/none", "--store"]),
    # The mountpoint.
    "mountpoint missing": (f"{MOUNT} $URL/disk.img $BASE/none", 1, ["$BASE/none", "mkdir -p"]),
    "mountpoint a file": (f"{MOUNT} $URL/disk.img $BASE/file", 1, ["$BASE/file", "not a directory"]),
    "umount of no mount": ("umount $AT", 1, ["$AT is not a lazyfs mount"]),
    "umount of another": ("umount /proc", 1, ["/proc is not a lazyfs mount"]),
    "umount of nothing": ("umount $BASE/none", 1, ["$BASE/none is not a lazyfs mount"]),
    "status of no mount": ("status $AT", 1, ["$AT is not a lazyfs mount"]),
    "add to no mount": ("add $AT $URL/a.txt", 1, ["$AT is not a lazyfs mount"]),
    "remove from no mount": ("remove $AT a.txt", 1, ["$AT is not a lazyfs mount"]),
    # Sources.
    "manifest missing": (f"{MOUNT} $BASE/none.jsonl $AT", 1, ["$BASE/none.jsonl", "not there"]),
    "manifest not toml": (f"{MOUNT} $BASE/not.toml $AT", 1, ["$BASE/not.toml", "not TOML", "line 1"]),
    "manifest of no files": (f"{MOUNT} $BASE/other.toml $AT", 1, ["$BASE/other.toml", "[[file]]"]),
    "manifest not utf-8": (f"{MOUNT} $BASE/latin.toml $AT", 1, ["$BASE/latin.toml", "UTF-8"]),
    "no source": (f"{MOUNT} disk.img $AT", 1, ["'disk.img' is no source"]),
    "other scheme": (f"{MOUNT} ftp://host/x $AT", 1, ["ftp://host/x", "no source"]),
    "image's name": (f"{MOUNT} oci://host/X $AT", 1, ["oci://host/X", "lower case"]),
    "platform": (f"{MOUNT} --platform linux oci://host/x $AT", 2, ["'--platform'", "OS/ARCHITECTURE"]),
    "unsafe name": (f"{MOUNT} ../x=$URL/disk.img $AT", 1, ["'../x'", "unsafe"]),
    "absolute name": (f"{MOUNT} /x=$URL/disk.img $AT", 1, ["'/x'", "absolute"]),
    "empty name": (f"{MOUNT} =$URL/disk.img $AT", 1, ["''", "empty"]),
    "unsafe url": (f"{MOUNT} $URL/%2e%2e $AT", 1, ["$URL/%2e%2e", "NAME=URL"]),
    "nul in url": (f"{MOUNT} $URL/a%00b $AT", 1, ["NUL", "NAME=URL"]),
    "name taken": (f"{MOUNT} $URL/disk.img disk.img=$URL/a.txt $AT", 1, ["the name is taken"]),
    # Options.
    "block size no number": (f"{MOUNT} --block-size x $URL/disk.img $AT", 2, ["--block-size", "'x'"]),
    "block size odd": (f"{MOUNT} --block-size 100K $URL/disk.img $AT", 2, ["--block-size", "'100K'", "power of two"]),
    "block size large": (f"{MOUNT} --block-size 16M $URL/disk.img $AT", 2, ["--block-size", "64K to 8M"]),
    "read timeout": (f"{MOUNT} --read-timeout soon $URL/disk.img $AT", 2, ["--read-timeout", "'soon'"]),
    "read timeout negative": (f"{MOUNT} --read-timeout=-1 $URL/disk.img $AT", 2, ["--read-timeout", "'-1'"]),
    "header": (f"{MOUNT} --header foo $URL/disk.img $AT", 2, ["--header", "Name: value"]),
    "header of ours": (f"{MOUNT} --header Range:x $URL/disk.img $AT", 2, ["--header", "Range"]),
    "header file missing": (f"{MOUNT} --header-file $BASE/no $URL/disk.img $AT", 2, ["$BASE/no", "No such file"]),
    "header file bad": (f"{MOUNT} --header-file $BASE/headers $URL/disk.img $AT", 2, ["$BASE/headers, line 2"]),
    "header file binary": (f"{MOUNT} --header-file $BASE/binary $URL/disk.img $AT", 2, ["$BASE/binary", "not text"]),
    "ca file missing": (f"{MOUNT} --ca-file $BASE/no $URL/disk.img $AT", 2, ["$BASE/no", "No such file"]),
    "ca file bad": (f"{MOUNT} --ca-file $BASE/file $URL/disk.img $AT", 2, ["$BASE/file", "certificate"]),
    "proxy": (f"{MOUNT} --proxy foo $URL/disk.img $AT", 2, ["--proxy", "URL"]),
    "to write": (f"{MOUNT} -o rw $URL/disk.img $AT", 2, ["rw", "ro,nosuid,nodev"]),
    "with devices": (f"{MOUNT} -o noatime,dev $URL/disk.img $AT", 2, ["dev", "ro,nosuid,nodev"]),
    "fuse option of ours": (f"{MOUNT} -o noatime,max_read=131072 $URL/disk.img $AT", 2, ["max_read", "-o"]),
    "fuse option": (f"{MOUNT} -o nonsense $URL/disk.img $AT", 1, ["cannot mount at $AT", "nonsense"]),
    "no source and mountpoint": ("mount", 2, ["Missing argument", "lazyfs mount --help"]),
    "no mountpoint": ("umount", 2, ["Missing argument", "lazyfs umount --help"]),
    "no such option": ("status --nope", 2, ["--nope", "lazyfs status --help"]),
    "no such command": ("nope", 2, ["'nope'", "lazyfs --help"]),
    # fetch.
    "fetch 404": ("fetch --store $BASE/store $URL/none", 1, ["$URL/none", "404"]),
    "fetch no source": ("fetch --store $BASE/store nope", 1, ["'nope'", "under a mount"]),
    "fetch bad digest": ("fetch --store $BASE/store --digest sha256:0 $URL/a.txt", 2, ["--digest", "64"]),
    "fetch to nowhere": ("fetch --store $BASE/store -o $BASE/no/x $URL/a.txt", 1, ["$BASE/no/x", "no directory"]),
    "fetch to a directory": ("fetch --store $BASE/store -o $AT $URL/a.txt", 1, ["$AT", "directory"]),
}


@pytest.mark.parametrize(("words", "status", "says"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_is_one_line_and_leaves_nothing(world: World, words: str, status: int, says: list[str]) -> None:
    done = world.run(words)

    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("lazyfs"), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for text in says:
        assert world.word(text) in done.stderr
    assert not Leftovers.settled(world.base)


def test_a_failure_shows_no_secret(world: World) -> None:
    host = world.nginx.url.removeprefix("http://")
    done = world.run(f"{MOUNT} http://user:hidden@{host}/none.img?sig=hidden#hidden $AT")

    assert done.returncode == 1
    assert "none.img" in done.stderr
    assert "hidden" not in done.stderr
    assert (
        "hidden"
        not in world.run(f"{MOUNT} --header", "Authorization hidden", *map(world.word, ["$URL/x", "$AT"])).stderr
    )


def test_a_bad_line_of_a_manifest_is_refused_by_number_and_the_rest_is_served(
    nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path
) -> None:
    (docroot / "a.txt").write_text("hello\n")
    manifest = tmp_path / "list.jsonl"
    good = json.dumps({"path": "a", "url": f"{nginx.url}/a.txt", "size": 6})
    unsafe = json.dumps({"path": "../b", "url": f"{nginx.url}/a.txt"})
    manifest.write_text("\n".join([good, unsafe, "nonsense", json.dumps({"path": "c"}), good.replace('"a"', '"d/e"')]))

    mount = mounts(os.path.relpath(manifest, ROOT))  # the daemon works elsewhere

    assert on_mount(under.names, mount.path()) == ["a", "d"]
    assert on_mount(under.read, mount.path("d/e")) == b"hello\n"
    assert list(mount.status()["reasons"]) == [f"{manifest}, line {number}" for number in (2, 3, 4)]
    shown = lazyfs("status", mount.at).stdout
    assert re.search(r"line 2: .*unsafe", shown)
    assert re.search(r"line 3: not JSON", shown)


def test_a_live_mount_is_refused_and_goes_on(world: World, mounts: Mounts) -> None:
    mount = mounts(f"{world.nginx.url}/disk.img")

    done = lazyfs("mount", "--store", mount.store, f"{world.nginx.url}/a.txt", mount.at)

    assert done.returncode == 1
    assert done.stderr == f"lazyfs: {mount.at} has a mount already; unmount it with: lazyfs umount {mount.at}\n"
    assert on_mount(under.names, mount.path()) == ["disk.img"]


def test_a_dead_mount_is_explained_replaced_and_unmounted(world: World, mounts: Mounts) -> None:
    mount = mounts(f"{world.nginx.url}/disk.img")
    mount.kill()

    commands: list[list[str | Path]] = [
        ["status", mount.at],
        ["add", mount.at, f"{world.nginx.url}/a.txt"],
        ["remove", mount.at, "disk.img"],
        ["fetch", mount.path("disk.img")],
    ]
    for words in commands:
        done = lazyfs(*words)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"lazyfs umount {mount.at}" in done.stderr

    again = mounts(f"{world.nginx.url}/disk.img", at=mount.at)
    assert on_mount(under.read, again.path("disk.img")) == DISK

    again.kill()
    assert lazyfs("umount", mount.at).returncode == 0
    assert not Leftovers.below(mount.at.parent).mounts


def test_a_busy_mount_is_kept_and_its_holder_named(world: World, mounts: Mounts) -> None:
    mount = mounts(f"{world.nginx.url}/disk.img")
    reader = start(under.hold_and_read, mount.path("disk.img"))
    reader.wait_until_open()

    done = lazyfs("umount", mount.at)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"(pid {reader.pid})" in done.stderr
    assert "--lazy" in done.stderr

    assert lazyfs("umount", "--lazy", mount.at).returncode == 0
    assert not Leftovers.below(mount.at.parent).mounts
    assert reader.result() == DISK  # through a mount that is no longer there
    wait_for_end([mount.pid])


def test_an_interrupted_mount_takes_its_daemon_with_it(tmp_path: Path) -> None:
    at = tmp_path / "at"
    at.mkdir()
    with MisbehavingOrigin() as origin:
        url = origin.url("stall", "random-1M-x")
        command: list[str | Path] = [sys.executable, "-m", "lazyfs", "mount", "--store", tmp_path / "store", url, at]
        with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as mounting:
            origin.wait(url, requests=1)
            mounting.send_signal(signal.SIGINT)
            _, errors = mounting.communicate(timeout=PATIENCE)

        assert mounting.returncode == 130
        assert errors.strip() == ""
        origin.wait(url, most_open=0)
        assert not Leftovers.settled(tmp_path)


def test_the_demo_shows_what_it_says_and_leaves_nothing(tmp_path: Path) -> None:
    with _demo(tmp_path) as demo:
        output, errors = demo.communicate(timeout=PATIENCE * 2)

    assert demo.returncode == 0, errors
    assert errors == ""
    prompts = [line for line in output.splitlines() if line.startswith("$ ")]
    assert sum(line.startswith("$ lazyfs mount http://127.0.0.1:") for line in prompts) == 3
    assert "\x1b" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("until", ["$ lazyfs mount", "$ sha256sum second/"])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, until: str, number: signal.Signals) -> None:
    with _demo(tmp_path) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith(until):
                break
        demo.send_signal(number)
        demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert not Leftovers.settled(tmp_path)


def _demo(directory: Path) -> subprocess.Popen[str]:
    environment = {**ENVIRONMENT, "TMPDIR": str(directory)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "lazyfs", "demo"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    "command", [[], ["mount"], ["umount"], ["fetch"], ["status"], ["ls"], ["gc"], ["rm"], ["demo"]]
)
def test_help_is_quick(command: list[str]) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "lazyfs", *command, "--help"]
    done = subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )

    assert done.stdout.startswith("Usage: lazyfs")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"trio", "httpx", "h11", "pyfuse3", "rich", "sqlite3", "ssl", "platformdirs"}
