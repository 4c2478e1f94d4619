"""A mount that outlives its daemon: the next one takes over, and nobody who reads sees more than a pause."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

import pytest

from lazyfs import mountinfo
from tests import mounts as real
from tests import under
from tests.integration.test_mount import BLOCK, made
from tests.mounts import Mount, Mounts, lazyfs, on_mount, start, wait_for_end
from tests.servers import Nginx


def daemon(mount: Mount) -> int:
    """Return the process id of the daemon that answers now."""
    pid: int = mount.status()["pid"]
    return pid


def next_daemon(mount: Mount, last: int) -> int:
    deadline = time.monotonic() + real.PATIENCE
    while True:
        done = lazyfs("status", mount.at, "--json")
        if done.returncode == 0 and (pid := mount.status()["pid"]) != last:
            return int(pid)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end(mount: Mount) -> None:
    pid = daemon(mount)
    done = lazyfs("umount", mount.at)
    assert done.returncode == 0, done.stderr
    wait_for_end([pid])


@pytest.mark.parametrize("options", [[], ["--no-passthrough"]])
def test_who_reads_sees_only_a_pause(nginx: Nginx, docroot: Path, mounts: Mounts, options: list[str]) -> None:
    source = made(docroot, "blob", 20 * BLOCK + 5)
    mount = mounts(nginx.url + "/blob", options=options)
    assert mount.status()["takeover"] == {"on": True, "reason": None}
    reader = start(under.read_through_takeovers, mount.path("blob"), str(source), 6.0)
    reader.wait_until_open()
    last = daemon(mount)
    for _ in range(3):
        time.sleep(1.0)
        os.kill(last, signal.SIGKILL)
        last = next_daemon(mount, last)
    assert reader.result() > 0
    end(mount)


def test_what_was_open_before_is_read_on_and_closed(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * BLOCK)
    mount = mounts(nginx.url + "/blob")
    reader = start(under.hold_and_read, mount.path("blob"))
    reader.wait_until_open()
    first = daemon(mount)
    os.kill(first, signal.SIGKILL)
    next_daemon(mount, first)
    reader.go()
    assert reader.result() == source.read_bytes()
    end(mount)


def test_a_daemon_that_hangs_is_replaced(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * BLOCK)
    mount = mounts(nginx.url + "/blob")
    first = daemon(mount)
    os.kill(first, signal.SIGSTOP)
    found = on_mount(under.direct_read, mount.path("blob"), BLOCK, 4096)
    assert found == source.read_bytes()[BLOCK : BLOCK + 4096]
    assert daemon(mount) != first
    end(mount)


def test_names_are_those_that_were_there(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    for name in ("one", "two", "three"):
        made(docroot, name, 100)
    mount = mounts(nginx.url + "/one")
    assert lazyfs("add", mount.at, nginx.url + "/two", nginx.url + "/three").returncode == 0
    assert lazyfs("remove", mount.at, "one").returncode == 0
    nginx.stop()
    before = on_mount(os.stat, mount.path("two"))
    first = daemon(mount)
    os.kill(first, signal.SIGKILL)
    next_daemon(mount, first)
    assert sorted(on_mount(os.listdir, mount.path())) == ["three", "two"]
    after = on_mount(os.stat, mount.path("two"))
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    end(mount)


def started(mount: Mount, last: int) -> int | None:
    """Return the daemon that is started after the last one, as soon as there is one; None when the mount has gone."""
    deadline = time.monotonic() + real.PATIENCE
    while mountinfo.mount_at(str(mount.at)) is not None:
        with contextlib.suppress(ValueError, OSError):
            supervisor = mount.supervisor
            for pid in map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()):
                if pid != last and real.is_daemon(pid):
                    return pid
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return None


def test_one_that_is_killed_while_it_starts_is_followed_by_another(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * BLOCK)
    mount = mounts(nginx.url + "/blob")
    first = daemon(mount)
    os.kill(first, signal.SIGKILL)
    second = started(mount, first)
    assert second is not None
    os.kill(second, signal.SIGKILL)
    assert on_mount(under.direct_read, mount.path("blob"), BLOCK, 4096) == source.read_bytes()[BLOCK : BLOCK + 4096]
    end(mount)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_five_deaths_end_the_mount(nginx: Nginx, docroot: Path, mounts: Mounts, number: signal.Signals) -> None:
    """Killed before they have served for a while, or crashed at any time."""
    made(docroot, "blob", 100)
    mount = mounts(nginx.url + "/blob")
    last: int | None = daemon(mount)
    deaths = 0
    while last is not None:
        if number == signal.SIGSEGV:
            assert on_mount(os.listdir, mount.path()) == ["blob"]
        os.kill(last, number)
        deaths += 1
        last = started(mount, last)
    assert deaths in (5, 6), "the first one may have served for long enough not to count"


def test_without_it_a_daemon_takes_its_mount_with_it(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", 100)
    mount = mounts(nginx.url + "/blob", options=["--no-takeover"])
    assert mount.status()["takeover"] == {"on": False, "reason": "--no-takeover was given"}
    assert "takeover  off: --no-takeover was given" in lazyfs("status", mount.at).stdout
    supervisor = mount.supervisor
    os.kill(mount.pid, signal.SIGKILL)
    wait_for_end([mount.pid, supervisor])
    assert on_mount(under.errno_of_stat, mount.path("blob")) == errno.ENOTCONN
