"""An image of three layers with one of everything that a distribution has, and that none has."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

from tests.layers import writing

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, as `setcap` writes it
NS = 1_600_000_000_123_456_789


def run(*words: str | Path, cwd: Path | None = None) -> bytes:
    done = subprocess.run(words, cwd=cwd, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def base_tree(top: Path) -> None:
    """Make what a distribution has, and what none has."""
    for name in ("bin", "dev", "empty", "etc/conf.d", "home/user", "opaque/deep/er", "gone/dir", "usr/lib", "swap/d"):
        (top / name).mkdir(parents=True)
    for n, name in enumerate(["bin/tool", "bin/other", "etc/passwd", "etc/conf.d/a", "home/user/.profile", "gone/file",
                              "gone/dir/f", "opaque/old", "opaque/deep/old", "opaque/deep/er/old", "usr/lib/lib.so",
                              "swap/d/f", "swap/f", "zero", "big"]):  # fmt: skip
        (top / name).write_bytes(name.encode() * (n * 100))
    (top / "big").write_bytes(os.urandom(10_000) + bytes(20_000) + os.urandom(3_333))
    with (top / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(1 << 20)
        file.write(b"in the middle" * 1000)
        file.seek(3 << 20)
        file.write(b"later")
    os.mknod(top / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
    os.mknod(top / "dev/disk", 0o660 | 0o060000, os.makedev(259, 65537))
    os.mkfifo(top / "dev/pipe", 0o640)
    os.chmod(top / "bin/tool", 0o4755)
    os.chmod(top / "bin", 0o2775)
    os.chmod(top / "home", 0o1777)
    os.chown(top / "home/user", 1000, 1000)
    os.chown(top / "home/user/.profile", 3_000_000_000, 4_000_000_000)
    os.chmod(top / "etc/passwd", 0)
    os.symlink("usr/lib", top / "lib")
    os.symlink("../../../outside", top / "etc/out")
    os.symlink("/absolute/" + "x" * 150, top / "long-link")
    os.lchown(top / "lib", 7, 8)
    os.link(top / "bin/tool", top / "bin/tool-2")
    os.link(top / "bin/tool", top / "etc/tool-3")
    os.link(top / "usr/lib/lib.so", top / "usr/lib/lib.so.1")
    os.link(top / "lib", top / "lib-2")
    raw = os.fsencode(top)
    for odd in (
        b"caf\xe9",
        "caf\xe9".encode(),
        b"new\nline",
        b"back\\slash",
        b" spaces ",
        b"\xff\xfe",
        b"-dash",
        b"n" * 255,
    ):
        with open(os.path.join(raw, b"home", odd), "wb") as file:
            file.write(odd)
    os.makedirs(os.path.join(raw, b"home", b"d" * 120, b"e" * 120, b"f" * 200))
    os.setxattr(top / "bin/other", "security.capability", CAPABILITY)
    os.setxattr(top / "bin/other", "user.binary", b"\0=\n\xff\x80" * 20)
    os.setxattr(top / "etc", "user.on-a-directory", b"1")
    os.setxattr(top / "zero", "trusted.mine", b"v" * 3000)
    for n, (path, _, files) in enumerate(os.walk(top, topdown=False)):
        for m, name in enumerate(files):
            os.utime(os.path.join(path, name), ns=(NS, NS + n * 1_000_000_007 + m), follow_symlinks=False)
        os.utime(path, ns=(NS, n))  # the first nanoseconds of 1970


def change(top: Path) -> None:
    """Do what the second layer says: umoci finds out."""
    (top / "gone/file").unlink()
    (top / "swap/f").unlink()
    (top / "swap/f").mkdir()
    (top / "swap/f/inner").write_bytes(b"a file became a directory")
    (top / "swap/d/f").unlink()
    (top / "swap/d").rmdir()
    os.symlink("f", top / "swap/d")
    (top / "etc/conf.d/b").write_bytes(b"added")
    os.chmod(top / "etc/conf.d", 0o700)
    os.setxattr(top / "empty", "user.new", b"x")
    os.truncate(top / "bin/other", 10)
    os.unlink(top / "lib-2")
    os.link(top / "etc/conf.d/b", top / "etc/conf.d/c")


XATTRS = ("security.selinux", "system.nfs4_acl", "trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.x")
"""All but the last are not for a layer to say."""

THIRD: list[tuple[str, writing.Entry]] = [
    ("./", {"type": "dir", "mode": 0o711, "mtime": 1}),
    ("opaque/new", {"mtime": 5, "mode": 0o600}),
    ("opaque/deep/", {"type": "dir", "mode": 0o750, "mtime": 6}),
    ("opaque/deep/new", {"uid": 9, "pax_headers": {f"SCHILY.xattr.{name}": "y" for name in XATTRS}}),
    ("opaque/.wh..wh..opq", {}),  # after its siblings
    (".wh.gone", {}),
    ("bin/.wh.tool-2", {}),
    ("usr/.wh..wh..opq", {}),
    ("usr/lib/", {"type": "dir", "mode": 0o755, "mtime": 7}),
    ("usr/lib/fresh", {}),
    ("again", {}),
    (".wh.again", {}),  # only what is below goes
    ("linked", {"type": "hardlink", "linkname": "etc/conf.d/a"}),
    ("bin/linked", {"type": "hardlink", "linkname": "./linked"}),
    ("bin/self", {"type": "hardlink", "linkname": "opaque/new"}),
    ("bin/rooted", {"type": "hardlink", "linkname": "/zero"}),
    ("lib/through", {"mtime": 11}),  # lib is a link to usr/lib
    ("swap/f/", {"type": "dir", "mode": 0o1755, "mtime": 12, "uid": 1, "gid": 2}),
    ("dev/null", {"type": "reg", "mtime": 13}),
    ("dev/pipe", {"type": "symlink", "linkname": "null"}),
    ("empty", {"type": "char", "devmajor": 5, "devminor": 1, "mode": 0o620}),
    ("etc/conf.d/a", {"mtime": 14}),
    ("implied/here/file", {"mtime": 15}),
    ("implied/here/.wh.nothing", {}),
    ("nowhere/.wh.nothing", {}),
]
CONTENTS = {name: f"content of {name}".encode() for name, attributes in THIRD if attributes.get("type", "reg") == "reg"}


def layers(work: Path) -> list[bytes]:
    """Return its layers, uncompressed: made by GNU tar, by `umoci repack` and by hand."""
    tree = work / "tree"
    tree.mkdir()
    base_tree(tree)
    options = ("--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "--sort=name")
    writing.layout(work / "first", [run("tar", "-c", "-C", tree, *options, ".")])
    run("umoci", "unpack", "--image", work / "first:latest", work / "bundle")
    change(work / "bundle/rootfs")
    run("umoci", "repack", "--image", work / "first:second", work / "bundle")
    found = writing.layers_of(work / "first", "second")
    assert len(found) == 2
    return [*found, writing.tar(THIRD, CONTENTS)]
