"""How far to fetch in front of a sequential reader.  Pure.

A blob's reads are told apart into streams: a read belongs to the stream whose next byte it is near, or into whose
window it falls, since the kernel sends a large read as several requests, which arrive in any order, and programs skip.
The second read of a stream opens its window, which doubles each time that half of it has been read. Reads that belong
to no stream start one, in place of the one idle longest, and nothing is fetched ahead of them: a random
reader is left alone. Of a large read that comes in parts it may be known where it ends: nothing is fetched past that,
until somebody reads on there.

A request is for what the origin delivers in `LASTS`; the next one is sent when what is still to come lasts for
`LATENCIES` round trips, or `SOON`: more only fills the link in front of other readers, less leaves it idle. So requests
to a near origin follow each other, and several are under way to a far one, where a single connection gives less than
the link. They are sent as blocks come in, not only as they are read, or those under way would end all at once, and
leave the link idle until the reader is there.

*Source*: the bandwidth-delay product, RFC 6349 §3.3; Linux, mm/readahead.c, for windows that double.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from lazyfs.extents import Extent, Geometry
from lazyfs.pace import Pace

STREAMS: Final = 8
"""Sequential readers told apart in one blob."""

NEAR: Final = 2 * 1024 * 1024
"""Bytes before or behind a stream's next byte that still belong to it: two of the largest FUSE reads."""

NEAR_AT_FIRST: Final = 256 * 1024
"""The same for the second read, which decides whether there is a stream: two of the kernel's ordinary requests."""

SMALLEST: Final = 1024 * 1024
USUAL: Final = 16 * 1024 * 1024
LARGEST: Final = 64 * 1024 * 1024
"""Bytes in a window at first, mostly, and where so much is needed; the last for all windows together."""

LASTS: Final = 0.08
"""Seconds for which a request lasts, but never less than a block: each costs a millisecond of the CPU, or more.

With 0.04, a cold sequential read on loopback took 9 % more CPU time (2.40 s/GiB, 2.18; eight runs each in turn).
"""

LATENCIES: Final = 4

SOON: Final = 0.02
"""Seconds that it takes us, with a busy CPU, to have the next one under way."""

IDLE: Final = 5.0
"""Seconds after which a stream has no share of the memory any longer."""


class Ahead(NamedTuple):
    """The blocks to fetch now, often none, and how many bytes of them are worth a request of their own."""

    run: Extent
    part: int


NOTHING: Final = Ahead(Extent(0, 0), 0)


@dataclass(slots=True, eq=False)
class _Stream:
    start: int
    next: int  # the byte after the furthest one read
    window: int = 0  # bytes; none until the second read
    fetched_to: int = 0  # the byte after the furthest block asked for
    part: int = 0  # bytes in one request
    pipe: int = LARGEST  # bytes that may be under way
    until: float = math.inf  # the byte after the last one that is worth fetching ahead
    goes_on: bool = False  # a read has begun where one was known to end

    @property
    def stop(self) -> float:
        """The byte after its window."""
        return min(self.next + self.window, self.until)


class Budget:
    """What the windows of all blobs of a process may hold together, `limit` bytes: it must be kept until it is read.

    A window is a stream's, or that of what a profile says (replay.py).
    """

    def __init__(self, limit: int = LARGEST) -> None:
        self._limit = limit
        self._used: OrderedDict[object, float] = OrderedDict()  # when each grew last, the longest ago first

    def share(self, user: object, now: float) -> int:
        """Return the bytes that this user's window may have, all active ones having the same."""
        self._used[user] = now
        self._used.move_to_end(user)
        while self._used and next(iter(self._used.values())) < now - IDLE:
            self._used.popitem(last=False)
        return self._limit // len(self._used)


class Readahead:
    """The streams of one blob."""

    def __init__(self, geometry: Geometry, budget: Budget) -> None:
        self._geometry = geometry
        self._budget = budget
        self._streams: deque[_Stream] = deque(maxlen=STREAMS)  # the last used at the right

    def on_read(self, offset: int, length: int, until: int | None = None) -> None:
        """Note a read; `until` is where it ends, or a larger one that it is a part of, if known. *Units*: bytes."""
        stop = min(offset + length, self._geometry.size)
        stream = self._stream_at(offset)
        if stream is None:
            stream = _Stream(offset, stop)
            self._streams.append(stream)
        elif stop > stream.next:  # else it is read again, or is a request that was overtaken
            stream.window = max(stream.window + 2 * (stop - stream.next), SMALLEST)
            stream.next = stop
        if offset >= stream.until:
            stream.goes_on, stream.until = True, math.inf
        elif until is not None and not stream.goes_on:
            stream.until = until

    def next(self, due: int, pace: Callable[[], Pace | None], now: float) -> Ahead:
        """Return what to fetch now ahead of who has read last, while `due` bytes of the blob are under way.

        Ask after each read, and when something has come in. *Units*: bytes, seconds.
        """
        stream = self._streams[-1] if self._streams else None
        if stream is None or not stream.window:
            return NOTHING
        start = max(stream.next, stream.fetched_to)
        if min(stream.stop - start, stream.pipe - due) < stream.part:
            return NOTHING  # by far the most often, and cheap
        stream.window = min(stream.window, self._budget.share(stream, now))
        self._measure(stream, pace())
        room = int(min(stream.stop - start, stream.pipe - due))
        run = self._geometry.covering(start, room)
        if room < stream.part or not run:
            return NOTHING
        stream.fetched_to = run.stop * self._geometry.block_size
        return Ahead(run, stream.part)

    def _measure(self, stream: _Stream, pace: Pace | None) -> None:
        """Fit to the origin's pace what may be under way for a stream, and how much of it in one request."""
        if pace is None:
            stream.part, stream.pipe = stream.window // 2, stream.window
        else:
            stream.part = max(self._geometry.block_size, min(int(pace.rate * LASTS), stream.window // 2))
            stream.pipe = stream.part + int(pace.rate * max(LATENCIES * pace.latency, SOON))
        stream.window = min(stream.window, max(USUAL, 2 * stream.pipe))

    def _stream_at(self, offset: int) -> _Stream | None:
        """Return the stream that a read at `offset` goes on with, moved to the right end."""
        for stream in reversed(self._streams):
            near = NEAR if stream.window else NEAR_AT_FIRST
            if max(stream.start, stream.next - near) <= offset <= max(stream.next + near, stream.fetched_to):
                self._streams.remove(stream)
                self._streams.append(stream)
                return stream
        return None
