"""How far to fetch in front of a sequential reader.  Pure.

A blob's reads are told apart into streams: a read belongs to the stream whose next byte it is near, since the kernel
sends a large read as several requests, which arrive in any order, and programs skip a little. The second read of a
stream opens its window; each time the reader has used up half of it, the window doubles, up to `LARGEST`. Reads that
belong to no stream start one, in place of the one idle longest, and nothing is fetched ahead of them: a random
reader is left alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from lazyfs.extents import Extent, Geometry

STREAMS: Final = 8
"""Sequential readers told apart in one blob."""

NEAR: Final = 2 * 1024 * 1024
"""Bytes before or behind a stream's next byte that still belong to it: two of the largest FUSE reads."""

NEAR_AT_FIRST: Final = 256 * 1024
"""The same for the second read, which decides whether there is a stream: two of the kernel's ordinary requests."""

SMALLEST: Final = 1024 * 1024
LARGEST: Final = 16 * 1024 * 1024


@dataclass(slots=True)
class _Stream:
    start: int
    next: int  # the byte after the furthest one read
    window: int  # bytes; 0 until the second read
    fetched_to: int  # blocks below this have been asked for


class Readahead:
    """The streams of one blob."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._streams: deque[_Stream] = deque(maxlen=STREAMS)  # the last used at the right

    def on_read(self, offset: int, length: int) -> Extent:
        """Note a read and return the blocks to fetch ahead of it now, often none. *Units*: bytes."""
        stop = min(offset + length, self._geometry.size)
        stream = self._stream_at(offset)
        if stream is None:
            self._streams.append(_Stream(offset, stop, 0, 0))
            return Extent(0, 0)
        if stop <= stream.next:
            return Extent(0, 0)  # read again, or a request that was overtaken
        stream.next = stop
        ahead = stream.fetched_to * self._geometry.block_size - stop
        if ahead * 2 > stream.window:
            return Extent(0, 0)
        stream.window = min(max(stream.window * 2, SMALLEST), LARGEST)
        wanted = self._geometry.covering(stop, stream.window)
        run = Extent(min(max(wanted.start, stream.fetched_to), wanted.stop), wanted.stop)
        stream.fetched_to = max(stream.fetched_to, run.stop)
        return run

    def _stream_at(self, offset: int) -> _Stream | None:
        """Return the stream that a read at `offset` goes on with, moved to the right end."""
        for stream in reversed(self._streams):
            near = NEAR if stream.window else NEAR_AT_FIRST
            if max(stream.start, stream.next - near) <= offset <= stream.next + near:
                self._streams.remove(stream)
                self._streams.append(stream)
                return stream
        return None
