"""The store's directories: made, owned and opened safely.

    STORE/            0700 and ours, or it is refused
      FORMAT          "lazyfs store 1"
      catalogue.db    the catalogue (catalogue.py), and the last one that was damaged (database.py)
      quota           the bounds and what is used of them (quota.py)
      blobs/ab/ID/    data, map, lock, uses (blobfile.py), perhaps pin; `ab` are the first hex digits of the id
      trash/          staged deletions (trash.py)
      scrub           where the scrub goes on (scrub.py)
      run/            a control socket and a log for each mount (running.py)

FORMAT, blobs and trash are opened relative to a descriptor of STORE, with O_NOFOLLOW, under names of ours only; the
catalogue, sockets and logs by path, below a directory that only we may enter. A store on a network file system is
refused: its locks and its mapping of unwritten bytes are those of another host.

Where the file system is read-only, what is there is opened to read; whoever would write asks `writable` before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lazyfs import mountinfo, records
from lazyfs.errors import StoreError
from lazyfs.versions import BlobId, is_blob_id

TOO_MANY_OPEN = frozenset({errno.EMFILE, errno.ENFILE})
"""What an open fails with for a lack of descriptors."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_GET_FLAGS, _SET_FLAGS, _NO_COPY_ON_WRITE = 0x80086601, 0x40086602, 0x00800000  # linux/fs.h, of 64-bit Linux
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "glusterfs", "lustre", "beegfs"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Descriptors of an open store's directories; they stay open as long as the process."""

    path: Path
    root: int
    blobs: int
    trash: int

    @property
    def catalogue(self) -> Path:
        """The catalogue's file."""
        return self.path / "catalogue.db"

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.trash, self.blobs, self.root):
            os.close(fd)


def open_layout(path: Path) -> Layout:
    """Open the store at `path`, making it when it is not there or an empty directory of ours.

    *Raises*: StoreError with one line when it is foreign, open to others, of a newer format, on a network file system,
    or cannot be made. *Locks*: none; any number of processes may do it at once.
    """
    try:
        return _open_layout(path)
    except StoreError:
        raise
    except OSError as exc:
        remedy = "name another with --store"
        words = "Not a directory" if isinstance(exc, FileExistsError) else exc.strerror or exc
        raise StoreError(f"the store {path} cannot be used: {words}; {remedy}") from exc


def look_over(path: Path) -> int | None:
    """Return the format of what is at `path`, None for an empty directory; it is left as it is.

    *Raises*: StoreError, where `open_layout` would refuse it; OSError.
    """
    root = open_directory(path)
    try:
        _is_closed(path, root)
        _check_file_system(path)
        return _known_format(path, root)
    finally:
        os.close(root)


def _open_layout(path: Path) -> Layout:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    root = open_directory(path)
    try:
        _check_owner(path, root)
        _check_file_system(path)
        _check_format(path, root)
        for name in ("blobs", "trash", "run"):
            make_directory(name, root)
        return Layout(path, root, open_directory("blobs", root), open_directory("trash", root))
    except BaseException:
        os.close(root)
        raise


def _check_owner(path: Path, root: int) -> None:
    """Refuse a directory that others own or may enter; an empty one of ours is closed to them instead."""
    if not _is_closed(path, root):
        os.fchmod(root, 0o700)


def _is_closed(path: Path, root: int) -> bool:
    """Say whether a directory is closed to others. *Raises*: StoreError, when it is not ours, or open and not empty."""
    status = os.fstat(root)
    if status.st_uid != os.geteuid():
        raise StoreError(f"the store {path} belongs to another user (uid {status.st_uid}); name another with --store")
    if stat.S_IMODE(status.st_mode) == 0o700:
        return True
    if os.listdir(root):
        raise StoreError(f"the store {path} is open to others; if it is yours: chmod 700 {path}")
    return False


def _check_file_system(path: Path) -> None:
    mounted = mountinfo.mount_over(os.path.realpath(path))
    if mounted is not None and is_foreign(mounted.fstype):
        raise StoreError(
            f"the store {path} is on a file system ({mounted.fstype}) that is not this host's own; "
            "name a local directory with --store"
        )


