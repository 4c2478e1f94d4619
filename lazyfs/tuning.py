"""What a daemon asks of the kernel and of its C library, so that a mount is as fast as it can be.

The kernel's own limits for a FUSE mount are raised where its supervisor may (root); without that a mount is slower, or,
with many stalled reads, stalls where it need not.

`max_background` is the one that matters for more than speed: the kernel sends a mount no more than 12 readahead
requests at a time, so a dozen reads that wait for a dead origin would stop all others. It is set through the file
system fusectl, which is reached by a mount of our own that is attached nowhere, since not every system has it mounted.

*Source*: Documentation/filesystems/fuse/fuse.rst; fsopen(2), fsmount(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lazyfs.mountinfo import Mounted

READ_AHEAD_KB: Final = 1024
"""A FUSE read is then up to 1 MiB, which trebles what a sequential reader gets (1.1 and 2.5 GB/s, all in memory)."""

MAX_BACKGROUND: Final = 10_000
"""Readahead requests under way at a time."""

_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432  # the same numbers on every architecture
_FSCONFIG_CMD_CREATE = 6
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Have malloc keep what blocks and answers leave, for the next ones; glibc gives it back and asks for it anew.

    That costs a page fault for each 4 KiB: a cold sequential read took 28,000 of them for each GiB, and takes 14,000
    (8 % faster, the same resident size; four runs each in turn).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 64 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def spare_what_stays() -> None:
    """Have the garbage collector look through nothing of what is there now: code, and the names of a manifest.

    Its full look stops the daemon: for 10 ms with the code alone, and for 360 with a million names. A daemon begins
    without it (daemon.py), since it would look again and again through what is being loaded: for 17 of 200 ms.
    """
    gc.freeze()
    gc.enable()


def tune(mounted: Mounted) -> str | None:
    """Raise the limits of a mount, after the kernel's handshake, which sets them; return why not, if so."""
    try:
        Path(f"/sys/class/bdi/{mounted.device}/read_ahead_kb").write_text(str(READ_AHEAD_KB))
        with _fusectl() as control:
            _write(control, f"{mounted.minor}/max_background", MAX_BACKGROUND)
            _write(control, f"{mounted.minor}/congestion_threshold", MAX_BACKGROUND * 3 // 4)
    except OSError as exc:
        return exc.strerror or str(exc)
    return None


def _write(directory: int, name: str, value: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


@contextlib.contextmanager
def _fusectl() -> Iterator[int]:
    """Yield a descriptor of fusectl's root. *Raises*: OSError, without the right to mount."""
    context = _syscall(_SYS_FSOPEN, b"fusectl", _FSOPEN_CLOEXEC)
    try:
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        root = _syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield root
    finally:
        os.close(root)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)
