"""The HTTP client: sends what is to be asked, follows redirects by hand, hands out only bytes that are proven.

It sends and counts; how a request is carried is in transport.py, what an answer proves is decided in `ranges`, whose
turn it is in slots.py, who is left alone in health.py, who we say that we are in credentials.py. Every failure leaves
as an `OriginError` whose message has no query, userinfo or header value in it.

Redirects. The user's headers go to the origins that were named, credentials to those that asked for them, and nothing
of either along with a redirect. Where a URL leads is kept, so that each block takes one request; when what is there
says no (a signed URL that has expired), the URL is asked again, once for all who wait. Metadata is always asked at the
URL itself.

Versions. An answer of another version is asked for once more with `Cache-Control: no-cache`, since a cache in between
may still have what it kept of another version; then it is believed.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urljoin

import trio

from lazyfs import ranges, urls
from lazyfs.counters import Counters
from lazyfs.errors import (
    BlobChanged,
    OriginBadAnswer,
    OriginError,
    OriginFailing,
    OriginOffline,
    OriginRefused,
    OriginUnreachable,
)
from lazyfs.extents import Extent
from lazyfs.origin.health import Health, HedgeBudget
from lazyfs.origin.slots import Slot, Slots
from lazyfs.origin.transport import LEAST_RATE, Reply, Transport, TransportOptions, Unconnected
from lazyfs.origin.wire import Place
from lazyfs.ranges import Body
from lazyfs.turns import Turns
from lazyfs.urgency import Urgency
from lazyfs.versions import Version

MAX_HOPS: Final = 10
"""Redirects followed for one request."""

TARGETS_KEPT: Final = 4096
"""URLs of which it is known where they lead."""

SILENT: Final = 5.0
"""Seconds without an answer after which an attempt that is given up has failed, whatever it was given up for."""

_EXPIRED: Final = frozenset({400, 401, 403, 404, 410})
"""What servers say to a signed URL that has expired, or at the place from where something has gone."""

_RESOLVED_ANEW: Final = 3
"""How often a request is sent to where its URL leads: what was learned may have been used up by others meanwhile."""

_WELL: Final = 64 * 1024
"""Bytes of body that show that a URL answers well, whatever becomes of the rest."""

_DISCARDED: Final = 16 * 1024
_DISCARDED_IN: Final = 0.5
"""Bytes and seconds of an answer that are read only so that its connection can be used again."""

_PAGE_PIECE: Final = 64 * 1024

_NO_CACHE: Final = {"cache-control": "no-cache"}


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How origins are asked. `headers` go to the origins in `named` (`urls.origin_of`), and to no other.

    *Units*: `patience` is the seconds for which something is tried in vain before it is left alone; `hedge` the share
    of requests that may be sent twice.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    named: frozenset[Place] = field(default_factory=frozenset)
    transport: TransportOptions = field(default_factory=TransportOptions)
    offline: bool = False
    patience: float = 60.0
    hedge: float = 0.03


@dataclass(frozen=True, slots=True)
class Found:
    """What a URL names: its version, whether ranges are honoured, and the bytes from 0 that came along."""

    version: Version
    ranged: bool
    head: bytes


class Attempt:
    """What its asker may see of a request under way."""

    def __init__(self) -> None:
        self.sent = trio.Event()


class Answer:
    """A body under way; `body` says what it proves to hold. Close it with `aclose`."""

    def __init__(self, body: Body, asked: _Asked, counters: Counters) -> None:
        self.body = body
        self._asked = asked
        self._counters = counters
        self._due = len(body.extent)

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the start of a non-empty buffer with the next bytes of the body and return how many; 0 at its end.

        *Raises*: OriginBadAnswer, when there are more or fewer than `body.extent`; OriginUnreachable. Where the body is
        not `counted`, what was received is proven only by the end.
        """
        with self._asked.judged():
            count = await self._asked.receive_into(buffer)
            self._counters.origin_bytes += count
            self._due -= count
            if self._due < 0 or (self._due and not count):
                wrong = "more bytes than were due" if self._due < 0 else f"a body that ended {self._due} bytes early"
                raise OriginBadAnswer(urls.redact(self._asked.url), wrong)
        if not self._due:
            self._asked.ended_well()
        return count

    async def wait_for_body(self) -> None:
        """Wait until the body has begun. *Raises*: OriginUnreachable."""
        with self._asked.judged():
            await self._asked.reply.wait_for_body()

    async def aclose(self) -> None:
        """Let go of the request, read to its end or not."""
        await self._asked.aclose()


