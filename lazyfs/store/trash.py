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
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lazyfs.store import layout as layouts
from lazyfs.store.layout import Layout
from lazyfs.store.locks import BlobLocks, DataLocks
from lazyfs.versions import BlobId

STEP: Final = 16 * 1024 * 1024
"""Bytes of data deleted at a time: in 64 extents they take ext4 some 8 ms."""

_NO_FILE: Final = frozenset({errno.ENOENT, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO})
"""What `open_file` fails with where there is no file, or something else."""


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
    lock = -1
    try:
        lock = layouts.open_file("lock", directory, create=True)
        if not (BlobLocks(lock).try_own() and layouts.leads_to(layout, blob_id, directory)):
            return None
        if layouts.is_pinned(layout, blob_id):
            return None
        staged, lock = Staged(_rename(layout, blob_id), lock), -1
        return staged
    except FileNotFoundError:
        return None
    finally:
        for fd in (lock, directory):
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
    try:
        if os.path.samestat(os.stat("lock", dir_fd=directory), os.fstat(lock)):
            _rename(layout, blob_id)
    except FileNotFoundError:
        return
    finally:
        os.close(directory)


def throw_away(layout: Layout, blob_id: BlobId, directory: int) -> None:
    """Take a blob that is of no use out of the store, whatever lies in its open `directory`, in use or not.

    Who has it open goes on with its own descriptors. Should the name lead to a new blob by now, that stays.

    *Raises*: OSError. *Locks*: tries the removed blob's own in-use lock.
    """
    if layouts.leads_to(layout, blob_id, directory):
        with contextlib.suppress(FileNotFoundError):
            take_over(layout, _rename(layout, blob_id))


def _rename(layout: Layout, blob_id: BlobId) -> str:
    """Rename a blob's directory into the trash, and return its name there. *Raises*: FileNotFoundError; OSError."""
    name = f"{blob_id}.{secrets.token_hex(4)}"
    shelf = layouts.open_directory(layouts.shelf_of(blob_id), layout.blobs)
    try:
        os.rename(blob_id, name, src_dir_fd=shelf, dst_dir_fd=layout.trash)
    finally:
        os.close(shelf)
    return name


def delete(layout: Layout, staged: Staged) -> int:
    """Delete what was staged, and return how many bytes of the disk its data took.

    *Locks*: releases its lock at the end. *Raises*: OSError.
    """
    try:
        length = _data_bytes(layout, staged.name)
        _delete(layout, staged.name)
        return length
    finally:
        os.close(staged.lock)


def sweep(layout: Layout) -> int:
    """Delete what killed processes left in the trash, oldest first, and return how many entries that were.

    *Locks*: tries each entry's; skips what another process is deleting. *Raises*: OSError.
    """
    return sum(take_over(layout, name) for name in sorted(os.listdir(layout.trash), key=lambda n: _age(layout, n)))


def take_over(layout: Layout, name: str) -> bool:
    """Delete an entry of the trash, whatever it is, unless somebody has it; say whether it is gone. *Raises*: OSError.

    *Locks*: tries its in-use lock, held until it is deleted.
    """
    with _entry(layout, name) as free:
        if free:
            _delete(layout, name)
        return free


def is_left(layout: Layout, name: str) -> bool:
    """Say whether an entry of the trash is left over: nobody deletes it, or has it open. *Raises*: OSError."""
    with _entry(layout, name) as free:
        return free


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


@contextlib.contextmanager
def _entry(layout: Layout, name: str) -> Iterator[bool]:
    """Hold the in-use lock of an entry, if it has one; say whether nobody else does."""
    lock = _lock_of(layout, name)
    try:
        yield lock is None or BlobLocks(lock).try_own()
    finally:
        if lock is not None:
            os.close(lock)


def _lock_of(layout: Layout, name: str) -> int | None:
    """Open the lock of an entry; None where there is none, and so nobody who could have it. *Raises*: OSError."""
    try:
        directory = layouts.open_directory(name, layout.trash)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _open("lock", directory)
    finally:
        os.close(directory)


def _open(name: str, directory: int) -> int | None:
    """Open a file of an entry; None where there is no such file, or something else. *Raises*: OSError."""
    try:
        return layouts.open_file(name, directory, create=False)
    except OSError as exc:
        if exc.errno in _NO_FILE:
            return None
        raise


def _shorten(directory: int) -> None:
    """Give back the disk space of a blob's data little by little, so that this gives way, and can be interrupted.

    To free one large extent takes no time, but a blob that was fetched at random may have one for each block: 8 GiB in
    32767 extents are 4 to 14 s of ext4's time here. Each step has a pause of its own length: without them, on two busy
    cores, 2.5 times as many calls took over 50 ms beside it as without it; with them, 1.2 times (`tools/removal`).
    """
    data = _open("data", directory)
    if data is None:
        return
    try:
        if DataLocks(data).is_leased():  # the kernel still reads it, for readers whose daemon is dead
            return
        for size in _cuts(data):
            began = time.monotonic()
            os.ftruncate(data, size)
            time.sleep(time.monotonic() - began)
    finally:
        os.close(data)


def _cuts(data: int) -> list[int]:
    """Return the sizes to which a file is cut, one after the other, so that each frees no more than STEP of it.

    What is a hole takes none: of a blob of 4 TiB there may be a few blocks. *Raises*: OSError.
    """
    cuts, stop = list[int](), os.fstat(data).st_size
    while (start := (cuts[-1] if cuts else 0) + STEP) < stop:
        try:
            cuts.append(max(os.lseek(data, start, os.SEEK_DATA) // STEP * STEP, start))
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # there is only a hole up to the end
                raise
            break
    return cuts[::-1]


def _delete(layout: Layout, name: str) -> None:
    """Delete an entry, its lock last, so that until the end it can be seen to be ours."""
    try:
        directory = layouts.open_directory(name, layout.trash)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=layout.trash)
        return
    try:
        _shorten(directory)
        for file in sorted(os.listdir(directory), key=lambda file: file == "lock"):
            with contextlib.suppress(FileNotFoundError):
                remove(file, directory)
    finally:
        os.close(directory)
    try:
        os.rmdir(name, dir_fd=layout.trash)
    except FileNotFoundError:
        pass
    except OSError as exc:
        # An opener that came too late has made a lock in it, and will see that it did: the next sweep has it.
        if exc.errno != errno.ENOTEMPTY:
            raise


def remove(name: str, dir_fd: int) -> None:
    """Remove what does not belong where it is, whatever it is. *Raises*: OSError."""
    if stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=dir_fd)
    else:
        os.unlink(name, dir_fd=dir_fd)
