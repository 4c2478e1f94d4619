"""Mounts a FUSE file system and returns its descriptor, which libfuse then takes as /dev/fd/N; what else takes rights.

libfuse does the same inside `fuse_session_mount`, in the process that answers the kernel, which here may not do it.

*Source*: libfuse 3.14, lib/mount.c; Linux, fs/fuse/inode.c (the mount's options); fusermount3(1), _FUSE_COMMFD; Linux
6.9, fs/fuse/passthrough.c.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterable
from typing import Final

from lazyfs.mountinfo import FSTYPE

ALWAYS: Final = frozenset({"ro", "nosuid", "nodev", "default_permissions"})
"""Options that every mount has, whatever else it is given."""

_FLAGS: Final = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "nosymfollow": 256, "noatime": 1024,
    "nodiratime": 2048,
}  # fmt: skip
"""MS_RDONLY and so on, sys/mount.h; what is neither here nor below goes to the kernel's FUSE as it is."""

_NEUTRAL: Final = frozenset({"exec", "async", "atime", "diratime", "relatime", "symfollow", "auto_unmount", "debug"})
"""What holds anyway, or is seen to by the supervisor, or is libfuse's own."""

_OF_FUSE: Final = frozenset(
    {"allow_other", "default_permissions", "blksize", "context", "fscontext", "defcontext", "rootcontext"}
)
"""What the kernel's FUSE takes, and its security modules."""

_PATIENCE: Final = 10.0
"""Seconds for fusermount3."""

_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8

_BACKING_OPEN: Final = 0x4010E501  # _IOW(229, 1, struct fuse_backing_map)
_BACKING_CLOSE: Final = 0x4004E502  # _IOW(229, 2, uint32_t)
_BACKING_MAP: Final = struct.Struct("=iIQ")  # fd, flags, padding
_BACKING_ID: Final = struct.Struct("=I")


class CannotMount(Exception):
    """The kernel or fusermount3 refuses; the message says why."""


def fsname(source: str) -> str:
    """Return the option with which libfuse and fusermount3 are told the source."""
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    return f"fsname={escaped}"


def attach(mountpoint: str, source: str, options: Iterable[str]) -> int:
    """Mount, and return the FUSE descriptor; nothing has answered the kernel yet. *Raises*: CannotMount."""
    options = ALWAYS | frozenset(options)
    if os.geteuid() != 0:
        return _by_fusermount(mountpoint, source, options)
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise CannotMount(f"/dev/fuse: {exc.strerror}") from None
    try:
        _mount(device, mountpoint, source, options)
    except BaseException:
        os.close(device)
        raise
    return device


def detach(mountpoint: str) -> None:
    """Unmount lazily, without a look at the mount, which nobody may answer. Blocks for fusermount3, for users."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).umount2(os.fsencode(mountpoint), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        return
    import subprocess

    subprocess.run(["fusermount3", "-u", "-z", "--", mountpoint], capture_output=True, check=False, timeout=_PATIENCE)


def open_backing(device: int, fd: int) -> int:
    """Give the kernel a file to read from and return its id; the kernel keeps the open file. *Raises*: OSError.

    It takes CAP_SYS_ADMIN.
    """
    request = bytearray(_BACKING_MAP.pack(fd, 0, 0))  # for a mutable buffer the result is the call's
    return int(fcntl.ioctl(device, _BACKING_OPEN, request))


def close_backing(device: int, backing: int) -> None:
    """Take a file back that nobody reads any more. *Raises*: OSError, when the mount is gone, and its files with it."""
    fcntl.ioctl(device, _BACKING_CLOSE, bytearray(_BACKING_ID.pack(backing)))


def _mount(device: int, mountpoint: str, source: str, options: Iterable[str]) -> None:
    flags, words, strange = 0, list[str](), list[str]()
    for option in sorted(options):
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option == "allow_root":  # libfuse's: it refuses all others by itself
            words.append("allow_other")
        elif option not in _NEUTRAL:
            words.append(option)
            if option.partition("=")[0] not in _OF_FUSE:
                strange.append(option)
    ours = f"fd={device},rootmode={stat.S_IFDIR:o},user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    data = os.fsencode(",".join([ours, *words]))
    if libc.mount(os.fsencode(source), os.fsencode(mountpoint), FSTYPE.encode(), ctypes.c_ulong(flags), data):
        error = ctypes.get_errno()
        if error == errno.EINVAL and strange:
            raise CannotMount(f"unknown option {strange[0]!r}")
        raise CannotMount(os.strerror(error))


def _by_fusermount(mountpoint: str, source: str, options: Iterable[str]) -> int:
    import subprocess  # which root does without

    ours, theirs = socket.socketpair()
    words = ",".join([*options, fsname(source), f"subtype={FSTYPE.partition('.')[2]}"])
    with ours, theirs:
        try:
            done = subprocess.run(
                ["fusermount3", "-o", words, "--", mountpoint],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise CannotMount(f"fusermount3: {exc}") from None
        if done.returncode:
            raise CannotMount(" ".join(done.stderr.split()) or f"fusermount3 ended with {done.returncode}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if not fds:
            raise CannotMount("fusermount3 gave no descriptor")
        return fds[0]