def is_foreign(fstype: str) -> bool:
    """Say whether a file system of this type is not this host's own."""
    return fstype in _NETWORK or fstype.startswith("fuse.")


def _check_format(path: Path, root: int) -> None:
    """Read FORMAT, or write it into a directory that is empty or has only what a racing process makes."""
    if _known_format(path, root) is None:
        _write_in_place(root)
        write_format(root)


def _known_format(path: Path, root: int) -> int | None:
    """Return what FORMAT says, None when it is yet to be written. *Raises*: StoreError, when it is not for us."""
    try:
        number = read_format(root)
        if number is None:
            strange = [name for name in os.listdir(root) if not name.startswith(("FORMAT", "blobs", "trash", "run"))]
            number = read_format(root)  # a racing process may have made it meanwhile, and more
            if strange and number is None:
                raise StoreError(f"{path} is not empty and not a store; name another with --store")
    except records.BadRecord as exc:
        raise StoreError(f"{path} is not a store: {exc}; name another with --store") from exc
    if number is not None and number > records.FORMAT:
        raise StoreError(
            f"the store {path} was written by a newer lazyfs (format {number}, this one knows {records.FORMAT}); "
            "upgrade lazyfs or name another with --store"
        )
    return number


def _write_in_place(root: int) -> None:
    """Have files that are made in a directory written over in place, on btrfs as elsewhere.

    Otherwise a full disk would not even let us mark a block as missing, to make room. *Source*: ioctl_iflags(2).
    """
    with contextlib.suppress(OSError):
        flags = array("l", [0])
        fcntl.ioctl(root, _GET_FLAGS, flags)
        flags[0] |= _NO_COPY_ON_WRITE
        fcntl.ioctl(root, _SET_FLAGS, flags)


def read_format(root: int) -> int | None:
    """Return the number in FORMAT; None when there is none. *Raises*: BadRecord, OSError."""
    try:
        with os.fdopen(open_file("FORMAT", root, create=False), "rb") as file:
            return records.unpack_format(file.read(64))
    except FileNotFoundError:
        return None


def write_format(root: int) -> None:
    """Write FORMAT whole or not at all: a racing process must never read half of it."""
    name = f"FORMAT.{secrets.token_hex(4)}"  # not the pid: two containers that share a store may have the same
    with os.fdopen(open_file(name, root, create=True), "wb") as file:
        file.write(records.pack_format())
        file.flush()
        os.fdatasync(file.fileno())
    os.rename(name, "FORMAT", src_dir_fd=root, dst_dir_fd=root)
    sync(root)  # without it the rest would be a directory of somebody else's


def sync(directory: int) -> None:
    """Make the names in an open directory survive a power loss. *Raises*: OSError. *Source*: fsync(2)."""
    os.fsync(directory)


def sync_names(layout: Layout, blob_id: BlobId) -> None:
    """Make the way to a blob's files survive a power loss. *Raises*: FileNotFoundError, when it is removed; OSError."""
    directory = blob_directory(layout, blob_id, create=False)
    try:
        shelf = open_directory(shelf_of(blob_id), layout.blobs)
        try:
            for fd in (directory, shelf, layout.blobs, layout.root):
                sync(fd)
        finally:
            os.close(shelf)
    finally:
        os.close(directory)


def open_directory(path: str | Path, dir_fd: int | None = None) -> int:
    """Open a directory, never through a symbolic link. *Raises*: OSError."""
    return os.open(path, _DIRECTORY, dir_fd=dir_fd)


def make_directory(name: str, dir_fd: int) -> None:
    """Make a directory that only we may enter, unless it is there. *Raises*: OSError."""
    try:
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            raise OSError(errno.ENOTDIR, f"{name} in the store is not a directory") from None


