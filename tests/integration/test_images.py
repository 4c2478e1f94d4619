"""Disk images of a real directory tree, used through a mount: checked, mounted, compared, written over."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images import mounted, overlay
from tests.mounts import Mount, Mounts, run
from tests.servers import Nginx

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount images")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory tree with most of what one may hold."""
    tree = tmp_path_factory.mktemp("tree") / "tree"
    dice = random.Random(7)
    for directory in ("etc", "usr/bin", "usr/share/doc/a b", "var/empty", "ünïcode", "deep/" + "/".join("abcdefghij")):
        (tree / directory).mkdir(parents=True)
    for number in range(200):
        (tree / "usr/share/doc" / f"text{number}").write_text(f"line {number}\n" * dice.randrange(1, 400))
    for name, size in (("usr/bin/tool", 700_001), ("var/large", 9_000_000), ("etc/empty", 0), ("ünïcode/日本", 4096)):
        (tree / name).write_bytes(dice.randbytes(size))
    (tree / "var" / "sparse").write_bytes(b"")
    os.truncate(tree / "var" / "sparse", 3_000_000)
    (tree / "usr/bin/tool").chmod(0o755)
    for odd in ("new\nline", "quote'\"", "back\\slash", "-rf", "x" * 200):
        (tree / "usr/share/doc/a b" / odd).write_text(odd)
    (tree / "etc/link").symlink_to("../usr/bin/tool")
    (tree / "etc/dangling").symlink_to("/no/such/thing")
    (tree / "etc/hard").hardlink_to(tree / "etc/empty")
    return tree


@pytest.fixture(scope="module")
def images(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an image of the tree in each format."""
    images = tmp_path_factory.mktemp("images")
    run(["mkfs.ext4", "-q", "-d", tree, images / "tree.ext4", "48M"])
    run(["mksquashfs", tree, images / "tree.squashfs", "-quiet", "-no-progress"])
    run(["mkfs.erofs", "--quiet", images / "tree.erofs", tree])
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", images / "tree.ext4", images / "tree.qcow2"])
    return images


@pytest.fixture
def mount(images: Path, tmp_path: Path, mounts: Mounts) -> Iterator[Mount]:
    """A mount of all images."""
    with Nginx(tmp_path / "nginx", images) as nginx:
        yield mounts(nginx.url + "/")


def same(tree: Path, other: Path) -> None:
    """Compare two trees: names, content and where symlinks lead."""
    run(["diff", "-r", "--no-dereference", "--exclude=lost+found", tree, other])  # which mkfs.ext4 makes


def test_ext4_passes_its_check(mount: Mount) -> None:
    run(["e2fsck", "-fn", mount.path("tree.ext4")])


def test_squashfs_is_listed_and_unpacked(mount: Mount, tree: Path, tmp_path: Path) -> None:
    assert "Found a valid SQUASHFS" in run(["unsquashfs", "-s", mount.path("tree.squashfs")]).stdout
    assert "squashfs-root/usr/bin/tool" in run(["unsquashfs", "-l", mount.path("tree.squashfs")]).stdout
    run(["unsquashfs", "-quiet", "-no-progress", "-dest", tmp_path / "unpacked", mount.path("tree.squashfs")])
    same(tree, tmp_path / "unpacked")


def test_erofs_passes_its_check(mount: Mount) -> None:
    run(["fsck.erofs", mount.path("tree.erofs")])


def test_qcow2_passes_its_check_and_converts_back(mount: Mount, images: Path, tmp_path: Path) -> None:
    assert "No errors were found" in run(["qemu-img", "check", mount.path("tree.qcow2")]).stdout
    run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", mount.path("tree.qcow2"), images / "tree.ext4"])


@needs_root
@pytest.mark.parametrize(
    ("kind", "options"), [("ext4", ("ro", "loop", "noload")), ("squashfs", ("ro", "loop")), ("erofs", ("ro",))]
)
def test_a_mounted_image_holds_the_tree_also_under_an_overlay(
    kind: str, options: tuple[str, ...], mount: Mount, tree: Path, tmp_path: Path
) -> None:
    with mounted(kind, mount.path(f"tree.{kind}"), tmp_path / "image", *options) as image:
        same(tree, image)
        with (
            mounted("tmpfs", "tmpfs", tmp_path / "writable", "size=64m") as writable,
            overlay(image, writable, tmp_path / "merged") as merged,
        ):
            run(["sh", "-ec", OVERWRITE, "sh", merged])
            run(["cp", "-a", tree, writable / "expected"])
            run(["sh", "-ec", OVERWRITE, "sh", writable / "expected"])
            same(writable / "expected", merged)
        same(tree, image)


OVERWRITE = """
cd "$1"
echo more >> usr/share/doc/text5
printf x | dd of=var/large bs=1 seek=5000000 conv=notrunc status=none
rm etc/link usr/share/doc/text7
mv usr/share/doc/text9 moved
mkdir new
cp usr/bin/tool new/copy
chmod 600 usr/bin/tool
"""
"""Changes of each kind to a tree."""
