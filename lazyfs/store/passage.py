"""A blob that the kernel reads past us: what must be true of it before, and what keeps it so meanwhile.

Whoever reads past us has its bytes unchecked, and for as long as a file is open or mapped nobody can take it back.
So two things hold of every descriptor that `take` returns:

 P1  Every block was found to match its checksum, and since then neither the map nor the data has changed (`Glance`).
 P2  While any process or the kernel has this open file, no block of the blob is evicted, and none is cut off when the
     blob is deleted: there is a lease on the data.

    look through all blocks ──> glance ·····> lease ── is any block locked? ── yes ── not now
                                                          └ no ── the same glance? ── no ── look through it again
                                                                     └ yes ── it may be read past us

The lease is a lock on the open file of the data itself, not on `lock`: the kernel keeps that open file for as long as
it reads from it, so the lease outlives a daemon that was killed, and ends with the last reader.

P2, in all orders: an evictor has the block's lock when it looks for leases. Either it looks after ours is there, and
leaves the block alone; or before, and then we find it at work when we look for locks, or done: then the map is another.

What was looked through is remembered beside the map, for the daemons to come, until the host starts anew: what a power
loss does to files that were sound, their dates need not tell.

*Source*: fcntl(2), open file description locks; Linux 6.9, fs/fuse/passthrough.c; `tools/interleavings`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Final, NamedTuple

from lazyfs import records
from lazyfs.extents import Extent
from lazyfs.store import layout as layouts
from lazyfs.store.blobfile import BlobFile
from lazyfs.store.layout import Layout
from lazyfs.store.locks import DataLocks

_PIECE: Final = 1 << 20
"""Bytes of the map that are read in one go: those of 32 GiB of blob."""


_REMEMBERED: Final = "user.lazyfs.looked"
"""An extended attribute of the map, which `Glance` does not see."""


class Glance(NamedTuple):
    """What tells that a blob's files are as they were: the data by its dates, the map by its content."""

    data: tuple[int, ...]
    entries: int


def glance(file: BlobFile) -> Glance:
    """Take a glance at a blob. *Raises*: OSError."""
    return _glance(file, file.files.data)


def remember(file: BlobFile, seen: Glance) -> None:
    """Remember that a blob was looked through, if its file system has room for that."""
    words = _boot(), *map(str, seen.data), str(seen.entries)
    with contextlib.suppress(OSError):
        os.setxattr(file.files.map, _REMEMBERED, " ".join(words).encode())


def recall(file: BlobFile) -> Glance | None:
    """Return what a blob was when it was last looked through since the host has started; None when it was not."""
    try:
        boot, *numbers = os.getxattr(file.files.map, _REMEMBERED).decode().split()
        *data, entries = map(int, numbers)
    except (OSError, ValueError):
        return None
    return Glance(tuple(data), entries) if boot == _boot() else None


def check(file: BlobFile, run: Extent) -> int | None:
    """Look at a run of blocks, and return how many bytes of it came from the disk; None when one is unsound.

    Who finds one that is damaged makes it missing, so that it is fetched when it is read. What came from the disk
    leaves the page cache again. Blocks on the disk. *Raises*: OSError.
    """
    from_disk, sound = 0, True
    for index in run.blocks():
        try:
            block = file.read(index, wait=False)
        except BlockingIOError:
            block = file.read(index, wait=True)
            file.leave_page_cache(index)
            from_disk += file.geometry.length(index)
        if block is None:
            sound = False
            if file.entries(Extent(index, index + 1))[0] != records.MISSING:
                file.forget(index)
    return from_disk if sound else None


def take(layout: Layout, file: BlobFile, seen: Glance) -> int | None:
    """Return a descriptor of a blob's data for the kernel to read past us; None when it is not as it was seen.

    *Locks*: takes a lease, held by the open file. *Raises*: OSError.
    """
    directory = layouts.blob_directory(layout, file.blob_id, create=False)
    try:
        fd = layouts.open_file("data", directory, create=False)
    finally:
        os.close(directory)
    kept = False
    try:
        DataLocks(fd).take_lease()
        busy = file.locks.are_held(Extent(0, file.geometry.blocks))
        kept = not busy and _glance(file, fd) == seen
    finally:
        if not kept:
            os.close(fd)
    return fd if kept else None


@functools.cache
def _boot() -> str:
    """Return what no other run of this host's kernel has. *Source*: random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _glance(file: BlobFile, data: int) -> Glance:
    status = os.fstat(data)
    length = records.MAP_HEADER_SIZE + file.geometry.blocks * records.ENTRY_SIZE
    entries = 0
    for offset in range(0, length, _PIECE):
        piece = os.pread(file.files.map, min(_PIECE, length - offset), offset)
        entries = records.checksum(entries.to_bytes(8, "little") + piece)
    dates = status.st_mtime_ns, status.st_ctime_ns
    return Glance((status.st_dev, status.st_ino, status.st_size, *dates), entries)
