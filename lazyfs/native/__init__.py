"""The C library in front of libfuse (front.c): finds it, and says in Python what it can do.

It is loaded when this module is imported, which must be before pyfuse3 is: the first to define a name is the one that
pyfuse3 calls. The package's build makes it, where there is a compiler; without it `LIBRARY` is None, and a mount does
without what it brings.

*Source*: dlopen(3), RTLD_GLOBAL; Linux 6.9, include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import contextlib
import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final


class Library:
    """What is between libfuse and the kernel's FUSE descriptor; there is one mount in a process."""

    def __init__(self, path: Path) -> None:
        """*Raises*: OSError, when it does not fit the libfuse there is."""
        self._library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        self._library.lazyfs_front_hand_over.argtypes = (ctypes.c_uint64, ctypes.c_int32)
        self._library.lazyfs_front_hand_over.restype = None
        self._library.lazyfs_front_want.restype = None
        self._library.lazyfs_front_last_request.restype = ctypes.c_uint64
        self._library.lazyfs_front_greeting.restype = ctypes.c_void_p
        self._library.lazyfs_front_go_on.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
        self._reply_with = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object)(("lazyfs_front_reply_with", self._library))
        self._stand_in = (ctypes.c_char * 1).in_dll(self._library, "lazyfs_front_stand_in")

    def want(self, passthrough: bool) -> None:
        """Say, before the mount is made, whether the kernel shall be asked for passthrough."""
        self._library.lazyfs_front_want(int(passthrough))

    @property
    def greeting(self) -> bytes:
        """What the kernel has said to shake hands: who serves the mount after us needs it; empty before that."""
        length = ctypes.c_size_t()
        start = self._library.lazyfs_front_greeting(ctypes.byref(length))
        return ctypes.string_at(start, length.value)

    def go_on(self, greeting: bytes) -> None:
        """Say, before the mount is made, that another process has served it, and what it was greeted with.

        *Raises*: ValueError, when that is no greeting.
        """
        if self._library.lazyfs_front_go_on(greeting, len(greeting)):
            raise ValueError("no greeting of the kernel's")

    @property
    def last_request(self) -> int:
        """The number of the request that was read last; one that is sent again, to another process, has the same."""
        return int(self._library.lazyfs_front_last_request())

    @property
    def agreed(self) -> bool:
        """Whether the kernel offers passthrough and was asked for it, once it has shaken hands."""
        return bool(self._library.lazyfs_front_agreed())

    def answer_next(self, handle: int, backing: int) -> None:
        """Have the next reply to an open, if it gives out this handle, hand the file over to the kernel."""
        self._library.lazyfs_front_hand_over(handle, backing)

    def reply(self, pieces: list[memoryview]) -> bytes | ctypes.Array[ctypes.c_char]:
        """Return what to reply with so that the kernel gets these pieces, without putting them together first.

        It must be the very next reply.
        """
        return self._stand_in if self._reply_with(pieces) else b"".join(pieces)


MISSING: Final = "its C part was not built: install gcc and libfuse3-dev (3.14 or newer), then lazyfs again"
"""Why there is no library, as `status` says it."""


def _load() -> Library | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"front{suffix}")
        if path.exists():
            with contextlib.suppress(OSError):
                return Library(path)
    return None


LIBRARY: Final = _load()
"""None, when it was not built."""