class _Asked:
    """A request that was answered: the reply, and what its end means for its slot and for its URL's health."""

    def __init__(self, url: str, reply: Reply, slot: Slot, health: Health, began: float, patience: float) -> None:
        self.url = url  # that was asked for; `reply.url` is where it led
        self.reply = reply
        self._slot = slot
        self._health = health
        self._began = began
        self._patience = patience
        self._received = 0
        self._judged = False

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the start of a non-empty buffer with the next bytes of the body; 0 at its end."""
        await self._slot.give_way()
        count = await self.reply.receive_into(buffer)
        self._slot.heard()
        self._received += count
        if self._received >= _WELL:
            self._health.succeeded(self.url)
        return count

    def proven(self, extent: Extent, pinned: Version | None, size: int | None = None) -> Body:
        """Return what the answer proves to hold. *Raises*: OriginError."""
        outcome = self.decided(extent, pinned, size)
        with self.judged():
            return _proven(self.url, outcome, self.reply.status)

    def decided(self, extent: Extent, pinned: Version | None, size: int | None = None) -> ranges.Outcome:
        """Decide what the answer proves."""
        return ranges.decide(extent, pinned, self.reply.status, self.reply.headers, time.time(), size)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Count an error that may pass as a failure of the URL's, and any other answer as none."""
        try:
            yield
        except OriginError as exc:
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
        if not self._judged and took >= _silent(self._patience) and self._received < LEAST_RATE * took:
            self._fail()  # whoever waited has left, and this is why
        self._slot.release()
        await self.reply.aclose()


