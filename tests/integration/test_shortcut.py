"""Large reads that threads of the C library answer from the store: what they give out, and what becomes of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from lazyfs import mountinfo, native, records
from tests import mounts as real
from tests import under
from tests.integration.test_mount import BLOCK, MIB, made
from tests.integration.test_takeover import daemon, end, next_daemon
from tests.mounts import Mount, Mounts, lazyfs, on_mount, start, wait_for_end
from tests.servers import Nginx

pytestmark = pytest.mark.skipif(native.LIBRARY is None, reason="the C part was not built")

SIZE = 24 * MIB + 5
"""Units: bytes. More than what must be in the store behind a read."""

OPTIONS = ["--no-passthrough"]


def fetched(mount: Mount) -> None:
    """See to it that all of the blob is in the store."""
    done = lazyfs("fetch", mount.path("blob"))
    assert done.returncode == 0, done.stderr


def data(mount: Mount) -> Path:
    (found,) = mount.store.glob("blobs/*/*/data")
    return found


def test_many_readers_get_the_right_bytes(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", SIZE)
    mount = mounts(nginx.url + "/blob", options=OPTIONS)
    fetched(mount)
    before = mount.counters()
    reads = on_mount(under.differing_large_reads, mount.path("blob"), str(source), 4, 100, 1)
    assert reads == []
    after = mount.counters()
    assert after["shortcut_reads"] - before["shortcut_reads"] > 200, "most of them took it"
    assert after["blocks_corrupt"] == 0
    assert after["origin_bytes"] == before["origin_bytes"]


def test_replies_that_python_makes_are_right_as_well(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", SIZE)
    mount = mounts(nginx.url + "/blob", options=OPTIONS)
    readers = [
        start(under.differing_large_reads, mount.path("blob"), str(source), 3, 60, 11),
        start(under.differing_reads, mount.path("blob"), str(source), 2, 100, 12),
    ]
    for reader in readers:
        assert reader.result() == []
    assert mount.counters()["errors"] == 0


def test_each_read_is_counted(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", SIZE)
    mount = mounts(nginx.url + "/blob", options=OPTIONS)
    fetched(mount)
    before = mount.counters()
    for number in range(3):
        on_mount(under.direct_reads, mount.path("blob"), [0, MIB, 2 * MIB], MIB)
        after = mount.counters()
        assert after["reads"] - before["reads"] == 3 * (number + 1)
        assert after["read_bytes"] - before["read_bytes"] == 3 * (number + 1) * MIB
        assert after["blocks_hit"] - before["blocks_hit"] == 3 * (number + 1) * MIB // BLOCK
    assert after["shortcut_reads"] > 0


@pytest.mark.parametrize("how", ["damaged", "evicted"])
def test_what_is_not_right_is_not_given_out(nginx: Nginx, docroot: Path, mounts: Mounts, how: str) -> None:
    source = made(docroot, "blob", SIZE)
    mount = mounts(nginx.url + "/blob", options=OPTIONS)
    fetched(mount)
    reader = start(under.read_twice_directly, mount.path("blob"), [0, MIB, 2 * MIB], MIB)
    reader.wait_until_open()
    before = mount.counters()["shortcut_reads"]
    block = 2 * MIB // BLOCK + 1
    if how == "evicted":
        overwrite(data(mount).with_name("map"), records.entry_offset(block), bytes(records.ENTRY_SIZE))
    overwrite(data(mount), block * BLOCK + 1000, bytes(5000))
    reader.go()
    content = source.read_bytes()
    assert reader.result() == [content[offset : offset + MIB] for offset in (0, MIB, 2 * MIB)]
    assert mount.counters()["shortcut_reads"] - before <= 2


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_what_is_missing_further_on_is_fetched_ahead(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 2 * SIZE)
    mount = mounts(nginx.url + "/blob", options=OPTIONS)
    on_mount(under.pass_through, mount.path("blob"), SIZE)
    assert on_mount(under.sha256, mount.path("blob")) == under.sha256(str(source))
    assert nginx.body_bytes() < 2 * SIZE + 16 * MIB, "what was under way when the first reader left may count twice"


def test_files_beyond_those_that_are_known_are_read_as_well(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    sources = [made(docroot, f"blob{number}", 2 * MIB, number) for number in range(20)]
    mount = mounts(nginx.url + "/", options=OPTIONS)
    paths = [mount.path(source.name) for source in sources]
    for path in paths:
        on_mount(under.sha256, path)
    found = on_mount(under.direct_reads_of, paths * 3, MIB, MIB)
    assert found == [source.read_bytes()[MIB:] for source in sources] * 3
    descriptors = len(os.listdir(f"/proc/{mount.pid}/fd"))
    on_mount(under.direct_reads_of, paths * 3, MIB, MIB)
    assert abs(len(os.listdir(f"/proc/{mount.pid}/fd")) - descriptors) < 20, "those of closed files are closed"


def test_small_requests_come_through_beside_large_ones(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", SIZE)
    mount = mounts(nginx.url + "/blob", options=OPTIONS)
    fetched(mount)
    large = start(under.differing_large_reads, mount.path("blob"), str(source), 2, 200, 2)
    small = start(under.differing_reads, mount.path("blob"), str(source), 2, 200, 3)
    looked = start(under.timed_look, mount.path(), ["blob", "none"] * 100)
    assert large.result() == []
    assert small.result() == []
    assert looked.result()[0] < real.PATIENCE


def test_readers_that_are_killed_are_no_trouble(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", SIZE)
    mount = mounts(nginx.url + "/blob", options=OPTIONS)
    fetched(mount)
    steady = start(under.differing_large_reads, mount.path("blob"), str(source), 1, 400, 4)
    for _ in range(5):
        victim = start(under.read_directly_for_ever, mount.path("blob"), MIB)
        victim.wait_until_open()
        os.kill(victim.pid, signal.SIGKILL)
    assert steady.result() == []
    assert mount.counters()["errors"] == 0


@pytest.mark.parametrize("how", ["lazily", "abort", "term"])
@pytest.mark.parametrize("size", [SIZE, 8 * MIB])  # of the smaller one's reads, replies are made of blocks in memory
def test_it_ends_with_reads_under_way(nginx: Nginx, docroot: Path, mounts: Mounts, how: str, size: int) -> None:
    made(docroot, "blob", size)
    mount = mounts(nginx.url + "/blob", options=OPTIONS)
    if size == SIZE:
        fetched(mount)
    readers = [start(under.read_directly_for_ever, mount.path("blob"), MIB) for _ in range(3)]
    for reader in readers:
        reader.wait_until_open()
    if how == "abort":
        abort(mount)
    elif how == "term":
        os.kill(mount.pid, signal.SIGTERM)
    else:
        assert lazyfs("umount", "--lazy", mount.at).returncode == 0
        for reader in readers:
            os.kill(reader.pid, signal.SIGKILL)
    wait_for_end([mount.pid], real.GRACE)


def abort(mount: Mount) -> None:
    """Sever a mount from its daemon, as only the kernel can."""
    mounted = mountinfo.mount_at(str(mount.at))
    assert mounted is not None
    control = mount.at.with_name("fusectl")
    control.mkdir()
    real.run(["mount", "-t", "fusectl", "none", control])
    try:
        (control / str(mounted.minor) / "abort").write_text("1")
    finally:
        real.run(["umount", control])


@pytest.mark.parametrize("cold", [False, True])
def test_a_takeover_leaves_no_read_unanswered(nginx: Nginx, docroot: Path, mounts: Mounts, cold: bool) -> None:
    source = made(docroot, "blob", SIZE)
    mount = mounts(nginx.url + "/blob", options=["--takeover", *OPTIONS])
    if not cold:
        fetched(mount)
    readers = [start(under.differing_large_reads, mount.path("blob"), str(source), 2, 1500, seed) for seed in (5, 6)]
    last = daemon(mount)
    for _ in range(3):
        time.sleep(0.3)  # in the midst of it, at any moment
        os.kill(last, signal.SIGKILL)
        last = next_daemon(mount, last)
    for reader in readers:
        assert reader.result(60) == []
    assert mount.counters()["shortcut_reads"] > 0, "the last daemon has it, too"
    end(mount)
