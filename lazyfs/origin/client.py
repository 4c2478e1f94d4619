"""The HTTP client: asks origins what their URLs name and for bytes, and hands out only what is proven.

How a request gets there is in sender.py, how its answer is taken in answer.py, what it proves in `ranges`. Every
failure leaves as an `OriginError` whose message has no query, userinfo or header value in it.

An answer of another version is asked for once more with `Cache-Control: no-cache`, since a cache in between may still
have what it kept of another version; then it is believed. Metadata is always asked at the URL itself, not where it led.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import trio

from lazyfs import ranges, urls
from lazyfs.counters import Counters
from lazyfs.errors import BlobChanged, OriginDirectory
from lazyfs.extents import Extent
from lazyfs.origin.answer import Answer as Answer
from lazyfs.origin.health import HedgeBudget
from lazyfs.origin.sender import Attempt as Attempt
from lazyfs.origin.sender import ClientOptions as ClientOptions
from lazyfs.origin.sender import Sender, Urgent, demanded
from lazyfs.origin.slots import SlotState
from lazyfs.origin.tally import Tally
from lazyfs.pace import Pace
from lazyfs.urgency import Urgency
from lazyfs.versions import Version

_NO_CACHE: Final = {"cache-control": "no-cache"}

_PAGE: Final = re.compile(r"\s*(?:text/html|application/(?:xhtml\+xml|json))\b", re.IGNORECASE)
"""What indexes are."""


@dataclass(frozen=True, slots=True)
class OriginState:
    """An origin at one moment; `shown` is `scheme://host:port`, and `tally` goes on growing."""

    shown: str
    tally: Tally
    under_way: int
    waiting: int
    limit: int
    failing: bool  # others are asked before it
    requests: Callable[[], list[SlotState]]  # what those are


@dataclass(frozen=True, slots=True)
class Found:
    """What a URL names: its version, whether ranges are honoured, and the bytes from 0 that came along."""

    version: Version
    ranged: bool
    head: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A whole body, the headers that came with it, in lower case, and the URL where it was in the end."""

    content: bytes
    headers: Mapping[str, str]
    url: str