class Client:
    """Asks origins; one for each process. Close it with `aclose`."""

    def __init__(self, options: ClientOptions, counters: Counters) -> None:
        self._options = options
        self._counters = counters
        self._transport = Transport(options.transport)
        self._health = Health(options.patience)
        self._slots = defaultdict[Place, Slots](Slots)
        self._budget = HedgeBudget(options.hedge)
        self._targets: dict[str, str] = {}  # where URLs lead; the last TARGETS_KEPT
        self._resolving = Turns[str]()

    @property
    def offline(self) -> bool:
        """Whether every question would be refused."""
        return self._options.offline

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def resting(self, url: str) -> bool:
        """Say whether others should be asked before this URL."""
        now = trio.current_time()
        return self._health.resting(url, now) or self._health.resting(urls.origin_of(url), now)

    def let_rest(self, url: str) -> None:
        """Have others asked before this URL for a while: it was too slow, or what came from it was wrong."""
        now = trio.current_time()
        self._health.failed(url, now, now)

    def slow(self, url: str) -> float:
        """Return after how many seconds without an answer this URL's origin is slow; never, where nothing is hedged."""
        if not self._options.hedge:
            return math.inf
        return self._slots[urls.origin_of(url)].latencies.slow

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
        condition = {"if-none-match": pinned.etag} if pinned is not None and pinned.etag else {}
        headers = {"range": "bytes=0-0", **condition, **headers}
        async with aclosing(await self._follow(url, headers, lambda: urgency, Attempt())) as asked:
            if condition and asked.reply.status == 304:
                asked.ended_well()
                return None
            body = asked.proven(Extent(0, 1), None, size)
            if asked.reply.status == 200 or not body.extent:
                asked.ended_well()
                # What else a 200 sends is not read: the connection is closed.
                return Found(body.version, asked.reply.status != 200, b"")
            answer = Answer(body, asked, self._counters)
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
        urgency: Callable[[], Urgency] = lambda: Urgency.DEMAND,
        attempt: Attempt | None = None,
    ) -> Answer:
        """Ask for a non-empty run of bytes of one version; the answer may hold less of it, or the whole blob.

        Returns when the body has begun; close what it returns. `urgency` is looked at whenever there is a choice.

        *Raises*: BlobChanged, OriginRefused, OriginDenied, OriginUnreachable, OriginFailing, OriginBadAnswer,
        OriginOffline. *Units*: bytes. *Cancellation*: at any time; the connection is closed.
        """
        condition = {"if-match": pinned.strong_etag} if pinned.strong_etag else {}
        headers = {"range": ranges.range_header(extent), **condition}
        attempt = attempt or Attempt()
        self._budget.earn()
        try:
            return await self._ask_once(url, headers, extent, pinned, urgency, attempt)
        except BlobChanged:
            return await self._ask_once(url, {**headers, **_NO_CACHE}, extent, pinned, urgency, attempt)

    async def _ask_once(
        self,
        url: str,
        headers: Mapping[str, str],
        extent: Extent,
        pinned: Version,
        urgency: Callable[[], Urgency],
        attempt: Attempt,
    ) -> Answer:
        asked = await self._open(url, headers, urgency, attempt)
        try:
            answer = Answer(asked.proven(extent, pinned), asked, self._counters)
            await answer.wait_for_body()
            return answer
        except BaseException:
            await asked.aclose()
            raise

    async def fetch_page(self, url: str, limit: int) -> tuple[bytes, str, str]:
        """Return the whole body at `url`, its Content-Type and its final URL: for listings, which have no version.

        *Raises*: OriginError, also when the body is over `limit` bytes.
        """
        async with aclosing(await self._follow(url, {}, lambda: Urgency.DEMAND, Attempt())) as asked:
            return await self._page(asked, limit)

    async def _page(self, asked: _Asked, limit: int) -> tuple[bytes, str, str]:
        reply, shown = asked.reply, urls.redact(asked.url)
        if reply.status != 200:
            asked.proven(Extent(0, 1), None)
            raise OriginBadAnswer(shown, f"HTTP {reply.status} for a whole page")
        if reason := ranges.encoded(reply.headers):  # read as a page it would be an empty directory
            raise OriginBadAnswer(shown, reason)
        page, piece = bytearray(), memoryview(bytearray(_PAGE_PIECE))
        with asked.judged():
            while count := await asked.receive_into(piece):
                page += piece[:count]
                self._counters.origin_bytes += count
                if len(page) > limit:
                    raise OriginBadAnswer(shown, f"a page of more than {limit} bytes")
        asked.ended_well()
        return bytes(page), reply.headers.get("content-type", ""), reply.url

    # Redirects.

    async def _open(
        self, url: str, headers: Mapping[str, str], urgency: Callable[[], Urgency], attempt: Attempt
    ) -> _Asked:
        """Send a GET to where a URL is known to lead, and when that says no, to the URL."""
        for _ in range(_RESOLVED_ANEW):
            target = self._targets.get(url)
            if target is None:
                break
            try:
                asked = await self._send(url, target, headers, urgency, attempt)
            except OriginUnreachable:
                self._forget_target(url, target)
                raise
            if asked.reply.status not in _EXPIRED and not isinstance(asked.decided(_ANY, None), ranges.Moved):
                return asked
            await asked.discard()
            async with self._resolving.of(url):
                if self._forget_target(url, target):  # else somebody was here before us
                    return await self._follow(url, headers, urgency, attempt)
        return await self._follow(url, headers, urgency, attempt)

    def _forget_target(self, url: str, target: str) -> bool:
        if self._targets.get(url) != target:
            return False
        del self._targets[url]
        return True

    async def _follow(
        self, url: str, headers: Mapping[str, str], urgency: Callable[[], Urgency], attempt: Attempt
    ) -> _Asked:
        """Send a GET to a URL and follow its redirects; never from https to http."""
        here = url
        for _ in range(MAX_HOPS + 1):
            asked = await self._send(url, here, headers, urgency, attempt)
            outcome = asked.decided(_ANY, None)
            if not isinstance(outcome, ranges.Moved):
                if here != url and asked.reply.status in (200, 206):
                    self._targets.pop(url, None)
                    self._targets[url] = here
                    if len(self._targets) > TARGETS_KEPT:
                        del self._targets[next(iter(self._targets))]
                return asked
            asked.ended_well()
            await asked.discard()
            here = _next_hop(url, here, outcome.location)
        raise OriginRefused(urls.redact(url), f"more than {MAX_HOPS} redirects", 310)

    async def _send(
        self, url: str, here: str, headers: Mapping[str, str], urgency: Callable[[], Urgency], attempt: Attempt
    ) -> _Asked:
        """Send a GET for `url` to `here`, when it is its turn."""
        if self._options.offline:
            raise OriginOffline(urls.redact(url), "not in the store, and --offline forbids asking the origin")
        place = urls.origin_of(here)
        slots = self._slots[place]
        self._refuse_broken(url, place)
        slot = await slots.take(url, urgency)
        began = trio.current_time()
        try:
            attempt.sent.set()
            self._counters.origin_requests += 1
            own = self._options.headers if place in self._options.named else ()
            reply = await self._transport.send(here, [*own, *headers.items()])
        except BaseException as exc:
            slot.release()
            now = trio.current_time()
            if isinstance(exc, Unconnected):
                self._health.failed(place, began, now)
            elif isinstance(exc, OriginUnreachable) or now - began >= _silent(self._options.patience):
                self._health.failed(url, began, now)
            raise
        slot.heard()
        took = trio.current_time() - began
        self._health.succeeded(place)
        slots.answered(took, refused=reply.status in (429, 503))
        return _Asked(url, reply, slot, self._health, began, self._options.patience)

    def _refuse_broken(self, url: str, place: Place) -> None:
        for key, what in ((place, f"{place[1]}:{place[2]} cannot be reached"), (url, "no answer that can be used")):
            seconds = self._health.refusal(key, trio.current_time())
            if seconds is not None:
                reason = f"{what}, for longer than a read may take; asked again in {seconds:.0f} s"
                raise OriginFailing(urls.redact(url), reason)


