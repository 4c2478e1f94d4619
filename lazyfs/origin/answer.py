"""An answer under way: what it proves to hold, its bytes, and what its end means for its slot and its URL's health.

What an answer proves is decided in `ranges`; here that becomes bytes, or an error whose message shows no secret.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

from lazyfs import ranges, urls
from lazyfs.buffers import cut
from lazyfs.counters import Counters
from lazyfs.errors import (
    BlobChanged,
    OriginBadAnswer,
    OriginDenied,
    OriginError,
    OriginRefused,
    OriginUnreachable,
)
from lazyfs.extents import Extent
from lazyfs.origin.connection import Sink
from lazyfs.origin.health import Health
from lazyfs.origin.slots import Slot
from lazyfs.origin.transport import LEAST_RATE, Reply
from lazyfs.ranges import Body
from lazyfs.versions import Version

SILENT: Final = 5.0
"""Seconds without an answer after which an attempt that is given up has failed, whatever it was given up for."""

_WELL: Final = 64 * 1024
"""Bytes of body that show that a URL answers well, whatever becomes of the rest."""

_DISCARDED: Final = 16 * 1024
_DISCARDED_IN: Final = 0.5
"""Bytes and seconds of an answer that are read only so that its connection can be used again."""

_ANY: Final = Extent(0, 1)

_PAGE_PIECE: Final = 64 * 1024


class Request:
    """A request that was answered: the reply, and what its end means for its slot and for its URL's health."""

    def __init__(self, url: str, reply: Reply, slot: Slot, health: Health, began: float, patience: float) -> None:
        self.url = url  # that was asked for; `reply.url` is where it led
        self.reply = reply
        self._slot = slot
        self._health = health
        self._began = began  # or when it last went well
        self._patience = patience
        self._received = 0
        self._judged = False

    async def receive_into(self, *buffers: memoryview, sink: Sink | None = None) -> int:
        """Fill the start of some buffers, none of them empty, with the next bytes of the body; 0 at its end."""
        await self._slot.give_way()
        ration = await self._slot.ration()
        within = buffers if ration is None else cut(buffers, ration)
        count = 0
        self._slot.receiving()
        try:
            count = await self.reply.receive_into(*within, sink=sink)
        finally:
            self._slot.received(count, ration)
        self._received += count
        if self._received >= _WELL:
            self._health.succeeded(self.url)
            self._began = trio.current_time()  # what fails from here on has not failed for longer
        return count

    def proven(self, extent: Extent, pinned: Version | None, size: int | None = None) -> Body:
        """Return what the answer proves to hold. *Raises*: OriginError."""
        outcome = self.decided(extent, pinned, size)
        with self.judged():
            return _proven(self.url, outcome, self.reply.status)

    def decided(self, extent: Extent, pinned: Version | None, size: int | None = None) -> ranges.Outcome:
        """Decide what the answer proves."""
        return ranges.decide(extent, pinned, self.reply.status, self.reply.headers, time.time(), size)

    def moved(self) -> ranges.Moved | None:
        """Return where a redirect leads; None for every other answer."""
        outcome = self.decided(_ANY, None) if 300 <= self.reply.status < 400 else None
        return outcome if isinstance(outcome, ranges.Moved) else None

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Count an error that may pass as a failure of the URL's, and any other answer as none."""
        try:
            yield
        except OriginError as exc:
            self._slot.faulted(exc)
            if exc.retryable:
                self._fail()
            else:
                self.ended_well()
            raise

    def ended_well(self) -> None:
        """Count this as an answer."""
        self._judged = True
        self._health.succeeded(self.url)

    def _fail(self) -> None:
        self._judged = True
        self._health.failed(self.url, self._began, trio.current_time())

    async def discard(self) -> None:
        """Let go of a short answer that is of no use; its connection is used again."""
        rest = memoryview(bytearray(_DISCARDED))
        try:
            with trio.move_on_after(_DISCARDED_IN), suppress(OriginError):
                while rest and (count := await self.reply.receive_into(rest)):
                    rest = rest[count:]
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Let go of the slot and of the connection."""
        took = trio.current_time() - self._began
        if not self._judged and took >= silent_for(self._patience) and self._received < LEAST_RATE * took:
            self._fail()  # whoever waited has left, and this is why
        self._slot.release()
        await self.reply.aclose()

    async def page(self, limit: int, counters: Counters) -> bytes:
        """Return the whole body. *Raises*: OriginError, also when it is over `limit` bytes or not a whole page."""
        shown = urls.redact(self.url)
        if self.reply.status != 200:
            self.proven(Extent(0, 1), None)
            raise OriginBadAnswer(shown, f"HTTP {self.reply.status} for a whole page")
        if reason := ranges.encoded(self.reply.headers):  # read as a page it would be an empty directory
            raise OriginBadAnswer(shown, reason)
        page, piece = bytearray(), memoryview(bytearray(_PAGE_PIECE))
        with self.judged():
            while count := await self.receive_into(piece):
                page += piece[:count]
                counters.origin_bytes += count
                if len(page) > limit:
                    raise OriginRefused(shown, f"a page of more than {limit} bytes", self.reply.status)
        self.ended_well()
        return bytes(page)


class Answer:
    """A body under way; `body` says what it proves to hold. Close it with `aclose`."""

    def __init__(self, body: Body, request: Request, counters: Counters) -> None:
        self.body = body
        self._request = request
        self._counters = counters
        self._due = len(body.extent)

    @property
    def url(self) -> str:
        """The URL that was asked."""
        return self._request.url

    @property
    def received(self) -> int:
        """How many bytes of `body.extent` have come so far."""
        return len(self.body.extent) - max(self._due, 0)

    async def receive_into(self, *buffers: memoryview, sink: Sink | None = None) -> int:
        """Fill the start of some buffers, none empty, with the next bytes of the body; return how many, 0 at its end.

        *Raises*: OriginBadAnswer, when there are more or fewer than `body.extent`; OriginUnreachable. Where the body is
        not `counted`, what was received is proven only by the end.
        """
        with self._request.judged():
            within = list(cut(buffers, self._due or 1))  # nobody hears of bytes that were not due
            count = await self._request.receive_into(*within, sink=sink)
            self._counters.origin_bytes += count
            self._due -= count
            if self._due < 0 or (self._due and not count):
                wrong = "more bytes than were due" if self._due < 0 else f"a body that ended {self._due} bytes early"
                raise OriginBadAnswer(urls.redact(self._request.url), wrong)
        if not self._due:
            self._request.ended_well()
        return count

    async def wait_for_body(self) -> None:
        """Wait until the body has begun. *Raises*: OriginUnreachable."""
        with self._request.judged():
            await self._request.reply.wait_for_body()

    async def aclose(self) -> None:
        """Let go of the request, read to its end or not."""
        await self._request.aclose()


def silent_for(patience: float) -> float:
    """Return the seconds without an answer after which an attempt that is given up has failed."""
    return min(SILENT, patience / 2)


_REMEDIES: Final = {
    404: ": nothing is there; check the URL",
    410: ": it is gone; check the URL",
}


def _proven(url: str, outcome: ranges.Outcome, status: int) -> Body:
    """Return what was proven, or raise what was not."""
    shown = urls.redact(url)
    match outcome:
        case Body():
            return outcome
        case ranges.Changed(reason):
            raise BlobChanged(shown, f"it has changed: {reason}")
        case ranges.Refused(reason) if status in (401, 403):
            remedy = "give credentials that it takes, as with --netrc-file or --header-file"
            raise OriginDenied(shown, f"{reason}: it is not for everybody; {remedy}")
        case ranges.Refused(reason):
            raise OriginRefused(shown, reason + _REMEDIES.get(status, ""), status)
        case ranges.Passing(reason, retry_after):
            raise OriginUnreachable(shown, f"{reason}; try again later", retry_after)
        case ranges.Bad(reason):
            raise OriginBadAnswer(shown, reason)
        case _:
            raise OriginBadAnswer(shown, f"HTTP {status} was not to be expected")
