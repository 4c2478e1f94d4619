"""All that can be said of a directory tree, to compare two. Only the standard library: on_mount calls it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """One name: what stat says of it, where a symlink leads, the digest of a file's bytes, its attributes.

    `same_as` is the first name, in order, of the same file. A directory's size and links are its file system's affair.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    device: int
    size: int
    links: int
    same_as: str
    target: str
    digest: str
    attributes: tuple[tuple[str, bytes], ...]


def described(directory: str) -> dict[str, Name]:
    """Describe a directory and all names below it, by their paths from there."""
    names: dict[str, Name] = {}
    files: dict[tuple[int, int], str] = {}
    for path in sorted(_paths(directory)):
        name = os.path.relpath(path, directory)
        found = os.lstat(path)
        apart, file = stat.S_ISDIR(found.st_mode), stat.S_ISREG(found.st_mode)
        names[name] = Name(
            found.st_mode,
            found.st_uid,
            found.st_gid,
            found.st_mtime_ns,
            found.st_rdev,
            0 if apart else found.st_size,
            0 if apart else found.st_nlink,
            files.setdefault((found.st_dev, found.st_ino), name),
            os.readlink(path) if stat.S_ISLNK(found.st_mode) else "",
            _digest(path) if file else "",
            _attributes(path),
        )
    return names


def _paths(directory: str) -> list[str]:
    found = [directory]
    for at, below, files in os.walk(directory):
        found += [os.path.join(at, name) for name in below + files]
    return found


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _attributes(path: str) -> tuple[tuple[str, bytes], ...]:
    found = []
    with contextlib.suppress(OSError):  # where there are none
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            found.append((name, os.getxattr(path, name, follow_symlinks=False)))
    return tuple(found)