def open_file(name: str, dir_fd: int, *, create: bool) -> int:
    """Open a file of the store to read and write, on a read-only disk to read; never a symbolic link, or a pipe.

    *Raises*: OSError.
    """
    fd = _open_file(name, dir_fd, create=create)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{name} in the store is not a file")
    return fd


def _open_file(name: str, dir_fd: int, *, create: bool) -> int:
    try:
        return os.open(name, _FILE | (os.O_CREAT if create else 0), 0o600, dir_fd=dir_fd)
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise
        try:
            return os.open(name, _FILE & ~os.O_ACCMODE | os.O_RDONLY, dir_fd=dir_fd)
        except FileNotFoundError:
            if create:
                raise exc from None
            raise


def writable(fd: int) -> bool:
    """Say whether a file that `open_file` has opened may be written to."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def read_only() -> OSError:
    """Return the error of who would write to a file that is not `writable`."""
    return OSError(errno.EROFS, os.strerror(errno.EROFS))


def blob_directory(layout: Layout, blob_id: BlobId, *, create: bool) -> int:
    """Open a blob's directory. *Raises*: FileNotFoundError without `create`; OSError."""
    shelf = shelf_of(blob_id)
    if create:
        make_directory(shelf, layout.blobs)
    shelf_fd = open_directory(shelf, layout.blobs)
    try:
        if create:
            make_directory(blob_id, shelf_fd)
        return open_directory(blob_id, shelf_fd)
    finally:
        os.close(shelf_fd)


def blob_ids(layout: Layout) -> Iterator[BlobId]:
    """Yield the ids of the blobs that have a directory. *Raises*: OSError."""
    for shelf in os.listdir(layout.blobs):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            shelf_fd = open_directory(shelf, layout.blobs)
            try:
                names = os.listdir(shelf_fd)
            finally:
                os.close(shelf_fd)
            for name in names:
                if is_blob_id(name) and shelf_of(BlobId(name)) == shelf:
                    yield BlobId(name)


def is_there(layout: Layout, blob_id: BlobId) -> bool:
    """Say whether a blob has a directory."""
    try:
        os.close(blob_directory(layout, blob_id, create=False))
    except FileNotFoundError:
        return False
    return True


def disk_bytes(layout: Layout, blob_id: BlobId) -> int:
    """Return how many bytes of the disk a blob's data takes; 0 when it has none. *Raises*: OSError."""
    try:
        path = f"{shelf_of(blob_id)}/{blob_id}/data"
        return os.stat(path, dir_fd=layout.blobs, follow_symlinks=False).st_blocks * 512
    except (FileNotFoundError, NotADirectoryError):
        return 0


def is_pinned(layout: Layout, blob_id: BlobId) -> bool:
    """Say whether nothing of a blob may be evicted: a file `pin` lies beside its data."""
    try:
        os.stat(f"{shelf_of(blob_id)}/{blob_id}/pin", dir_fd=layout.blobs, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def set_pin(layout: Layout, blob_id: BlobId) -> None:
    """Pin a blob. *Locks*: in-use, held, so that nobody removes it together with the pin. *Raises*: OSError."""
    directory = blob_directory(layout, blob_id, create=False)
    try:
        os.close(open_file("pin", directory, create=True))
    finally:
        os.close(directory)


def drop_pin(layout: Layout, blob_id: BlobId) -> None:
    """Let a blob be evicted and removed again. *Raises*: OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{shelf_of(blob_id)}/{blob_id}/pin", dir_fd=layout.blobs)


def leads_to(layout: Layout, blob_id: BlobId, directory: int) -> bool:
    """Look again after locking: say whether the blob's name still leads to the open `directory`."""
    try:
        now = blob_directory(layout, blob_id, create=False)
    except FileNotFoundError:
        return False
    try:
        return os.path.samestat(os.fstat(now), os.fstat(directory))
    finally:
        os.close(now)


def shelf_of(blob_id: BlobId) -> str:
    """Return the name of the directory under `blobs/` that holds this blob's."""
    if not is_blob_id(blob_id):
        raise ValueError(f"not a blob id: {blob_id!r}")
    return blob_id.partition("-")[2][:2]
