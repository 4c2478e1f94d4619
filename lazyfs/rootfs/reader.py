"""A layer's blob as the file that a library reads, in a worker thread."""

from __future__ import annotations

import io
from typing import Final

import trio

from lazyfs.blob import Blob

AT_ONCE: Final = 1024 * 1024
"""Bytes that are read of a layer at a time when all of it is wanted."""


class LayerReader(io.RawIOBase):
    """Reads a blob from a worker thread that trio knows, `at_once` bytes at the least, of which it keeps the last.

    A library in between may make another error of one that is raised here: `failure` is the first of them.
    """

    def __init__(self, blob: Blob, at_once: int = AT_ONCE) -> None:
        super().__init__()
        self.failure: BaseException | None = None
        self._blob = blob
        self._size = blob.geometry.size
        self._at_once = at_once
        self._position = 0
        self._start = 0
        self._kept = b""

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def seekable(self) -> bool:
        """Any place of it may be read."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere, and return where that is."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, all that is left for -1; fewer only at the end. *Raises*: as `Blob.read`."""
        left = max(0, self._size - self._position)
        wanted = left if size < 0 else min(size, left)
        found = bytearray()
        while len(found) < wanted:
            skipped = self._position - self._start
            if not 0 <= skipped < len(self._kept):
                self._fill()
                continue
            piece = self._kept[skipped : skipped + wanted - len(found)]
            found += piece
            self._position += len(piece)
        return bytes(found)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as there is something, and return how far that is. *Raises*: as `Blob.read`."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _fill(self) -> None:
        try:
            self._kept = trio.from_thread.run(self._blob.read, self._position, self._at_once)
        except BaseException as exc:
            self.failure = self.failure or exc
            raise
        self._start = self._position
