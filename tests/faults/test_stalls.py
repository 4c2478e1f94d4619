"""A blob whose origin stalls for ever: its readers get EIO at the deadline, and nobody else notices.

The bounds here are those of a machine that is busy with other things; tests.faults.stalls gives the figures.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from tests import under
from tests.faults.stalls import LOOKS, Stalls
from tests.mounts import GRACE, Mount, Mounts, lazyfs, on_mount, wait_for_end
from tests.servers import MisbehavingOrigin

READ_TIMEOUT = 5.0
LATE = 5.0
"""Seconds that an error may come after the deadline: 1 is promised."""

SLOWER = 3.0
"""How much longer reads of another blob may take: 1.5 is promised."""

AT_ONCE = 4.0
"""Seconds for what does not wait for an origin that stalls: a command takes a third of one to start."""

ROUNDS = 2


def mounted(mounts: Mounts, stalls: Stalls, read_timeout: float) -> Mount:
    """Mount it, and wait until all names are there."""
    mount = mounts(stalls.manifest, options=("--read-timeout", str(read_timeout)))
    on_mount(under.wait_for_names, mount.path(), stalls.names, 20.0)
    return mount


@pytest.mark.parametrize("readers", [8, 200])
def test_stalled_readers_end_at_their_deadline_and_slow_nobody_down(
    readers: int, origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    stalls = Stalls(origin, tmp_path, ROUNDS)
    mount = mounted(mounts, stalls, READ_TIMEOUT)
    rounds = [stalls.round(mount, number, readers, 50) for number in range(ROUNDS)]
    ended = [read for one in rounds for read in one.stalled]
    assert {read.error for read in ended} == {errno.EIO}
    assert len(ended) == ROUNDS * readers
    assert min(read.seconds for read in ended) > READ_TIMEOUT - 0.5
    assert max(read.seconds for read in ended) < READ_TIMEOUT + LATE
    assert min(one.ratio for one in rounds) < SLOWER
    assert max(one.beside[1] for one in rounds) < AT_ONCE, "a second, until it is known that they are stalled"
    assert max(max(one.looked, one.listed) for one in rounds) < AT_ONCE


def test_a_mount_with_stalled_readers_is_let_go_of_at_once(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    stalls = Stalls(origin, tmp_path, 1)
    mount = mounted(mounts, stalls, READ_TIMEOUT)
    stalled = stalls.stall(mount, 0, 8)
    assert max(on_mount(under.timed_look, mount.path(), LOOKS)) < AT_ONCE
    began = time.monotonic()
    busy = lazyfs("umount", mount.at)
    who = f"{Path(f'/proc/{stalled.pid}/comm').read_text().strip()} (pid {stalled.pid})"
    assert busy.stderr == f"lazyfs: {mount.at} is busy: {who}; end them, or detach it with --lazy\n"
    assert (busy.returncode, busy.stdout) == (1, "")
    lazy = lazyfs("umount", "--lazy", mount.at)
    assert (lazy.returncode, lazy.stdout + lazy.stderr) == (0, "")
    assert time.monotonic() - began < AT_ONCE
    assert os.listdir(mount.at) == []
    assert {read.error for read in stalled.result()} == {errno.EIO}, "a detached mount serves those who have it open"
    wait_for_end([mount.pid], GRACE)


def test_a_daemon_with_stalled_readers_obeys_a_signal(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    """Its readers would have a minute more; they lose the mount after its grace."""
    stalls = Stalls(origin, tmp_path, 1)
    mount = mounted(mounts, stalls, 60.0)
    stalled = stalls.stall(mount, 0, 8)
    os.kill(mount.pid, signal.SIGTERM)
    wait_for_end([mount.pid], GRACE)
    assert os.listdir(mount.at) == []
    errors = {read.error for read in stalled.result()}
    assert 0 not in errors
    assert errors <= {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
