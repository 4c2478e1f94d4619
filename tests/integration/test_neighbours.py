"""A block of which small parts are read is handed to the kernel whole, which reads the rest of it without us."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from tests import mounts as real
from tests import under
from tests.integration.test_mount import BLOCK, made
from tests.mounts import Mounts, lazyfs, on_mount
from tests.servers import Nginx

PAGE = 4096


def test_what_lies_beside_a_random_read_comes_without_another_trip(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * BLOCK + 5)
    mount = mounts(nginx.url + "/blob", options=["--no-passthrough"])
    pages = list(range(BLOCK // PAGE, 2 * BLOCK // PAGE))  # taken from the end: a push goes the other way
    deadline = time.monotonic() + real.PATIENCE
    content, before = source.read_bytes(), -1

    def read(*numbers: int) -> int:
        """Read pages, and return how many reads the daemon has seen by then."""
        found = on_mount(under.timed_reads, mount.path("blob"), [number * PAGE for number in numbers])
        assert [timed.content for timed in found] == [
            content[number * PAGE : (number + 1) * PAGE] for number in numbers
        ]
        return mount.counters()["reads"]

    read(pages.pop(), pages.pop())
    while before != (before := read(pages.pop())):  # the push is behind the read that asks for it
        assert time.monotonic() < deadline
    after = read(*pages)
    assert after - before < len(pages) / 4, "nearly all of it is there: DAMON takes pages back at will"
    assert read(0) == after + 1, "and nothing else"
    end = 3 * BLOCK // PAGE
    found = on_mount(under.timed_reads, mount.path("blob"), [end * PAGE] * 2)
    assert [timed.content for timed in found] == [content[-5:]] * 2


def test_who_reads_past_the_page_cache_gets_nothing_pushed(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 2 * BLOCK)
    mount = mounts(nginx.url + "/blob", options=["--no-passthrough"])
    for number in range(6):
        found = on_mount(under.direct_read, mount.path("blob"), number * PAGE, PAGE)
        assert found == source.read_bytes()[number * PAGE : (number + 1) * PAGE]
    assert mount.counters()["reads"] == 6
    assert on_mount(under.timed_reads, mount.path("blob"), [5 * PAGE])[0].content
    assert mount.counters()["reads"] == 7, "the kernel has no page of it"


def files_of_threads(pid: int) -> list[set[str]]:
    """Return what each thread of a process has open."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        files = set[str]()
        for fd in (thread / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                files.add(os.readlink(fd))
        found.append(files)
    return found


def test_who_tells_the_kernel_something_keeps_no_files_open(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    """It may hang in the kernel when the daemon is dead, and with it the locks on all blocks."""
    made(docroot, "blob", 2 * BLOCK)
    made(docroot, "other", 100)
    mount = mounts(nginx.url + "/blob", nginx.url + "/other", options=["--no-passthrough"])
    on_mount(os.stat, mount.path("other"))
    assert lazyfs("remove", mount.at, "other").returncode == 0
    on_mount(under.timed_reads, mount.path("blob"), [0, 9 * PAGE])
    deadline = time.monotonic() + real.PATIENCE
    while sum(files == {"/dev/fuse"} for files in files_of_threads(mount.pid)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert on_mount(under.names, mount.path()) == ["blob"]
