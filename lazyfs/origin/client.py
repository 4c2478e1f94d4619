"""The HTTP client: sends what is to be asked, follows redirects by hand, hands out only bytes that are proven.

This is the one module that imports httpx. It sends and counts; what an answer proves is decided in `ranges`. Every
failure leaves it as an `OriginError` whose message has no query, userinfo or header value in it.

httpx is the client for what requests mean; their bytes go over connections of our own (wire.py), or over httpx's where
a proxy is in between. Cancellation: a request that is cancelled closes its connection. httpx's pool is unbounded, so
that none ever queues in it: httpcore 1.0.9 loses the slot of a request that is cancelled while it queues
(encode/httpcore#1093).
"""

from __future__ import annotations

import http.cookiejar
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import httpx
import trio

from lazyfs import __version__, ranges, urls
from lazyfs.counters import Counters
from lazyfs.errors import BlobChanged, OriginBadAnswer, OriginOffline, OriginRefused, OriginUnreachable
from lazyfs.extents import Extent
from lazyfs.origin import wire
from lazyfs.ranges import Body
from lazyfs.versions import Version

log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs at INFO, with the secrets in them
logging.getLogger("httpcore").setLevel(logging.WARNING)

MAX_HOPS: Final = 10
"""Redirects followed for one request."""

_PAGE_PIECE: Final = 64 * 1024

_TIMEOUT = httpx.Timeout(10.0, read=20.0, pool=None)
"""Seconds for connecting and sending, and for the next bytes of an answer; the read's deadline is the caller's."""

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30.0)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How origins are asked. `headers` go to the origins in `named` (`urls.origin_of`), and to no other."""

    headers: tuple[tuple[str, str], ...] = ()
    named: frozenset[tuple[str, str, int]] = field(default_factory=frozenset)
    ca_file: Path | None = None
    proxy: str | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a URL names: its version, whether ranges are honoured, and the bytes from 0 that came along."""

    version: Version
    ranged: bool
    head: bytes


