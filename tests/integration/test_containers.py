"""A container whose root is an overlay over what is fetched lazily: an EROFS image, or the rootfs/ of an image."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.containers import run_container, shell_tree
from tests.images import mounted, mounted_image, overlay
from tests.mounts import Mounts, lazyfs
from tests.registries import Registry, layer, make_image
from tests.servers import Nginx

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts images")

UNREAD = 50_000_000
"""Bytes of each tree that no container reads."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a shell, and with much else."""
    tree = shell_tree(tmp_path / "tree")
    for number in range(10):
        (tree / f"unread{number}").write_bytes(random.Random(number).randbytes(UNREAD // 10))
    return tree


@pytest.mark.parametrize("loop", [True, False], ids=["loop", "file"])
def test_a_container_runs_from_an_erofs_image(
    loop: bool, tree: Path, docroot: Path, tmp_path: Path, mounts: Mounts
) -> None:
    assert lazyfs("pack", tree, docroot / "tree.erofs").returncode == 0
    with Nginx(tmp_path / "nginx", docroot) as nginx:
        mount = mounts(f"{nginx.url}/tree.erofs", options=[] if loop else ["--no-passthrough"])
        with mounted_image("erofs", mount.path("tree.erofs"), tmp_path / "lower", loop=loop) as lower:
            says_hello(lower, tmp_path)
        assert mount.counters()["origin_bytes"] < 0.2 * UNREAD


def test_a_container_runs_from_the_rootfs_of_an_image(tree: Path, tmp_path: Path, mounts: Mounts) -> None:
    with Registry(tmp_path / "registry") as registry:
        registry.push(make_image(tmp_path / "layout", [layer(tree, "none")]), "team/app:1")
        mount = mounts(registry.image("team/app:1"))
        says_hello(Path(mount.path("rootfs")), tmp_path)


def says_hello(lower: Path, directory: Path) -> None:
    """Run a shell in a container over a tree, have it write something, and look where that is."""
    with (
        mounted("tmpfs", "tmpfs", directory / "writable", "size=64m") as writable,
        overlay(lower, writable, directory / "root") as root,
    ):
        done = run_container(root, directory, "/bin/sh", "-c", "echo hello | cat; id -u; echo new >/tmp/written")
        assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n0\n", "")
        assert (writable / "upper/tmp/written").read_text() == "new\n"
