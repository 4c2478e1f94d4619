"""The bytes of a piece out of what is stored for it, and other things that are stored packed.  Pure.

Nothing expands to more than is asked for, whatever the packed bytes would come to.

*Source*: RFC 1952 (gzip), RFC 8878 (zstd); PEP 784 for the library.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from typing import Protocol

from lazyfs.errors import LayerError
from lazyfs.layers.members import Packing, Piece

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP = 16 + zlib.MAX_WBITS  # to zlib: with the header and the sum of gzip
_WINDOW = 16 * 1024  # given at a time: the end of each member copies what is left of it


def content(piece: Piece, stored: bytes | memoryview) -> bytes:
    """Return a piece's own bytes, from the `piece.stored` bytes that are stored for it, checked against its digest.

    *Raises*: LayerError, when they are damaged, too few, or not those of the digest.
    """
    if piece.packing is Packing.ZEROS:
        return bytes(piece.length)
    if piece.packing is Packing.PLAIN:
        found = bytes(stored[: piece.length])
    else:
        found = expand(piece.packing, stored, piece.skip + piece.length)[piece.skip :]
    if len(found) < piece.length:
        raise LayerError(f"a piece of {piece.length} bytes comes to {len(found)}")
    if piece.digest is not None and digest(found) != piece.digest:
        raise LayerError("a piece is not what its digest says")
    return found


def expand(packing: Packing, packed: bytes | memoryview, most: int) -> bytes:
    """Return the first `most` bytes of what gzip members or zstd frames expand to, or all when there are fewer.

    *Raises*: LayerError, when they are damaged before that.
    """
    parts: list[bytes] = []
    view = memoryview(packed)
    left, at = most, 0
    stream = _stream(packing)
    try:
        while left > 0 and at < len(view):
            window = view[at : at + _WINDOW]
            part = stream.decompress(window, left)
            parts.append(part)
            left -= len(part)
            at += len(window)
            if stream.eof:
                at -= len(stream.unused_data)
                stream = _stream(packing)
    except (zlib.error, zstd.ZstdError) as exc:
        raise LayerError(f"it does not expand: {exc}") from exc
    return b"".join(parts)


class _Stream(Protocol):
    """One gzip member or zstd frame. It takes all that it is given, unless it ends or gives as much as it may."""

    @property
    def eof(self) -> bool:
        """Whether it has ended."""

    @property
    def unused_data(self) -> bytes:
        """What it was given that comes after its end."""

    def decompress(self, packed: memoryview, most: int, /) -> bytes:
        """Return what comes next, at most so many bytes."""


def _stream(packing: Packing) -> _Stream:
    return zlib.decompressobj(_GZIP) if packing is Packing.GZIP else zstd.ZstdDecompressor()


def digest(found: bytes) -> str:
    """Return the digest of bytes, as images write it."""
    return "sha256:" + hashlib.sha256(found).hexdigest()


def compress(plain: bytes) -> bytes:
    """Return a zstd frame that expands to `plain`."""
    return zstd.compress(plain)
