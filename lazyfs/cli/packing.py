"""pack: a directory as an EROFS image, made by mkfs.erofs, whole or not at all.

The image is not compressed: what is read of a file is then just that part of the image. Names, modes, owners, times,
hard links, devices and extended attributes are kept, and the same tree gives the same image, byte for byte. It is
written in a directory of its own beside its place, synced, and put there in one step.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from lazyfs.errors import LazyfsError, UsageError
from lazyfs.sizes import format_size

NEVER: Final = str(2**64 - 2)
"""Seconds since the epoch: mkfs.erofs leaves times alone that are before SOURCE_DATE_EPOCH, and takes that for its own
time in place of now. One less than the largest number, which means "none" to newer versions. *Source*: erofs-utils,
lib/config.c and lib/inode.c."""

OURS: Final = "user.lazyfs."
"""How the attributes begin that a mount of ours shows; they say how a file got there, and are no part of it."""

_REASON: Final = re.compile(r"\[Error \d+\] (.+)")


def pack(directory: Path, image: Path, *, force: bool) -> None:
    """Make the image and say what it holds; with `force`, in place of a file that is there. *Raises*: LazyfsError."""
    image = image.absolute()
    for needed in (directory, image.parent):
        if not needed.is_dir():
            raise UsageError(f"{needed} is not a directory; name one that is")
    if image.is_dir():
        raise UsageError(f"{image} is a directory; name a file in it")
    if image.resolve().is_relative_to(directory.resolve()):
        raise UsageError(f"{image} would lie in the directory that is packed; name a place elsewhere")
    if os.path.lexists(image) and not force:
        raise UsageError(f"{image} is there already; --force replaces it")
    # An ordinary user's PATH has no mkfs.
    program = shutil.which("mkfs.erofs", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise LazyfsError("mkfs.erofs is not installed; it is in the package erofs-utils")
    try:
        tree = _look(directory)
        with tempfile.TemporaryDirectory(prefix=f".{image.name}.", dir=image.parent) as work:
            made = Path(work) / "image"
            _make(program, directory, tree, made)
            _put(made, image, force=force)
        _sync(image.parent)
        size = image.stat().st_size
    except FileExistsError:
        raise UsageError(f"{image} is there by now; --force replaces it") from None
    except OSError as exc:
        raise LazyfsError(f"{directory} is not packed: {exc.filename or image}: {exc.strerror or exc}") from exc
    click.echo(f"{image}: {tree.names:,} names, {format_size(size)}")


@dataclass(frozen=True, slots=True)
class _Tree:
    """A directory that was looked through: how many names it has, and whether any has attributes of its own.

    `identity` follows from all names and what stat says of them, and from no content.
    """

    names: int
    attributes: bool
    identity: uuid.UUID


def _look(directory: Path) -> _Tree:
    """Look at each name. *Raises*: OSError."""
    names, attributes, seen = 0, False, hashlib.sha256()
    for path in _walk(directory):
        names += 1
        found = path.lstat()
        link = str(path.readlink()) if stat.S_ISLNK(found.st_mode) else ""
        size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size  # a directory's is its file system's affair
        says = (found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_rdev, size, link)
        seen.update(repr((os.fsencode(path.relative_to(directory)), *says)).encode())
        attributes = attributes or any(not name.startswith(OURS) for name in _attributes(path))
    return _Tree(names, attributes, uuid.UUID(bytes=seen.digest()[:16]))


def _walk(directory: Path) -> Iterator[Path]:
    """Yield a directory and all that is below it, the same way each time. *Raises*: OSError."""
    yield directory
    ahead = [directory]
    while ahead:
        with os.scandir(ahead.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    ahead.append(Path(entry.path))


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EPERM):  # a file system, or a kind of file, that has none
            return []
        raise


def _make(program: str, directory: Path, tree: _Tree, image: Path) -> None:
    """Run mkfs.erofs, which reads all of it. *Raises*: LazyfsError with its reason when it fails."""
    words: list[str | Path] = [program, "--quiet", "-U", str(tree.identity)]
    words += [*([] if tree.attributes else ["-x-1"]), "--", image, directory]
    environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": NEVER}
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        reasons = _REASON.findall(done.stderr)
        reason = reasons[-1] if reasons else " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise LazyfsError(f"{directory} is not packed, says mkfs.erofs: {reason}")


def _put(made: Path, image: Path, *, force: bool) -> None:
    """Sync the image and give it its name. *Raises*: OSError; FileExistsError, when it would replace one."""
    _sync(made)
    if force:
        made.replace(image)
    else:
        image.hardlink_to(made)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
