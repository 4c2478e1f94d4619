"""The store: whether it can be used as it is, on what file system, and with how much room."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lazyfs import mountinfo, native, privileges, records, takeover
from lazyfs.cli.doctor.findings import Finding, note, ok, problem
from lazyfs.cli.showing import as_owner
from lazyfs.errors import StoreError
from lazyfs.passthrough import REASONS
from lazyfs.privileges import Capability
from lazyfs.sizes import format_size
from lazyfs.store import layout as layouts

LITTLE: Final = 1 << 30
"""Bytes that are free on the disk, below which it is worth a word."""

STACKED: Final = frozenset({"overlay", "ecryptfs"})
"""Types of file systems that lie on others, of which the kernel takes no files to read past a daemon."""


def store(path: Path) -> Iterator[Finding]:
    """What is there, or whether it can be made."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        yield _to_be_made(path)
        return
    if os.geteuid() == 0 and status.st_uid != 0:
        name = _name_of(status.st_uid)
        yield note("store", f"{path} belongs to {name}", f"mount with --user {name}, or name another with --store")
    with as_owner(path):
        try:
            number = layouts.look_over(path)
        except OSError as exc:
            raise StoreError(f"{path} cannot be used: {exc.strerror or exc}; name another with --store") from exc
        if number is None:
            yield ok("store", f"{path} is an empty directory: the first mount makes a store of it")
            return
        yield _as_it_is(path, number)
        if not os.access(path, os.W_OK, effective_ids=True):
            yield note("store", "it cannot be written: what it has is served, and nothing is added")


def _to_be_made(path: Path) -> Finding:
    parent = next(each for each in path.parents if os.path.lexists(each))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
        return problem("store", f"{path} is not there, and cannot be made in {parent}", "name another with --store")
    return ok("store", f"{path} is not there yet: the first mount makes it")


def _as_it_is(path: Path, number: int) -> Finding:
    """Describe a store with its bounds, which are read without its locks: who changes them does so in one write."""
    shown, file = f"{path}, of format {number}", path / "quota"
    try:
        written = file.read_bytes()[: records.QUOTA_SIZE] if file.exists() else b""
        quota = records.unpack_quota(written) if written else records.Quota()
    except records.BadRecord as exc:
        return note("store", f"{shown}: {exc}", "set its bounds again with --max-cache and --min-free")
    most = f", {format_size(quota.max_cache)} of blobs at the most" if quota.max_cache else ", without a bound"
    free = f", {format_size(quota.min_free)} of the disk to stay free" if quota.min_free else ""
    return ok("store", f"{shown}{most}{free}")


def file_system(path: Path) -> Iterator[Finding]:
    """What it lies on, and how much room there is."""
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    mounted = mountinfo.mount_over(os.path.realpath(there))
    kind = mounted.fstype if mounted else "unknown"
    room = os.statvfs(there)
    free, inodes = room.f_bavail * room.f_frsize, room.f_favail
    shown = f"{kind}, {format_size(free)} free"
    if layouts.is_foreign(kind):
        what = f"{kind} at {mounted.mountpoint if mounted else there} is not this host's own, and is refused"
        yield problem("file system", what, "name a local directory with --store")
    elif room.f_flag & os.ST_RDONLY:
        yield note("file system", f"{shown}, mounted read-only: nothing can be kept", "name another with --store")
    elif free < LITTLE or (room.f_files and not inodes):
        what = shown if free < LITTLE else f"{shown}, and no inodes"
        full = f"make room, as with: lazyfs gc --max-cache 1G --store {shlex.quote(str(path))}"
        yield note("file system", f"{what}: what does not fit is fetched each time", full)
    elif kind in ("tmpfs", "ramfs"):
        remedy = "name a directory on a disk with --store"
        yield note("file system", f"{shown}, in memory: gone at the next boot", remedy)
    else:
        yield ok("file system", shown)
    yield _passthrough(kind)


def _passthrough(kind: str) -> Finding:
    """Say whether the kernel can read whole blobs past the daemon: only a mount can tell for certain."""
    if native.LIBRARY is None:
        reason = native.MISSING
    elif takeover.kernel() < takeover.SINCE:
        reason = "the kernel does not offer it: that takes Linux 6.9"
    elif Capability.SYS_ADMIN not in privileges.held() or not _is_outermost():
        reason = REASONS[errno.EPERM]
    elif kind in STACKED:
        reason = REASONS[errno.ELOOP]
    else:
        return ok("passthrough", "the kernel reads blobs that are whole past the daemon")
    what, _, remedy = reason.partition("; ")
    return note("passthrough", f"whole blobs are read through the daemon, too: {what}", remedy)


def _is_outermost() -> bool:
    """Say whether our capabilities are those of the host, not of a user namespace. *Source*: user_namespaces(7)."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


CHECKS: Final = (("store", store), ("file system", file_system))
