"""Giving back the disk space of a part of a file, which the standard library has no call for."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02  # linux/falloc.h

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch(fd: int, offset: int, length: int) -> None:
    """Make a part of a file a hole, which reads as zeros. *Raises*: OSError. *Source*: fallocate(2)."""
    while _fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length) != 0:
        if (number := ctypes.get_errno()) != errno.EINTR:
            raise OSError(number, os.strerror(number))
