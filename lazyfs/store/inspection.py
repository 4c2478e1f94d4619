"""One blob on the disk, compared with what its map says; for fsck.

Nothing that others do to the blob meanwhile is damage: what does not match is looked at again with its lock held
(checking.py), and a lock that somebody holds means that it is being seen to. What a killed process leaves is not
damage either: a directory without a map, a map without its end, data that the map does not know.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from lazyfs import records
from lazyfs.errors import StoreError
from lazyfs.extents import Geometry
from lazyfs.store import layout as layouts
from lazyfs.store import trash
from lazyfs.store.blobfile import BlobFile, look_into, open_blob
from lazyfs.store.checking import Verdict, check_block, drop_block, reclaim
from lazyfs.store.layout import Layout
from lazyfs.versions import BlobId, digest_of

FILES: Final = frozenset({"data", "map", "lock", "uses", "sums", "pin"})

SHOWN: Final = 8
"""Blocks that a finding names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it should be: damage, or what is left over and hurts nobody; `mended` by now."""

    where: str
    what: str
    damage: bool = True
    mended: bool = False

    def __str__(self) -> str:
        state = "mended" if self.mended else "damaged" if self.damage else "left over"
        return f"{self.where}: {self.what} ({state})"


@dataclass(slots=True)
class Inspection:
    """What was learnt of a blob on the way."""

    blob_id: BlobId
    geometry: Geometry | None = None  # None: there is nothing of it that could be used
    present: int = 0  # bytes of blocks that are present
    complete: bool = False
    digest: str | None = None


def inspect(layout: Layout, seen: Inspection, *, repair: bool) -> Iterator[Finding]:
    """Look at a blob whole, and yield what is wrong; with `repair`, drop what is damaged, and give back what is lost.

    Blocks on the disk for as long as it takes to read the blob. *Raises*: OSError; StoreError. *Locks*: tries blocks,
    in-use and, to mend its size, takes set-up.
    """
    blob_id = seen.blob_id
    try:
        directory = layouts.blob_directory(layout, blob_id, create=False)
    except FileNotFoundError:
        return
    try:
        broken = yield from _files(directory, blob_id, repair=repair)
        if broken:
            yield _useless(layout, blob_id, directory, broken, repair=repair)
            return
        size = _size(directory, "map")
        if size is None or size == 0:  # it was never set up
            return
        try:
            blob = look_into(layout, blob_id)
        except FileNotFoundError:
            return  # the same, or it was removed
        except records.NewerRecord as exc:
            yield Finding(blob_id, f"{exc}; upgrade lazyfs")
            return
        except records.BadRecord as exc:
            yield _useless(layout, blob_id, directory, str(exc), repair=repair)
            return
    finally:
        os.close(directory)
    with closing(blob):
        seen.geometry = blob.geometry
        yield from _sizes(layout, blob, repair=repair)
        yield from _blocks(blob, seen, repair=repair)
        yield from _unvouched(layout, blob, repair=repair)
        yield from _digest(layout, blob, seen, repair=repair)


def _useless(layout: Layout, blob_id: BlobId, directory: int, why: str, *, repair: bool) -> Finding:
    if repair:
        trash.throw_away(layout, blob_id, directory)
    return Finding(blob_id, f"{why}: all of it is dropped" if repair else why, mended=repair)


def _wrong_mode(name: str, dir_fd: int, wanted: int) -> str:
    """Say what is wrong with the owner and mode of a file or directory of ours; empty when nothing is."""
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if status.st_uid != os.geteuid():
        return f"{name} belongs to another user (uid {status.st_uid})"
    mode = stat.S_IMODE(status.st_mode)
    return f"{name} has the mode {mode:04o}, not {wanted:04o}" if mode & ~wanted & 0o777 else ""


def check_mode(where: str, name: str, dir_fd: int, wanted: int, *, repair: bool) -> Iterator[Finding]:
    """Yield what is wrong with the owner and mode of something of ours; with `repair`, set them right."""
    if wrong := _wrong_mode(name, dir_fd, wanted):
        if repair:
            os.chown(name, os.geteuid(), -1, dir_fd=dir_fd, follow_symlinks=False)
            os.chmod(name, wanted, dir_fd=dir_fd)
        yield Finding(where, wrong, mended=repair)


def _files(directory: int, blob_id: BlobId, *, repair: bool) -> Generator[Finding, None, str]:
    """Look at what lies in a blob's directory; return why all of it is lost, if it is."""
    broken = ""
    for name in sorted(os.listdir(directory)):
        try:
            kind = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue
        if name in FILES and stat.S_ISREG(kind):
            with contextlib.suppress(FileNotFoundError):
                yield from check_mode(blob_id, name, directory, 0o600, repair=repair)
        elif name in ("data", "map", "lock"):
            broken = f"{name} is not a file"
        else:
            if repair:
                trash.remove(name, directory)
            what = f"{name} is not a file" if name in FILES else f"{name!r} is not ours"
            yield Finding(blob_id, what, mended=repair)
    return broken


