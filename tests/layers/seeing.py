"""What a tree is, name by name, be it on a disk or made of layers: two that are equal look equal."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from lazyfs.layers import expanding
from lazyfs.layers.members import Member, Packing, Piece, Type
from lazyfs.layers.merge import Directory, walk

_TYPES = {
    stat.S_IFREG: Type.FILE,
    stat.S_IFDIR: Type.DIRECTORY,
    stat.S_IFLNK: Type.SYMLINK,
    stat.S_IFCHR: Type.CHARACTER,
    stat.S_IFBLK: Type.BLOCK,
    stat.S_IFIFO: Type.FIFO,
}


@dataclass(frozen=True)
class Seen:
    """A name. `names` are all of the file's, and `content` is its hash."""

    type: Type
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    target: str
    device: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]
    names: tuple[str, ...]
    content: str


def on_disk(top: str) -> dict[str, Seen]:
    """Return what is below a directory, and that itself, whose path is empty."""
    found: dict[str, tuple[str, os.stat_result]] = {}
    stack = [""]
    while stack:
        path = stack.pop()
        full = os.path.join(top, path)
        found[path] = full, os.lstat(full)
        if stat.S_ISDIR(found[path][1].st_mode):
            stack += [os.path.join(path, name) for name in os.listdir(full)]
    groups = _groups({path: status.st_ino for path, (_, status) in found.items()})
    return {path: _seen(full, status, groups[path]) for path, (full, status) in found.items()}


def _seen(full: str, status: os.stat_result, names: tuple[str, ...]) -> Seen:
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    content = ""
    if kind is Type.FILE:
        with open(full, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    assert kind is Type.DIRECTORY or status.st_nlink == len(names)
    return Seen(
        type=kind,
        mode=0 if kind is Type.SYMLINK else stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind is Type.FILE else 0,
        target=os.readlink(full) if kind is Type.SYMLINK else "",
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
        xattrs=tuple(
            (name, os.getxattr(full, name, follow_symlinks=False))
            for name in sorted(os.listxattr(full, follow_symlinks=False))
        ),
        names=names,
        content=content,
    )


def merged(root: Directory, read: Sequence[Callable[[Piece], bytes]]) -> dict[str, Seen]:
    """Return what a merged tree is; `read` returns the stored bytes of a piece, for each layer."""
    nodes = dict(walk(root))
    groups = _groups({path: id(node) for path, node in nodes.items()})
    seen = {}
    for path, node in nodes.items():
        member = node.member
        names = groups[path]
        assert isinstance(node, Directory) or node.links == len(names)
        seen[path] = Seen(
            type=member.type,
            mode=0 if member.type is Type.SYMLINK else member.mode,
            owner=(member.uid, member.gid),
            mtime_ns=member.mtime_ns,
            size=member.size,
            target=member.target,
            device=member.device,
            xattrs=member.xattrs,
            names=names,
            content=_content(member, read[node.layer]) if member.type is Type.FILE else "",
        )
    return seen


def _content(member: Member, read: Callable[[Piece], bytes]) -> str:
    whole = b"".join(expanding.content(piece, read(piece)) for piece in member.pieces)
    assert len(whole) == member.size
    return hashlib.sha256(whole).hexdigest()


def stored_in(blob: bytes) -> Callable[[Piece], bytes]:
    """Return what reads the stored bytes of a piece out of a blob."""
    return lambda piece: b"" if piece.packing is Packing.ZEROS else blob[piece.at : piece.at + piece.stored]


def _groups(identities: dict[str, Hashable] | dict[str, int]) -> dict[str, tuple[str, ...]]:
    names = defaultdict(list)
    for path, identity in sorted(identities.items()):
        names[identity].append(path)
    return {path: tuple(names[identity]) for path, identity in identities.items()}