class Client:
    """Asks origins; one for each process. Close it with `aclose`. `nursery` runs what is done for several askers."""

    def __init__(self, options: ClientOptions, counters: Counters, nursery: trio.Nursery) -> None:
        self._options = options
        self._counters = counters
        self._sender = Sender(options, counters, nursery)
        self._budget = HedgeBudget(options.hedge)

    @property
    def offline(self) -> bool:
        """Whether every question would be refused."""
        return self._options.offline

    async def aclose(self) -> None:
        """Close all connections."""
        await self._sender.aclose()

    def resting(self, url: str) -> bool:
        """Say whether others should be asked before this URL."""
        now = trio.current_time()
        return any(self._sender.health.resting(key, now) for key in (url, urls.origin_of(url)))

    def let_rest(self, url: str) -> None:
        """Have others asked before this URL for a while: it was too slow, or what came from it was wrong."""
        now = trio.current_time()
        self._sender.health.failed(url, now, now)

    def origins(self) -> Iterator[OriginState]:
        """Yield the origins that were asked so far, the first one first."""
        now = trio.current_time()
        for place, slots in self._sender.origins():
            failing = self._sender.health.resting(place, now)
            yield OriginState(
                urls.shown_origin(place), slots.tally, slots.held, slots.waiting, slots.allowed, failing, slots.state
            )

    def slow(self, url: str) -> float:
        """Return after how many seconds without an answer this URL's origin is slow; never, where nothing is hedged."""
        return self._sender.slow(url)

    def pace(self, url: str) -> Pace | None:
        """Return how fast what this URL leads to is delivered; None while too little is known."""
        return self._sender.pace(url)

    def may_hedge(self) -> bool:
        """Say whether one more request may be sent beside one that is slow, and count it."""
        if not self._budget.spend():
            return False
        self._counters.hedges += 1
        return True

    async def probe(
        self, url: str, pinned: Version | None = None, size: int | None = None, urgency: Urgency = Urgency.DEMAND
    ) -> Found | None:
        """Ask what a URL names, with a GET of its first byte; None when `pinned` is still current.

        `size` is the blob's where a source said so, for an origin that does not.

        *Raises*: OriginError. *Source*: TRAPS "HEAD refused, or without a length".
        """
        found = await self._probe_once(url, {}, pinned, size, urgency)
        if pinned is None or found is None or found.version == pinned:
            return found
        return await self._probe_once(url, _NO_CACHE, pinned, size, urgency)

    async def _probe_once(
        self, url: str, headers: Mapping[str, str], pinned: Version | None, size: int | None, urgency: Urgency
    ) -> Found | None:
        # Not of a weak ETag: the date, too, has to be the same for what is read.
        condition = {"if-none-match": pinned.condition} if pinned is not None and pinned.condition else {}
        headers = {"range": "bytes=0-0", **condition, **headers}
        async with aclosing(await self._sender.follow(url, headers, lambda: urgency, Attempt())) as request:
            if condition and request.reply.status == 304:
                request.ended_well()
                return None
            if _is_index(url, request.reply.url, request.reply.headers.get("content-type", "")):
                request.ended_well()
                raise OriginDirectory(urls.redact(url), request.reply.status)
            body = request.proven(Extent(0, 1), None, size)
            if request.reply.status == 200 or not body.extent:
                request.ended_well()
                # What else a 200 sends is not read: the connection is closed.
                return Found(body.version, request.reply.status != 200, b"")
            answer = Answer(body, request, self._counters)
            head = bytearray(len(body.extent) + 1)
            length = 0
            while count := await answer.receive_into(memoryview(head)[length:]):
                length += count  # to its end: a connection is used again only after that
            return Found(body.version, ranged=True, head=bytes(head[:length]))

    async def ask(
        self,
        url: str,
        extent: Extent,
        pinned: Version,
        urgency: Urgent = demanded,
        attempt: Attempt | None = None,
    ) -> Answer:
        """Ask for a non-empty run of bytes of one version; the answer may hold less of it, or the whole blob.

        Returns when the body has begun; close what it returns. `urgency` is looked at whenever there is a choice.

        *Raises*: BlobChanged, OriginRefused, OriginDenied, OriginUnreachable, OriginFailing, OriginBadAnswer,
        OriginOffline. *Units*: bytes. *Cancellation*: at any time; the connection is closed.
        """
        condition = {"if-match": pinned.condition} if pinned.condition else {}
        headers = {"range": ranges.range_header(extent), **condition}
        attempt = attempt or Attempt()
        self._budget.earn()
        try:
            return await self._ask_once(url, headers, extent, pinned, urgency, attempt)
        except BlobChanged:
            self._sender.forget(url)  # what the URL led to is not what it names any more
            return await self._ask_once(url, {**headers, **_NO_CACHE}, extent, pinned, urgency, attempt)

    async def _ask_once(
        self,
        url: str,
        headers: Mapping[str, str],
        extent: Extent,
        pinned: Version,
        urgency: Urgent,
        attempt: Attempt,
    ) -> Answer:
        request = await self._sender.open(url, headers, urgency, attempt)
        try:
            answer = Answer(request.proven(extent, pinned), request, self._counters)
            await answer.wait_for_body()
            return answer
        except BaseException:
            await request.aclose()
            raise

    async def fetch_page(self, url: str, limit: int) -> tuple[bytes, str, str]:
        """Return the whole body at `url`, its Content-Type and its final URL: for listings, which have no version.

        *Raises*: OriginError, also when the body is over `limit` bytes.
        """
        page = await self.fetch_document(url, limit, {})
        return page.content, page.headers.get("content-type", ""), page.url

    async def fetch_document(self, url: str, limit: int, headers: Mapping[str, str], method: str = "GET") -> Page:
        """Return what is at `url`, asked for with some headers; by HEAD, all but its content.

        *Raises*: OriginError, also when the body is over `limit` bytes.
        """
        async with aclosing(await self._sender.follow(url, headers, demanded, Attempt(), method=method)) as request:
            content = await request.page(limit, self._counters)
            return Page(content, request.reply.headers, request.reply.url)


def _is_index(url: str, final: str, content_type: str) -> bool:
    """Say whether a URL has led to a page at the same URL with a slash: so web servers answer for a directory."""
    return final != url and urlsplit(final).path == urlsplit(url).path + "/" and _PAGE.match(content_type) is not None