def _size(directory: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def _sizes(layout: Layout, blob: BlobFile, *, repair: bool) -> Iterator[Finding]:
    """Too long is damage; too short is what a killed process may leave, and its end is missing."""
    if longer := blob.too_long():
        if repair:
            with contextlib.suppress(StoreError):  # it is being made or removed
                open_blob(layout, blob.blob_id, blob.geometry.size, blob.geometry.block_size).close()
        yield Finding(blob.blob_id, f"{' and '.join(longer)} longer than it can be", mended=not blob.too_long())


def _blocks(blob: BlobFile, seen: Inspection, *, repair: bool) -> Iterator[Finding]:
    """Check every block that is present, and hash them all on the way as long as none is missing."""
    wrong: list[int] = []
    wanted = digest_of(blob.blob_id)
    hashed, following = hashlib.sha256(), 0
    for index, _ in blob.present():
        verdict, block = check_block(blob, index, drop_block if repair else None)
        if block is not None:
            seen.present += len(block)
            if wanted is not None and following == index:
                hashed.update(block)
                following += 1
        elif verdict is Verdict.DAMAGED:
            wrong.append(index)
    seen.complete = blob.complete()
    if wanted is not None and following == blob.geometry.blocks:
        seen.digest = hashed.hexdigest()
    if wrong:
        what = "block does" if len(wrong) == 1 else "blocks do"
        more = ", ..." if len(wrong) > SHOWN else ""
        shown = ", ".join(map(str, wrong[:SHOWN])) + more
        yield Finding(blob.blob_id, f"{len(wrong)} {what} not match: {shown}", mended=repair)


def _unvouched(layout: Layout, blob: BlobFile, *, repair: bool) -> Iterator[Finding]:
    """Find the disk space of blocks that are missing: who was killed before the map's entry leaves that."""
    if layouts.disk_bytes(layout, blob.blob_id) <= blob.present_bytes():
        return
    if found := reclaim(blob, give_back=repair):
        what = f"space for {found} {'block' if found == 1 else 'blocks'} that its map does not know"
        yield Finding(blob.blob_id, what, damage=False, mended=repair)


def _digest(layout: Layout, blob: BlobFile, seen: Inspection, *, repair: bool) -> Iterator[Finding]:
    """Compare a whole blob with its digest."""
    if seen.digest is None or seen.digest == digest_of(blob.blob_id):
        return
    again = Inspection(blob.blob_id)  # wrong blocks may have given way to right ones while it was hashed
    for _ in _blocks(blob, again, repair=False):
        return
    if again.digest is None or again.digest == digest_of(blob.blob_id):
        return
    with contextlib.suppress(FileNotFoundError):
        directory = layouts.blob_directory(layout, blob.blob_id, create=False)
        try:
            what = "it is whole, and does not match its digest"
            yield _useless(layout, blob.blob_id, directory, what, repair=repair)
        finally:
            os.close(directory)
    if repair:
        seen.geometry = None