class _Wire(httpx.AsyncBaseTransport):
    """httpx's requests over our own connections."""

    def __init__(self, trust: Callable[[], ssl.SSLContext]) -> None:
        self._pool = wire.Pool(trust)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. *Raises*: WireError."""
        place = urls.origin_of(str(request.url))
        target = urls.target(request.extensions["url"]) or request.url.raw_path
        exchange, head = await self._pool.exchange(place, target, request.headers.raw)
        stream, extensions = _WireStream(exchange), {"exchange": exchange}
        return httpx.Response(head.status, headers=head.headers, stream=stream, extensions=extensions)

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._pool.aclose()


class _WireStream(httpx.AsyncByteStream):
    """The body of an answer that came over our own connections, as httpx would see it; `_Reader` takes it directly."""

    def __init__(self, exchange: wire.Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        piece = memoryview(bytearray(_PAGE_PIECE))
        while count := await self._exchange.receive_into(piece):
            yield bytes(piece[:count])

    async def aclose(self) -> None:
        """Give the connection back, or close it."""
        await self._exchange.aclose()


class _Reader:
    """Receives a body into buffers, whichever transport it comes by."""

    def __init__(self, response: httpx.Response) -> None:
        self._exchange: wire.Exchange | None = response.extensions.get("exchange")
        self._pieces = response.aiter_raw()
        self._rest = memoryview(b"")

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the start of a non-empty buffer; 0 at the end of the body."""
        if self._exchange is not None:
            return await self._exchange.receive_into(buffer)
        if not self._rest:
            self._rest = memoryview(await anext(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class Answer:
    """A body under way; `body` says what it proves to hold."""

    def __init__(self, body: Body, url: str, response: httpx.Response, counters: Counters) -> None:
        self.body = body
        self._url = url
        self._reader = _Reader(response)
        self._counters = counters
        self._due = len(body.extent)

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the start of a non-empty buffer with the next bytes of the body and return how many; 0 at its end.

        *Raises*: OriginBadAnswer, when there are more or fewer than `body.extent`; OriginUnreachable. Where the body is
        not `counted`, what was received is proven only by the end.
        """
        with _transport_errors(self._url):
            count = await self._reader.receive_into(buffer)
        self._counters.origin_bytes += count
        self._due -= count
        if self._due < 0 or (self._due and not count):
            wrong = "more bytes than were due" if self._due < 0 else f"a body that ended {self._due} bytes early"
            raise OriginBadAnswer(urls.redact(self._url), wrong)
        return count


class Client:
    """Asks origins; one for each process. Close it with `aclose`."""

    def __init__(self, options: ClientOptions, counters: Counters) -> None:
        self._options = options
        self._counters = counters
        self._http = self._client()
        trio.socket.set_custom_hostname_resolver(wire.Lookups())

    @property
    def offline(self) -> bool:
        """Whether every question would be refused."""
        return self._options.offline

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def probe(self, url: str, pinned: Version | None = None, size: int | None = None) -> Found | None:
        """Ask what a URL names, with a GET of its first byte; None when `pinned` is still current.

        `size` is the blob's where a source said so, for an origin that does not.

        *Raises*: OriginError. *Source*: TRAPS "HEAD refused, or without a length".
        """
        condition = {"if-none-match": pinned.etag} if pinned is not None and pinned.etag else {}
        async with self._send(url, {"range": "bytes=0-0", **condition}) as response:
            outcome = ranges.decide(Extent(0, 1), None, response.status_code, response.headers, time.time(), size)
            if condition and response.status_code == 304:
                return None
            body = _proven(url, outcome, response.status_code)
            found = Found(body.version, response.status_code != 200, b"")
            if not found.ranged or not body.extent:
                return found  # what else a 200 sends is not read: the connection is closed
            answer = Answer(body, url, response, self._counters)
            head = bytearray(len(body.extent) + 1)
            length = 0
            while count := await answer.receive_into(memoryview(head)[length:]):
                length += count  # to its end: a connection is used again only after that
            return Found(body.version, ranged=True, head=bytes(head[:length]))

    @asynccontextmanager
    async def get(self, url: str, extent: Extent, pinned: Version) -> AsyncIterator[Answer]:
        """Ask for a non-empty run of bytes of one version; the answer may hold less of it, or the whole blob.

        *Raises*: BlobChanged, OriginRefused, OriginUnreachable, OriginBadAnswer, OriginOffline. *Units*: bytes.
        """
        condition = {"if-match": pinned.strong_etag} if pinned.strong_etag else {}
        async with self._send(url, {"range": ranges.range_header(extent), **condition}) as response:
            outcome = ranges.decide(extent, pinned, response.status_code, response.headers, time.time())
            yield Answer(_proven(url, outcome, response.status_code), url, response, self._counters)

    async def fetch_page(self, url: str, limit: int) -> tuple[bytes, str, str]:
        """Return the whole body at `url`, its Content-Type and its final URL: for listings, which have no version.

        *Raises*: OriginError, also when the body is over `limit` bytes.
        """
        async with self._send(url, {}) as response:
            outcome = ranges.decide(Extent(0, 1), None, response.status_code, response.headers, time.time())
            if response.status_code != 200:
                _proven(url, outcome, response.status_code)
                raise OriginBadAnswer(urls.redact(url), f"HTTP {response.status_code} for a whole page")
            if reason := ranges.encoded(response.headers):  # read as a page it would be an empty directory
                raise OriginBadAnswer(urls.redact(url), reason)
            page, piece, reader = bytearray(), memoryview(bytearray(_PAGE_PIECE)), _Reader(response)
            with _transport_errors(url):
                while count := await reader.receive_into(piece):
                    page += piece[:count]
                    self._counters.origin_bytes += count
                    if len(page) > limit:
                        raise OriginBadAnswer(urls.redact(url), f"a page of more than {limit} bytes")
            return bytes(page), response.headers.get("content-type", ""), str(response.url)

    @asynccontextmanager
    async def _send(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Send a GET and follow its redirects: our headers to the named origins only, never from https to http."""
        if self._options.offline:
            raise OriginOffline(urls.redact(url), "not in the store, and --offline forbids asking the origin")
        here = url
        for _ in range(MAX_HOPS + 1):
            response = await self._send_one(here, headers)
            try:
                outcome = ranges.decide(Extent(0, 1), None, response.status_code, response.headers, time.time())
                if not isinstance(outcome, ranges.Moved):
                    yield response
                    return
                here = _next_hop(url, here, outcome.location)
            finally:
                await response.aclose()
        raise OriginRefused(urls.redact(url), f"more than {MAX_HOPS} redirects", 310)

    async def _send_one(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        own = self._options.headers if urls.origin_of(url) in self._options.named else ()
        with _transport_errors(url):
            self._counters.origin_requests += 1
            own_headers = [*own, *headers.items()]
            request = self._http.build_request("GET", url, headers=own_headers, extensions={"url": url})
            return await self._http.send(request, stream=True)

    def _trust(self) -> ssl.SSLContext:
        """The system's authorities (what the administrator trusts, not what a package ships), or `--ca-file`'s."""
        return ssl.create_default_context(cafile=self._options.ca_file)

    def _client(self) -> httpx.AsyncClient:
        """Make the client: over our own connections, or over httpx's where a proxy is in between."""
        transport: httpx.AsyncBaseTransport = _Wire(self._trust)
        if proxy := self._options.proxy:
            transport = httpx.AsyncHTTPTransport(verify=self._trust(), proxy=proxy, limits=_LIMITS, trust_env=False)
        return httpx.AsyncClient(
            headers={"user-agent": f"lazyfs/{__version__}", "accept-encoding": "identity"},
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=())),
            transport=transport,
            timeout=_TIMEOUT,
            follow_redirects=False,
            trust_env=False,
        )


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


class _transport_errors:  # noqa: N801 - reads as the context manager it is
    """Turn httpx's errors into ours, without the URL that they may carry."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, wire.WireError):
            raise OriginUnreachable(urls.redact(self._url), str(exc)) from None
        if isinstance(exc, httpx.TransportError):
            raise OriginUnreachable(urls.redact(self._url), _reason(exc)) from None
        if isinstance(exc, (httpx.InvalidURL, httpx.RequestError, UnicodeError)):
            raise OriginRefused(urls.redact(self._url), f"cannot be asked for ({type(exc).__name__})", 0) from None


def _reason(exc: httpx.TransportError) -> str:
    """Say what went wrong in words; the operating system's where there are some."""
    words = next((wire.words(cause) for cause in _causes(exc) if isinstance(cause, OSError)), None)
    match exc:
        case httpx.ConnectTimeout():
            return "no connection in time"
        case httpx.ConnectError():
            return f"cannot connect: {words or exc}"
        case httpx.TimeoutException():
            return "no answer in time"
        case httpx.RemoteProtocolError():
            return "the connection was closed in mid-answer, or the answer is not HTTP"
        case _:
            return f"the connection failed: {words or type(exc).__name__}"


def _causes(exc: BaseException | None) -> Iterable[BaseException]:
    """Yield `exc` and what it came from, exception groups opened."""
    if exc is None:
        return
    yield exc
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _causes(inner)
    yield from _causes(exc.__cause__ or exc.__context__)
