"""Unpacking layers that are compressed as a whole: the one pass that learns where, and the pieces after it.  Pure.

gzip: `indexed_gzip` keeps the state of the decompressor every few megabytes, and goes on from there. zstd has no such
state to keep: what can be gone on from is where its frames begin, of which many writers make one only.

All of this works on files that may raise errors of their own; what is wrong with a layer itself is LayerError.
*Source*: zran.c of zlib's examples, and indexed_gzip 1.10; RFC 1952, RFC 8878 §3.1.
"""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from lazyfs.errors import LayerError
from lazyfs.extents import Extent
from lazyfs.layers.members import Packing

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"

SPACING: Final = 4 * 1024 * 1024
"""Bytes between two points from which gzip can be unpacked; each takes 32 KiB."""

FAR: Final = 32 * 1024 * 1024
"""Bytes that are unpacked in vain at the most, to come to those that are wanted."""

POINTS: Final = 1024
"""Points of a layer at the most, about."""

PIECE: Final = 1024 * 1024
"""Bytes that are unpacked in one go, and a multiple of every block size but the largest."""

MOST: Final = 1024 * 1024 * 1024
TIMES: Final = 200
"""A layer may unpack to so many bytes, and so many times its own size more: what goes further is made to fill disks."""

READ: Final = 256 * 1024
"""Packed bytes that are fed to a decompressor in one go."""

FORMAT: Final = 1
"""Of what is kept of a stream."""

_FRAME: Final = struct.Struct("<QQ")


def packing_of(start: bytes) -> Packing:
    """Return how a layer is packed, by its first bytes: what a manifest calls it need not be so."""
    if start.startswith(GZIP):
        return Packing.GZIP
    return Packing.ZSTD if start.startswith(ZSTD) or _is_skippable(start) else Packing.PLAIN


def _is_skippable(start: bytes) -> bool:
    return len(start) >= 4 and 0x50 <= start[0] <= 0x5F and start[1:4] == b"\x2a\x4d\x18"


@dataclass(frozen=True, slots=True)
class Stream:
    """What the first pass over a layer has found out: how it is packed, its size unpacked, and where to go on from.

    `index` is indexed_gzip's for gzip, the frames' begins for zstd. *Units*: bytes.
    """

    packing: Packing
    size: int
    index: bytes = b""

    @property
    def seekable(self) -> bool:
        """Whether any piece of it can be unpacked without most of what comes before."""
        starts = [start for _, start in _frames(self.index)] if self.packing is Packing.ZSTD else []
        gaps = (stop - start for start, stop in pairwise([*starts, self.size]))
        return max(gaps, default=0) <= FAR

    @property
    def light(self) -> Stream:
        """Itself, without an index that takes megabytes."""
        return dataclasses.replace(self, index=b"") if self.packing is Packing.GZIP else self

    def pack(self) -> bytes:
        """Encode it, to be kept."""
        return json.dumps([FORMAT, self.packing.value, self.size]).encode() + b"\n" + zlib.compress(self.index, 1)

    @classmethod
    def unpack(cls, kept: bytes) -> Stream | None:
        """Decode it; None for what another version of this has packed."""
        head, _, index = kept.partition(b"\n")
        try:
            number, packing, size = json.loads(head)
            return cls(Packing(packing), size, zlib.decompress(index)) if number == FORMAT else None
        except (ValueError, TypeError, zlib.error):
            return None


class Packed(Protocol):
    """A layer as a file; `failure` is the first error that it has raised itself."""

    failure: BaseException | None

    def read(self, size: int = -1, /) -> bytes:
        """Read on."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go elsewhere."""


class Unpacking(Protocol):
    """What a layer unpacks to, as a file that is read from its begin on."""

    def read(self, length: int, /) -> bytes:
        """Read on; fewer bytes only at the end. *Raises*: what the layer's file raises; LayerError."""

    def seekable(self) -> bool:
        """Say no: all of it is to be seen."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go forward: what is between is unpacked, and dropped. *Raises*: likewise."""

    def finish(self) -> Stream:
        """Read what is left, and return what was found out. *Raises*: likewise."""


def first_pass(layer: Packed, size: int, packing: Packing, shown: str) -> Unpacking:
    """Begin the pass that learns how a compressed layer can be unpacked. *Units*: `size` bytes of it."""
    most = MOST + TIMES * size
    return _Gzip(layer, shown, most, spacing_of(size)) if packing is Packing.GZIP else _Zstd(layer, shown, most)


