"""A file on an HTTP server as a file object: seekable, read-only, buffered by the block.

It is an io.BufferedReader, so it does what the files of `open(path, "rb")` do, and its methods may be called from any
thread. A small read fetches the block that it is in, and no other; the rest of the block is in the buffer then.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Final

from lazyfs.python.asynchronous import AsyncFile, position
from lazyfs.python.background import Background, opened

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_BUFFERED: Final = 256 * 1024
"""Bytes of the buffer, for blobs whose blocks are as large or larger."""


class File(io.BufferedReader):
    """A file that is open for reading, as `lazyfs.open` returns it. Close it, or use it in `with`.

        with lazyfs.open("https://example.org/data.zip") as file:
            file.seek(-22, io.SEEK_END)
            end = file.read()

    It stays the version that was opened. *Raises*, from all that reads: OSError, see oserrors.py; ValueError, when it
    is closed. *Cancellation*: KeyboardInterrupt in a thread that waits ends what is under way for its read only. In a
    process that was forked it reads on, of the same version.
    """

    def __init__(self, background: Background, file: AsyncFile) -> None:
        self._raw = _RawFile(background, file)
        super().__init__(self._raw, min(MOST_BUFFERED, file.block_size))

    def __repr__(self) -> str:
        """Say what it is."""
        return f"<{'closed ' if self.closed else ''}lazyfs.File {self._raw.name!r}, {self.size} bytes>"

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._raw.size

    @property
    def blob(self) -> str:
        """The id that its bytes have in the store."""
        return self._raw.blob

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes `[offset, offset + length)`, as far as there are, past cursor and buffer.

        Any number of threads may at once, and none waits for another.
        """
        return self._raw.read_at(offset, length)


class _RawFile(io.RawIOBase):
    """What the buffer is filled from."""

    mode = "rb"

    def __init__(self, background: Background, file: AsyncFile) -> None:
        self.name = file.name
        self.size = file.size
        self.blob = str(file.blob)
        self._block = min(MOST_BUFFERED, file.block_size)
        self._background = background
        self._file = file
        self._offset = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return where the cursor is."""
        self._refuse_closed()
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the cursor, and return where it is. *Raises*: ValueError."""
        self._refuse_closed()
        self._offset = position(self._offset, self.size, offset, whence)
        return self._offset

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill the start of a buffer; at the end, nothing. What is no larger than a block stops where one ends."""
        self._refuse_closed()
        into = memoryview(buffer).cast("B")
        until = self._offset + len(into) if len(into) > self._block else None  # else it is for the buffer
        if until is None:
            into = into[: self._block - self._offset % self._block]
        if not len(into) or self._offset >= self.size:
            return 0
        start = 0
        # Copied here: who is interrupted leaves, and the buffer goes with him.
        for piece in self._call("read_pieces", self._offset, len(into), until):
            into[start : start + len(piece)] = piece
            start += len(piece)
        self._offset += start
        return start

    def readall(self) -> bytes:
        """Return the rest."""
        content = self.read_at(self._offset, max(0, self.size - self._offset))
        self._offset += len(content)
        return content

    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes, past the cursor."""
        self._refuse_closed()
        content: bytes = self._call("read_at", offset, length)
        return content

    def close(self) -> None:
        """Close it. Does not wait."""
        if not self.closed:
            self._background.call_soon(self._file.release)
        super().close()

    def _call(self, name: str, *args: int | None) -> Any:
        if self._background.pid != os.getpid():
            self._open_again()
        return self._background.call(getattr(self._file, name), *args)

    def _open_again(self) -> None:
        """Open it in a process that was forked, as the same version."""
        given = self._file.given
        self._background, self._file = opened(self._background.settings, lambda store: store.reopen(given))

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
