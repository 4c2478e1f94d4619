"""A container whose root is an overlay over an EROFS image that is fetched lazily."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.containers import run_container, shell_tree
from tests.images import mounted, mounted_image, overlay
from tests.mounts import Mounts, lazyfs
from tests.servers import Nginx

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts images")

UNREAD = 50_000_000
"""Bytes of the tree that the container does not read."""


@pytest.mark.parametrize("loop", [True, False], ids=["loop", "file"])
def test_a_container_runs_from_an_erofs_image(loop: bool, docroot: Path, tmp_path: Path, mounts: Mounts) -> None:
    tree = shell_tree(tmp_path / "tree")
    for number in range(10):
        (tree / f"unread{number}").write_bytes(random.Random(number).randbytes(UNREAD // 10))
    assert lazyfs("pack", tree, docroot / "tree.erofs").returncode == 0
    with Nginx(tmp_path / "nginx", docroot) as nginx:
        mount = mounts(f"{nginx.url}/tree.erofs", options=[] if loop else ["--no-passthrough"])
        with (
            mounted_image("erofs", mount.path("tree.erofs"), tmp_path / "lower", loop=loop) as lower,
            mounted("tmpfs", "tmpfs", tmp_path / "writable", "size=64m") as writable,
            overlay(lower, writable, tmp_path / "root") as root,
        ):
            done = run_container(root, tmp_path, "/bin/sh", "-c", "echo hello | cat; id -u; echo new >/tmp/written")
            assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n0\n", "")
            assert (writable / "upper/tmp/written").read_text() == "new\n"
        assert mount.counters()["origin_bytes"] < 0.2 * UNREAD
