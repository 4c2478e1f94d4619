"""The descriptors of a blob's files: of all while somebody uses the blob, of the lock alone while it rests.

A mount may have ten thousand blobs open, of which few are being read, and may have no more than so many descriptors.
The lock's stays open, since the locks go with it: so nobody removes the blob meanwhile, and the files that are opened
again are the same.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Final

from lazyfs.store import layout as layouts
from lazyfs.store.layout import Layout
from lazyfs.versions import BlobId, digest_of

MOST: Final = 5
"""Descriptors of one blob."""


@dataclass(slots=True)
class Files:
    """The descriptors; one and the same for a blob that only stands in for its files, -1 for what is closed."""

    data: int
    map: int
    uses: int
    lock: int
    sums: int | None  # of a blob that is known by its digest

    @property
    def writable(self) -> bool:
        """Whether blocks may be put into them."""
        return self.data != self.map and all(map(layouts.writable, (self.data, self.map, self.lock)))

    @property
    def have_names(self) -> bool:
        """Whether all are in a directory, not only in memory."""
        return all(os.fstat(fd).st_nlink for fd in self._open())

    def close(self) -> None:
        """Close them all, which releases the locks."""
        for fd in self._open():
            os.close(fd)

    def close_all_but_the_lock(self) -> None:
        """Close the others."""
        for fd in self._open() - {self.lock}:
            os.close(fd)
        self.data = self.map = self.uses = -1
        self.sums = None

    def _open(self) -> set[int]:
        return {fd for fd in (self.data, self.map, self.uses, self.lock, self.sums) if fd is not None and fd >= 0}


def open_files(blob_id: BlobId, directory: int, lock: int, undo: contextlib.ExitStack, *, create: bool) -> Files:
    """Open the files beside a lock. *Raises*: FileNotFoundError without `create`; OSError."""
    map_fd, data = open_one("map", directory, undo, create=create), open_one("data", directory, undo, create=create)
    uses = _open_or_stand_in("uses", directory, undo)
    sums = _open_or_stand_in("sums", directory, undo) if digest_of(blob_id) is not None else None
    return Files(data, map_fd, uses, lock, sums)


def reopen(layout: Layout, blob_id: BlobId, lock: int) -> Files:
    """Open the files beside an open lock again. *Raises*: FileNotFoundError, when they are elsewhere now; OSError."""
    with contextlib.ExitStack() as undo:
        directory = layouts.blob_directory(layout, blob_id, create=False)
        try:
            if not os.path.samestat(os.stat("lock", dir_fd=directory, follow_symlinks=False), os.fstat(lock)):
                raise FileNotFoundError(blob_id)
            files = open_files(blob_id, directory, lock, undo, create=False)
        finally:
            os.close(directory)
        undo.pop_all()
        return files


def open_one(name: str, directory: int, undo: contextlib.ExitStack, *, create: bool) -> int:
    """Open one of the files, and have `undo` close it. *Raises*: FileNotFoundError without `create`; OSError."""
    fd = layouts.open_file(name, directory, create=create)
    undo.callback(os.close, fd)
    return fd


def _open_or_stand_in(name: str, directory: int, undo: contextlib.ExitStack) -> int:
    """Open what no open fails for, unless the blob is gone. *Raises*: FileNotFoundError."""
    try:
        return open_one(name, directory, undo, create=True)
    except FileNotFoundError:
        raise
    except OSError:
        fd = os.memfd_create(name)
        undo.callback(os.close, fd)
        return fd
