"""The C library in front of libfuse (front.c, shortcut.c): finds it, and says in Python what it can do.

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

MOST_TOLD: Final = 64
"""As in shortcut.c."""


class Told(ctypes.Structure):
    """A read that the shortcut has answered, or hands back. *Units*: bytes."""

    _fields_ = (
        ("unique", ctypes.c_uint64),
        ("handle", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("answered", ctypes.c_uint32),
    )


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
        self._library.lazyfs_shortcut_offer.argtypes = (
            ctypes.c_uint64, ctypes.c_int, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32
        )  # fmt: skip
        self._library.lazyfs_shortcut_withdraw.argtypes = (ctypes.c_uint64,)
        self._library.lazyfs_shortcut_withdraw.restype = None
        self._library.lazyfs_shortcut_end.restype = None
        self._answer = ctypes.PYFUNCTYPE(None, ctypes.c_uint64, ctypes.c_int, ctypes.py_object)(
            ("lazyfs_front_answer", self._library)
        )
        self._told = (Told * MOST_TOLD)()
        self._reply_with = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object)(("lazyfs_front_reply_with", self._library))
        self._last_pid = ctypes.c_uint32.in_dll(self._library, "lazyfs_front_last_pid")
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
    def last_pid(self) -> int:
        """The process whose request that is, as we see it; 0 for one of the kernel's own, or of another namespace."""
        return self._last_pid.value

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

    def answer(self, unique: int, pieces: list[memoryview], error: int = 0) -> None:
        """Answer a request that was handed back, with these pieces or with an errno."""
        self._answer(unique, error, pieces)

    def begin_shortcut(self) -> int:
        """Have reads of files that are offered answered by threads, until `end_shortcut`.

        Returns a descriptor that is readable when there is something `told`, or -1 when they cannot be had.
        """
        return int(self._library.lazyfs_shortcut_begin())

    def end_shortcut(self) -> None:
        """End the threads, once they have answered what they have taken, and close the descriptor."""
        self._library.lazyfs_shortcut_end()

    def offer(self, handle: int, data: int, block_map: int, map_start: int, size: int, block_size: int) -> bool:
        """Have the large reads of a file taken, if there is room for it. The descriptors stay the caller's.

        `map_start` is where the first block's entry is in the map.
        """
        return not self._library.lazyfs_shortcut_offer(handle, data, block_map, map_start, size, block_size)

    def withdraw(self, handle: int) -> None:
        """Have them taken no more."""
        self._library.lazyfs_shortcut_withdraw(handle)

    def told(self) -> list[Told]:
        """Return the reads of which nothing was said yet; they are good until the next call."""
        return self._told[: self._library.lazyfs_shortcut_told(self._told)]


MISSING: Final = "its C part was not built: install gcc, libxxhash-dev and libfuse3-dev (3.14 or newer), then lazyfs"
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