_ANY = Extent(0, 1)


def _silent(patience: float) -> float:
    """Return the seconds without an answer after which an attempt that is given up has failed."""
    return min(SILENT, patience / 2)


_REMEDIES: Final = {
    401: " (it wants credentials: see --header-file)",
    403: " (forbidden: credentials are given with --header-file)",
    404: " (nothing is there: check the URL)",
    410: " (it is gone: check the URL)",
}


def _proven(url: str, outcome: ranges.Outcome, status: int) -> Body:
    """Return what was proven, or raise what was not."""
    shown = urls.redact(url)
    match outcome:
        case Body():
            return outcome
        case ranges.Changed(reason):
            raise BlobChanged(shown, f"it has changed: {reason}")
        case ranges.Refused(reason):
            raise OriginRefused(shown, reason + _REMEDIES.get(status, ""), status)
        case ranges.Passing(reason, retry_after):
            raise OriginUnreachable(shown, reason, retry_after)
        case ranges.Bad(reason):
            raise OriginBadAnswer(shown, reason)
        case _:
            raise OriginBadAnswer(shown, f"HTTP {status} was not to be expected")


def _next_hop(url: str, here: str, location: str) -> str:
    """Return the URL that a redirect leads to. *Raises*: OriginRefused for a downgrade, a loop or nonsense."""
    try:
        target = urljoin(here, location)
    except ValueError:
        target = ""  # such as "http://[", of which no URL can be made
    if not urls.is_http(target):
        raise OriginRefused(urls.redact(url), "a redirect to something that is not http or https", 310)
    if urls.origin_of(here)[0] == "https" and urls.origin_of(target)[0] == "http":
        raise OriginRefused(urls.redact(url), "a redirect from https to http", 310)
    return target
