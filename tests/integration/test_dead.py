"""Mounts of which all processes were killed: what is left of them is cleared away, also where readers hang."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from tests import under
from tests.integration.test_mount import made
from tests.mounts import Mount, Mounts, lazyfs, on_mount, start
from tests.servers import Nginx

PIDFD_GETFD = 438


def fuse_descriptor_of(mount: Mount) -> int:
    """Have the FUSE descriptor of a daemon open, too, as a thread of its has that the kernel does not let go of."""
    there = Path(f"/proc/{mount.pid}/fd").iterdir()
    (number,) = [int(fd.name) for fd in there if str(fd.readlink()) == "/dev/fuse"]
    daemon = os.pidfd_open(mount.pid)
    try:
        found = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, daemon, number, 0)
    finally:
        os.close(daemon)
    assert found >= 0, os.strerror(ctypes.get_errno())
    return int(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may abort what is stuck")
@pytest.mark.parametrize("words", [["umount", "--lazy"], []])
def test_what_hangs_is_ended(nginx: Nginx, docroot: Path, mounts: Mounts, words: list[str]) -> None:
    source = made(docroot, "blob", 1000)
    mount = mounts(nginx.url + "/blob")
    held = fuse_descriptor_of(mount)
    try:
        mount.kill()
        reader = start(under.timed_reads, mount.path("blob"), [0])
        if words:
            done = lazyfs(*words, mount.at)
            assert (done.returncode, done.stderr) == (0, "")
        again = mounts(nginx.url + "/blob", at=mount.at)
        assert on_mount(under.sha256, again.path("blob")) == under.sha256(str(source))
        with pytest.raises(OSError, match="connect"):
            reader.result()
    finally:
        os.close(held)
