"""The recipes in tools/packaging: a daemon in a container mounts for the host and for other containers.

Containers are stood in for by namespaces of mounts: what an engine does for `rshared` (Kubernetes: Bidirectional) and
`rslave` (HostToContainer) is done here by the same system calls.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazyfs import mountinfo
from tests import under
from tests.mounts import ENVIRONMENT, PATIENCE, lazyfs, on_mount, run
from tests.servers import MisbehavingOrigin

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces of mounts")


class Container:
    """A namespace of mounts, in which a directory is shared with the host so."""

    def __init__(self, directory: Path, propagation: str) -> None:
        script = f"mount --make-{propagation} {directory}; echo ready; read -r end || :"
        words = ["unshare", "-m", "--propagation", "unchanged", "sh", "-ec", script]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Container:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate(timeout=PATIENCE)

    def run(self, *words: str | Path) -> str:
        """Run a command there and return what it prints."""
        environment = [f"PYTHONPATH={ENVIRONMENT['PYTHONPATH']}"]
        return run(["nsenter", "-t", str(self._process.pid), "-m", "env", *environment, *words]).stdout


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory as the recipes want it: one whose mounts are seen by all that it is shared with."""
    directory = tmp_path / "mounts"
    (directory / "images").mkdir(parents=True)
    run(["mount", "--bind", directory, directory])
    run(["mount", "--make-shared", directory])
    yield directory
    run(["umount", directory])


def test_what_a_container_mounts_others_see(shared: Path, tmp_path: Path, origin: MisbehavingOrigin) -> None:
    """Also those that were there before; and it goes from all of them when it is unmounted."""
    at, name = shared / "images", "random-1M-x"
    command, store = [sys.executable, "-m", "lazyfs"], tmp_path / "store"
    with Container(shared, "rslave") as reader, Container(shared, "rshared") as daemon:
        daemon.run(*command, "mount", "--store", store, origin.plain(name), at)
        there = [(each.mountpoint, each.fstype) for each in mountinfo.mounts()]
        assert (str(at), mountinfo.FSTYPE) in there, "the host"
        assert reader.run("sha256sum", at / name).split()[0] == on_mount(under.sha256, f"{at}/{name}")
        assert lazyfs("status", at, "--store", store).returncode == 0
        daemon.run(*command, "umount", at)
        assert str(at) not in [each.mountpoint for each in mountinfo.mounts()]
        assert reader.run("ls", at) == ""
