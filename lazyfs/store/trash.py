"""Removal in two steps: rename into `trash/` under the lock, delete after it.

    blobs/ab/ID/  --rename, holding ID's in-use lock exclusively-->  trash/ID.SERIAL/  --delete-->  gone

The lock goes with the directory, since it is a file in it, and its holder keeps it while deleting: so an entry of the
trash whose lock is free was left behind by a killed process, and whoever comes next takes it over (try, then look
again). A reader that opens the same blob meanwhile finds no directory under its name and makes a new one. Nothing
waits for a deletion.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from dataclasses import dataclass
from typing import Final

from lazyfs.store import layout as layouts
from lazyfs.store.layout import Layout
from lazyfs.store.locks import BlobLocks, DataLocks
from lazyfs.versions import BlobId

STEP: Final = 16 * 1024 * 1024
"""Bytes of data deleted at a time: in 64 extents they take ext4 some 8 ms."""

WORTH_A_PAUSE: Final = 0.001
"""Seconds that a step may take without a pause of the same length after it."""


@dataclass(frozen=True, slots=True)
class Staged:
    """An entry of the trash and the descriptor whose lock says that we are deleting it."""

    name: str
    lock: int


def stage(layout: Layout, blob_id: BlobId) -> Staged | None:
    """Take a blob out of the store; None when it is in use, pinned or not there.

    *Locks*: takes in-use exclusively (tried), held until `delete`. *Raises*: OSError.
    """
    try:
        directory = layouts.blob_directory(layout, blob_id, create=False)
    except FileNotFoundError:
        return None
    shelf = layouts.open_directory(layouts.shelf_of(blob_id), layout.blobs)
    lock = -1
    try:
        lock = layouts.open_file("lock", directory, create=True)
        if not (BlobLocks(lock).try_own() and layouts.leads_to(layout, blob_id, directory)):
            return None
        if layouts.is_pinned(layout, blob_id):
            return None
        name = f"{blob_id}.{secrets.token_hex(4)}"
        os.rename(blob_id, name, src_dir_fd=shelf, dst_dir_fd=layout.trash)
        staged, lock = Staged(name, lock), -1
        return staged
    except FileNotFoundError:
        return None
    finally:
        for fd in (lock, shelf, directory):
            if fd >= 0:
                os.close(fd)


def set_aside(layout: Layout, blob_id: BlobId, lock: int) -> None:
    """Take a blob out of the store although it is in use; `sweep` deletes it when it no longer is.

    `lock` is a descriptor of its lock file: a blob that has come into its place meanwhile stays.

    *Locks*: the gate, held, so that of those who do the same one comes first. *Raises*: OSError.
    """
    try:
        directory = layouts.blob_directory(layout, blob_id, create=False)
    except FileNotFoundError:
        return
    shelf = layouts.open_directory(layouts.shelf_of(blob_id), layout.blobs)
    try:
        if os.path.samestat(os.stat("lock", dir_fd=directory), os.fstat(lock)):
            name = f"{blob_id}.{secrets.token_hex(4)}"
            os.rename(blob_id, name, src_dir_fd=shelf, dst_dir_fd=layout.trash)
    except FileNotFoundError:
        return
    finally:
        os.close(shelf)
        os.close(directory)


def delete(layout: Layout, staged: Staged) -> int:
    """Delete what was staged, and return how many bytes of the disk its data took.

    *Locks*: releases its lock at the end. *Raises*: OSError.
    """
    try:
        length = _data_bytes(layout, staged.name)
        _delete_directory(layout.trash, staged.name)
        return length
    finally:
        os.close(staged.lock)


def sweep(layout: Layout) -> int:
    """Delete what killed processes left in the trash, oldest first, and return how many entries that were.

    *Locks*: tries each entry's; skips what another process is deleting. *Raises*: OSError.
    """
    return sum(_take_over(layout, name) for name in sorted(os.listdir(layout.trash), key=lambda n: _age(layout, n)))


def disk_bytes(layout: Layout) -> int:
    """Return how many bytes of the disk the data in the trash takes."""
    return sum(_data_bytes(layout, name) for name in os.listdir(layout.trash))


def _data_bytes(layout: Layout, name: str) -> int:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.stat(f"{name}/data", dir_fd=layout.trash, follow_symlinks=False).st_blocks * 512
    return 0


def _age(layout: Layout, name: str) -> float:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=layout.trash, follow_symlinks=False).st_ctime
    return 0.0


def _take_over(layout: Layout, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        directory = layouts.open_directory(name, layout.trash)
        try:
            lock = layouts.open_file("lock", directory, create=True)
        finally:
            os.close(directory)
        if not BlobLocks(lock).try_own():
            os.close(lock)
            return False
        delete(layout, Staged(name, lock))
        return True
    return False


def _shorten(directory: int) -> None:
    """Give back the disk space of a blob's data little by little, so that this gives way, and can be interrupted.

    To free one large extent takes no time, but a blob that was fetched at random may have one for each block: 8 GiB in
    32767 extents are 4 to 14 s of ext4's time here. Readers beside it are not delayed either way (`tools/removal`).
    """
    data = layouts.open_file("data", directory, create=False)
    try:
        if DataLocks(data).is_leased():  # the kernel still reads it, for readers whose daemon is dead
            return
        for size in range(os.fstat(data).st_size - STEP, 0, -STEP):
            began = time.monotonic()
            os.ftruncate(data, size)
            if (taken := time.monotonic() - began) > WORTH_A_PAUSE:
                time.sleep(taken)
    finally:
        os.close(data)


def _delete_directory(parent: int, name: str) -> None:
    """Delete a staged directory, its lock last, so that until the end it can be seen to be ours."""
    directory = layouts.open_directory(name, parent)
    try:
        for file in sorted(os.listdir(directory), key=lambda file: file == "lock"):
            with contextlib.suppress(FileNotFoundError):
                if file == "data":
                    _shorten(directory)
                os.unlink(file, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as exc:
        # An opener that came too late has made a lock in it, and will see that it did: the next sweep has it.
        if exc.errno != errno.ENOTEMPTY:
            raise
