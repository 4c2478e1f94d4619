"""`lazyfs pack`: an image holds all of a tree, is the same each time, can be used lazily, and is whole or not there."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import pytest

from tests import trees, under
from tests.images import mounted, mounted_image
from tests.mounts import Mounts, lazyfs, on_mount
from tests.registries import Registry, layer, make_image
from tests.servers import Nginx

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices and mounts images")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with all that a system's may hold; what takes root only for root."""
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "file").write_text("hello\n")
    (tree / "large").write_bytes(random.Random(5).randbytes(3_000_001))
    (tree / "sparse").touch()
    os.truncate(tree / "sparse", 1_000_000)
    (tree / "deep" / "hard").hardlink_to(tree / "file")
    (tree / "deep" / "er" / "harder").hardlink_to(tree / "file")
    (tree / "link").symlink_to("deep/hard")
    (tree / "dangling").symlink_to("/no/such/thing")
    (tree / "new\nline").touch()
    (tree / os.fsdecode(b"\xff\xfe")).touch()
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "socket"))
    os.setxattr(tree / "file", "user.mine", b"\0\xff")
    os.setxattr(tree / "deep", "user.large", b"v" * 1500)
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
        os.mknod(tree / "disk", 0o60640, os.makedev(259, 70000))
        os.setxattr(tree / "large", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
        os.setxattr(tree / "deep" / "er", "trusted.mine", b"1")
        os.chown(tree / "large", 70000, 100001)
        os.chown(tree / "link", 1000, 1000, follow_symlinks=False)
    (tree / "large").chmod(0o4711)
    (tree / "deep" / "er").chmod(0o1777)
    for name, time in (
        ("file", 1_700_000_000_123_456_789),
        ("large", -5_000_000_000),
        ("deep", 5_000_000_000_000_000_001),
    ):
        os.utime(tree / name, ns=(0, time))
    os.utime(tree / "link", ns=(0, 999_999_999), follow_symlinks=False)
    return tree


def packed(tree: Path | str, image: Path, *options: str) -> Path:
    """Pack a tree."""
    done = lazyfs("pack", *options, str(tree), image)
    assert (done.returncode, done.stderr) == (0, "")
    return image


@needs_root
@pytest.mark.parametrize("loop", [True, False], ids=["loop", "file"])
def test_the_image_holds_the_tree(loop: bool, tree: Path, tmp_path: Path, mounts: Mounts, docroot: Path) -> None:
    packed(tree, docroot / "tree.erofs")
    with Nginx(tmp_path / "nginx", docroot) as nginx:
        mount = mounts(f"{nginx.url}/tree.erofs", options=[] if loop else ["--no-passthrough"])
        file, at = mount.path("tree.erofs"), tmp_path / "image"
        with mounted_image("erofs", file, at, loop=loop):
            assert on_mount(trees.described, str(at)) == trees.described(str(tree))


def test_the_same_tree_gives_the_same_image(tree: Path, tmp_path: Path) -> None:
    first, second = (packed(tree, tmp_path / name).read_bytes() for name in ("first", "second"))
    assert first == second
    (tree / "file").chmod(0o600)
    uuid = slice(1024 + 48, 1024 + 64)  # of an EROFS superblock
    assert packed(tree, tmp_path / "third").read_bytes()[uuid] != first[uuid]


@needs_root
def test_a_directory_of_a_mount_is_packed_without_what_the_mount_says_of_it(
    docroot: Path, tmp_path: Path, mounts: Mounts, nginx: Nginx
) -> None:
    (docroot / "some").mkdir()
    (docroot / "some" / "file").write_text("hello\n")
    mount = mounts(nginx.url + "/")
    assert "user.lazyfs.url" in dict(on_mount(trees.described, mount.path("some"))["file"].attributes)
    image = packed(mount.path("some"), tmp_path / "image.erofs")
    with mounted_image("erofs", image, tmp_path / "at") as at:
        found = trees.described(str(at))
    assert sorted(found) == [".", "file"]
    assert found["file"].attributes == ()


@needs_root
def test_the_rootfs_of_an_image_is_packed(tree: Path, tmp_path: Path, mounts: Mounts) -> None:
    (tree / "socket").unlink()  # which no layer holds
    with Registry(tmp_path / "registry") as registry:
        registry.push(make_image(tmp_path / "layout", [layer(tree, "none")]), "team/app:1")
        mount = mounts(registry.image("team/app:1"))
        image = packed(mount.path("rootfs"), tmp_path / "image.erofs")
        with mounted_image("erofs", image, tmp_path / "at") as at:
            assert on_mount(trees.described, mount.path("rootfs")) == trees.described(str(at))


def test_what_cannot_be_read_is_not_packed(docroot: Path, tmp_path: Path, mounts: Mounts, nginx: Nginx) -> None:
    (docroot / "some").mkdir()
    (docroot / "some" / "file").write_bytes(bytes(3_000_000))
    mount = mounts(nginx.url + "/", options=["--read-timeout", "1"])
    assert on_mount(under.names, mount.path("some")) == ["file"]
    nginx.stop()
    (tmp_path / "images").mkdir()
    refused(mount.path("some"), tmp_path / "images" / "image", "Input/output error")
    assert list((tmp_path / "images").iterdir()) == []


def test_what_is_there_is_replaced_only_when_asked(tree: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_text("precious")
    refused(tree, image, "is there already; --force replaces it")
    assert image.read_text() == "precious"
    assert packed(tree, image, "--force").stat().st_size > 3_000_000
    assert image.stat().st_mode & 0o777 == 0o644
    refused(tree, tmp_path, "is a directory")
    refused(tree, tree / "deep" / "image", "would lie in the directory that is packed")
    refused(tree / "file", tmp_path / "new", "is not a directory")
    refused(tree, tmp_path / "none" / "new", "none is not a directory")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "tree"]


@needs_root
def test_no_room_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    with mounted("tmpfs", "tmpfs", tmp_path / "small", "size=1m") as small:
        refused(tree, small / "image", "No space left on device")
        assert list(small.iterdir()) == []


def refused(tree: Path | str, image: Path, why: str) -> None:
    """Check that a tree is not packed, and that one line says why."""
    done = lazyfs("pack", str(tree), image)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert why in done.stderr
