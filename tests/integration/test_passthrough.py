"""Blobs that are whole are read past the daemon: by whom, from when on, and what keeps their bytes right meanwhile.

Where the kernel does not let a daemon of the tests do that, `status` says why, and all must be right all the same.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import lazyfs
from lazyfs import control
from lazyfs.store import running
from tests import mounts as real
from tests import under
from tests.integration.test_mount import BLOCK, MIB, digest, made
from tests.mounts import Mount, Mounts, on_mount, run, start
from tests.servers import MisbehavingOrigin, Nginx

ON = ["--passthrough", "--scrub", "0"]
WHY_NOT = "not built|Linux 6.9|CAP_SYS_ADMIN|overlayfs"
"""What a host may lack."""


def status(mount: Mount) -> dict[str, Any]:
    """Return what `status --json` has of a mount, in less time than the command takes to start."""
    socket = running.find(mount.store, control.socket_name(str(mount.at)))
    return cast("dict[str, Any]", control.call(socket, "status"))


def is_on(mount: Mount) -> bool:
    """Say whether a mount has passthrough, which it has unless the host cannot."""
    state = status(mount)["passthrough"]
    assert state["on"] or re.search(WHY_NOT, state["reason"]), state
    return bool(state["on"])


def make_whole(mount: Mount, *names: str) -> bool:
    """Read files to their ends, and wait until they were looked through, if that is of use here; say whether it is."""
    for name in names:
        on_mount(under.sha256, mount.path(name))
    on = is_on(mount)
    deadline = time.monotonic() + real.PATIENCE
    while on and status(mount)["passthrough"]["blobs"] < len(names):
        assert time.monotonic() < deadline, "not looked through in time"
        time.sleep(0.005)
    return on


def past(mount: Mount) -> tuple[int, int]:
    """Return how many opens went past the daemon so far, and how many reads did not."""
    counters = status(mount)["counters"]
    return counters["passthrough_opens"], counters["reads"]


def test_what_is_whole_is_read_past_the_daemon(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * MIB + 5)
    mount = mounts(nginx.url + "/blob", options=ON)
    path = mount.path("blob")
    assert on_mount(under.read, path, MIB, 10) == source.read_bytes()[MIB : MIB + 10]
    assert past(mount)[0] == 0, "not all of it is there"
    on = make_whole(mount, "blob")
    before = past(mount)
    assert on_mount(under.sha256, path) == digest(source)
    assert on_mount(under.mapped_sha256, path) == digest(source)
    assert on_mount(under.direct_read, path, MIB, 8192) == source.read_bytes()[MIB : MIB + 8192]
    assert on_mount(under.differing_reads, path, str(source), 4, 200, 1) == []
    if on:
        after = past(mount)
        assert after[1] == before[1], "a read came through the daemon"
        assert after[0] >= before[0] + 4
        assert status(mount)["passthrough"] == {"on": True, "reason": None, "open": 0, "blobs": 1}
        assert f"past it   0 open now, {after[0]} so far" in real.lazyfs("status", mount.at).stdout


def test_who_opened_it_before_goes_on_as_it_was(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 2 * MIB)
    mount = mounts(nginx.url + "/blob", options=ON)
    early = start(under.hold_and_read, mount.path("blob"))
    early.wait_until_open()
    on = make_whole(mount, "blob")
    assert on_mount(under.direct_read, mount.path("blob"), 0, 4096) == source.read_bytes()[:4096]
    assert past(mount)[0] == 0, "an inode is opened in one way at a time"
    assert early.result() == source.read_bytes()
    late = start(under.hold_and_read, mount.path("blob"))
    late.wait_until_open()
    assert status(mount)["passthrough"]["open"] == int(on)
    assert on_mount(under.sha256, mount.path("blob")) == digest(source)
    assert late.result() == source.read_bytes()


def left_by_gc(mount: Mount) -> int:
    """Have all evicted that may be, by a process that knows nothing of the mount, and return what is left of `kept`."""
    done = real.lazyfs("gc", "--store", mount.store, "--max-cache", "64K")
    assert done.returncode == 0, done.stderr
    return int(on_mount(under.attributes, mount.path("kept"))["user.lazyfs.cached"])


def test_nothing_is_evicted_that_is_read_past_a_daemon(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    kept, other = made(docroot, "kept", 2 * MIB), made(docroot, "other", 8 * MIB, seed=2)
    mount = mounts(nginx.url + "/kept", nginx.url + "/other", options=["--max-cache", "4M", *ON])
    on = make_whole(mount, "kept")
    reader, mapper = start(under.hold_and_read, mount.path("kept")), start(under.hold_mapping, mount.path("kept"))
    reader.wait_until_open()
    mapper.wait_until_open()
    assert on_mount(under.sha256, mount.path("other")) == digest(other), "its own daemon evicts"
    assert left_by_gc(mount) == 2 * MIB if on else left_by_gc(mount) < 2 * MIB, "and so does another process"
    assert reader.result() == kept.read_bytes()
    assert not on or left_by_gc(mount) == 2 * MIB, "a mapping outlives its file"
    assert mapper.result() == digest(kept)
    while left_by_gc(mount):  # until the kernel has forgotten the inode
        time.sleep(0.1)
    assert on_mount(under.sha256, mount.path("kept")) == digest(kept)


def test_what_stood_in_for_a_name_is_let_go_of(
    origin: MisbehavingOrigin, docroot: Path, mounts: Mounts, tmp_path: Path
) -> None:
    """A name that is opened before its origin has answered has an inode of its own."""
    source, manifest = made(docroot, "kept", 2 * MIB), tmp_path / "manifest.jsonl"
    entry = {"path": "kept", "digest": f"sha256:{digest(source)}"}
    manifest.write_text(json.dumps({**entry, "url": origin.url("", "kept")}) + "\n")
    first = mounts(manifest, options=ON)
    on = make_whole(first, "kept")
    manifest.write_text(json.dumps({**entry, "url": origin.url("delay=2", "kept")}) + "\n")
    second = mounts(manifest, options=ON)
    assert on_mount(under.sha256, second.path("kept")) == digest(source)
    assert past(second)[0] == int(on), "it was looked through for the other mount"
    first.umount()
    (data,) = mounts.store.glob("blobs/*/*/data")
    while data.stat().st_blocks:  # nobody looks at the name meanwhile, or the kernel would find out by itself
        assert real.lazyfs("gc", "--store", mounts.store, "--max-cache", "64K").returncode == 0


def test_readers_outlive_a_daemon_that_is_killed(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    """What they read stays theirs: it is not evicted, and removing it does not cut it short."""
    source = made(docroot, "blob", 2 * MIB)
    mount = mounts(nginx.url + "/blob", options=ON)
    on = make_whole(mount, "blob")
    readers = [start(under.hold_and_read, mount.path("blob")) for _ in range(2)]
    for reader in readers:
        reader.wait_until_open()
    mount.kill()
    assert on_mount(under.timed_read, mount.path("blob")).error in {errno.ENOTCONN, errno.ECONNABORTED}
    real.lazyfs("gc", "--store", mount.store, "--max-cache", "64K")
    if on:
        assert readers[0].result() == source.read_bytes()
    removed = real.lazyfs("rm", "--store", mount.store, nginx.url + "/blob")
    assert removed.returncode == 0, removed.stderr
    if on:
        assert readers[1].result() == source.read_bytes()


def test_what_somebody_did_to_the_data_is_noticed_by_the_next_open(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 2 * MIB)
    mount = mounts(nginx.url + "/blob", options=ON)
    make_whole(mount, "blob")
    (data,) = mount.store.glob("blobs/*/*/data")
    for damage in ("flipped", "cut"):
        before = data.stat()
        with data.open("r+b") as file:
            if damage == "flipped":
                file.seek(MIB)
                file.write(bytes([source.read_bytes()[MIB] ^ 1]))
            else:
                file.truncate(MIB)
                file.truncate(2 * MIB)
        os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
        opens = past(mount)[0]
        assert on_mount(under.sha256, mount.path("blob")) == digest(source), damage
        assert past(mount)[0] == opens
        while is_on(mount) and past(mount)[0] == opens:  # it is mended, looked through, and read past the daemon again
            assert real.lazyfs("fetch", mount.path("blob")).returncode == 0
            assert on_mount(under.sha256, mount.path("blob")) == digest(source)


def test_a_new_version_leaves_those_who_read_the_old_one(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    old = made(docroot, "blob", MIB).read_bytes()
    mount = mounts(nginx.url + "/blob", options=["--revalidate", "0", *ON])
    make_whole(mount, "blob")
    reader = start(under.hold_and_read, mount.path("blob"))
    reader.wait_until_open()
    new = made(docroot, "blob", MIB + 1, seed=3)
    assert on_mount(under.opened_until, mount.path("blob"), digest(new), 10.0)
    assert reader.result() == old


def test_a_mount_goes_lazily_from_under_who_reads_past_it(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", MIB)
    mount = mounts(nginx.url + "/blob", options=ON)
    make_whole(mount, "blob")
    reader = start(under.hold_and_read, mount.path("blob"))
    reader.wait_until_open()
    assert real.lazyfs("umount", mount.at).returncode == 1
    assert real.lazyfs("rm", "--store", mount.store, nginx.url + "/blob").returncode == 1
    assert real.lazyfs("umount", "--lazy", mount.at).returncode == 0
    assert reader.result() == source.read_bytes()
    real.wait_for_end([mount.pid])


def test_it_can_be_turned_off(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", MIB)
    mount = mounts(nginx.url + "/blob", options=["--no-passthrough"])
    for _ in range(2):
        assert on_mount(under.direct_read, mount.path("blob"), 0, MIB) == source.read_bytes()
    opens, reads = past(mount)
    assert (opens, reads >= 2) == (0, True)
    assert status(mount)["passthrough"]["reason"] == "--no-passthrough"
    assert "past it   off: --no-passthrough" in real.lazyfs("status", mount.at).stdout


def test_the_package_works_without_its_c_part(nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path) -> None:
    source = made(docroot, "blob", MIB)
    package, at = tmp_path / "package", tmp_path / "mount"
    shutil.copytree(Path(lazyfs.__file__).parent, package / "lazyfs", ignore=shutil.ignore_patterns("*.so"))
    at.mkdir()
    call = f"import sys; sys.path.insert(0, {str(package)!r}); from lazyfs.cli import main; main()"
    run([sys.executable, "-P", "-c", call, "mount", "--store", mounts.store, nginx.url + "/blob", at])
    (pid,) = real._processes(at, "lazyfs")
    mount = Mount(at, mounts.store, pid)
    for _ in range(2):
        assert on_mount(under.sha256, mount.path("blob")) == digest(source)
    assert "its C part was not built" in status(mount)["passthrough"]["reason"]
    assert _catches_alarms(pid), "nothing keeps it from being blocked"
    mount.umount()


def test_readers_that_are_interrupted_do_not_block_the_daemon(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    """Each reader is killed while its request is on the way; pyfuse3 may then find none where it has seen one."""
    source = made(docroot, "blob", 4 * BLOCK)
    mount = mounts(nginx.url + "/blob", options=ON)
    on_mount(under.interrupted_reads, mount.path("blob"), 150)
    assert on_mount(under.sha256, mount.path("blob")) == digest(source)
    if is_on(mount):
        assert not _catches_alarms(mount.pid), "it needs no timer"
        fuse = next(fd for fd in Path(f"/proc/{mount.pid}/fd").iterdir() if str(fd.readlink()) == "/dev/fuse")
        flags = re.search(r"flags:\s+(\d+)", Path(f"/proc/{mount.pid}/fdinfo/{fuse.name}").read_text())
        assert flags is not None
        assert int(flags[1], 8) & os.O_NONBLOCK


def _catches_alarms(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert caught is not None
    return bool(int(caught[1], 16) >> (signal.SIGALRM - 1) & 1)