def spacing_of(size: int) -> int:
    """Return how far apart to have the points from which a gzip layer can be unpacked. *Units*: bytes."""
    return max(SPACING, 4 * size // POINTS)  # most are packed to a quarter or more


def unpacked(layer: Packed, stream: Stream, extent: Extent, shown: str) -> Iterator[tuple[int, bytes]]:
    """Yield what a part of a layer unpacks to, in pieces, and where each begins.

    *Raises*: what the layer's file raises; LayerError.
    """
    file: _Gzip | _Zstd
    if stream.packing is Packing.GZIP:
        file = _Gzip(layer, shown, stream.size, index=stream.index)
    else:
        frames = list(_frames(stream.index))
        file = _Zstd(
            layer, shown, stream.size, *frames[bisect_right(frames, extent.start, key=lambda frame: frame[1]) - 1]
        )
    file.seek(extent.start)
    for start in range(extent.start, extent.stop, PIECE):
        length = min(PIECE, extent.stop - start)
        content = file.read(length)
        if len(content) < length:
            raise LayerError(f"{shown}: it unpacks to {start + len(content)} bytes, not to {stream.size}")
        yield start, content


class _Gzip:
    """A gzip file, of several members perhaps; with `index`, from any point of it at once."""

    def __init__(
        self, layer: Packed, shown: str, most: int, spacing: int = SPACING, index: bytes | None = None
    ) -> None:
        import indexed_gzip

        self._layer = layer
        self._shown = shown
        self._most = most
        # Not IndexedGzipFile: that reads ahead into a buffer of its own, and takes an index from a named file only.
        self._file = indexed_gzip._IndexedGzipFile(fileobj=layer, spacing=spacing, readbuf_size=READ)
        if index is not None:
            with self._reported():
                self._file.import_index(fileobj=io.BytesIO(index))

    def read(self, length: int, /) -> bytes:
        with self._reported():
            content: bytes = self._file.read(length)
            position = self._file.tell()
        if position > self._most:
            raise _too_much(self._shown, self._most)
        return content

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        with self._reported():
            position: int = self._file.seek(offset, whence)
        return position

    def finish(self) -> Stream:
        while self.read(PIECE):
            pass
        kept = io.BytesIO()
        with self._reported():
            self._file.export_index(fileobj=kept)
            return Stream(Packing.GZIP, self._file.tell(), kept.getvalue())

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # it has no one class for its errors, and hides those of the file
            if self._layer.failure is not None:
                raise self._layer.failure from None
            raise LayerError(f"{self._shown}: it cannot be unpacked ({exc})") from None


class _Zstd:
    """Some zstd frames, from one that begins at `at` of the layer and unpacks to what begins at `start`."""

    def __init__(self, layer: Packed, shown: str, most: int, at: int = 0, start: int = 0) -> None:
        from backports import zstd

        self._new_frame = zstd.ZstdDecompressor
        self._damaged = zstd.ZstdError
        self._layer = layer
        self._shown = shown
        self._most = most
        self._frame = self._new_frame()
        self._fed = at  # bytes of the layer that were read
        self._rest = b""  # of these, what belongs to the next frame
        self._position = start
        self._frames = bytearray(_FRAME.pack(at, start))
        layer.seek(at)

    def read(self, length: int, /) -> bytes:
        found = bytearray()
        while len(found) < length and (piece := self._next(length - len(found))):
            found += piece
        return bytes(found)

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        assert whence == io.SEEK_SET
        while self._position < offset and self._next(min(PIECE, offset - self._position)):
            pass
        return self._position

    def finish(self) -> Stream:
        while self._next(PIECE):
            pass
        return Stream(Packing.ZSTD, self._position, bytes(self._frames))

    def _next(self, most: int) -> bytes:
        """Return some bytes more; none at the end."""
        while True:
            if self._frame.eof and not self._begin_frame():
                return b""
            fed = b""
            if self._frame.needs_input:
                fed, self._rest = self._rest or self._read(), b""
                if not fed:
                    raise LayerError(f"{self._shown}: it ends in the middle of a zstd frame")
            try:
                piece = self._frame.decompress(fed, most)
            except self._damaged as exc:
                raise LayerError(f"{self._shown}: it cannot be unpacked ({exc})") from None
            if piece:
                self._position += len(piece)
                if self._position > self._most:
                    raise _too_much(self._shown, self._most)
                return piece

    def _begin_frame(self) -> bool:
        self._rest = self._frame.unused_data or self._read()
        if self._rest:
            self._frames += _FRAME.pack(self._fed - len(self._rest), self._position)
            self._frame = self._new_frame()
        return bool(self._rest)

    def _read(self) -> bytes:
        content = self._layer.read(READ)
        self._fed += len(content)
        return content


def _too_much(shown: str, most: int) -> LayerError:
    return LayerError(f"{shown}: it unpacks to more than {most} bytes, which no layer of its size should")


def _frames(index: bytes) -> Iterator[tuple[int, int]]:
    """Yield where zstd frames begin: in the layer, and in what it unpacks to."""
    return _FRAME.iter_unpack(index)
