"""One request, one reply: httpx makes the requests; our own connections carry them (wire.py), or httpx's to a proxy.

This is the one module that imports httpx. What a request is for, and what its reply proves, is decided above. Every
failure leaves it as an `OriginError` whose message has no query, userinfo or header value in it.

Limits of an attempt: connecting (`wire.CONNECT_TIMEOUT`), the whole head (`wire.HEAD_TIMEOUT`), and for the body a
least rate: `LEAST_RATE` over each `RATE_WINDOW` of waiting. Only time spent waiting for the origin counts, so a slow
disk is not held against it.

It is HTTP/1.1 throughout. Over HTTP/2 (httpx with h2, TLS on loopback, nginx) 256 KiB ranges came at 0.4 of the rate
one at a time and 16 at a time, 4 MiB ones at 0.3.

httpx's pool is unbounded, so that nothing ever queues in it: httpcore 1.0.9 loses the slot of a request that is
cancelled while it queues (encode/httpcore#1093).
"""

from __future__ import annotations

import functools
import http.cookiejar
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from lazyfs.origin import lean  # noqa: F401 - before httpx, of which it leaves out a part

# isort: split
import httpx
import trio

from lazyfs import __version__, urls
from lazyfs.errors import OriginDenied, OriginError, OriginRefused, OriginUnreachable, UsageError
from lazyfs.options import ENVIRONMENT as ENVIRONMENT
from lazyfs.options import TransportOptions as TransportOptions
from lazyfs.origin import wire
from lazyfs.origin.connection import Sink, hand_over
from lazyfs.origin.own import Own
from lazyfs.origin.proxies import Proxies
from lazyfs.origin.securing import Trust
from lazyfs.origin.wire import Place

logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs at INFO, with the secrets in them
logging.getLogger("httpcore").setLevel(logging.WARNING)

LEAST_RATE: Final = 1024
"""Bytes a second below which a body is given up."""

RATE_WINDOW: Final = 10.0
"""Seconds of waiting over which that is measured; silence for as long is too slow as well."""

URLS_KEPT: Final = 256
"""URLs that are kept parsed, which takes longer than all else that httpx does for a request."""

_NOTHING: Final = Own()

_PIECE: Final = 64 * 1024

_FIRST: Final = 1024
"""Bytes that show that a body has begun: the rest goes straight to where it is wanted."""

_TIMEOUT = httpx.Timeout(wire.CONNECT_TIMEOUT, read=wire.HEAD_TIMEOUT, pool=None)

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30.0)


class Unconnected(OriginUnreachable):
    """There was no connection: nobody answers at that host and port."""


class Reply:
    """The head of an answer, and its body under way. Close it with `aclose`, read to the end or not."""

    def __init__(self, url: str, response: httpx.Response) -> None:
        self.url = url
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._exchange: wire.Exchange | None = response.extensions.get("exchange")
        self._pieces = response.aiter_raw()
        self._rest = memoryview(b"")
        self._waited = 0.0  # seconds, of the rate's window
        self._received = 0  # bytes, in it

    async def receive_into(self, *buffers: memoryview, sink: Sink | None = None) -> int:
        """Fill the start of some buffers, none of them empty, with the next bytes of the body; 0 at its end.

        *Raises*: OriginUnreachable, also when they come too slowly. *Cancellation*: at any time; then close it.
        """
        if self._rest:
            return await self._hand_out(buffers, sink)
        began, spent = trio.current_time(), sink.spent if sink is not None else 0.0
        count = 0
        with _transport_errors(self.url), trio.move_on_after(RATE_WINDOW) as patience:
            if self._exchange is not None:
                count = await self._exchange.receive_into(*buffers, sink=sink)
            else:
                self._rest = memoryview(await anext(self._pieces, b""))
                count = await self._hand_out(buffers, sink)
        if patience.cancelled_caught:
            raise OriginUnreachable(urls.redact(self.url), f"no byte came for {RATE_WINDOW:g} s")
        self._waited += trio.current_time() - began
        if sink is not None:
            self._waited -= sink.spent - spent
        self._received += count
        if self._waited >= RATE_WINDOW:
            if self._received < LEAST_RATE * self._waited and count:
                slow = f"only {self._received} bytes came in {self._waited:.0f} s"
                raise OriginUnreachable(urls.redact(self.url), slow)
            self._waited = self._received = 0
        return count

    async def wait_for_body(self) -> None:
        """Wait until the body has begun or is known to be empty. *Raises*: as `receive_into`."""
        if not self._rest:
            piece = bytearray(_FIRST)
            count = await self.receive_into(memoryview(piece))
            self._rest = memoryview(piece)[:count]

    async def _hand_out(self, buffers: Sequence[memoryview], sink: Sink | None) -> int:
        count = await hand_over(self._rest, buffers, sink)
        self._rest = self._rest[count:]
        return count

    async def aclose(self) -> None:
        """Give the connection back where the body was read to its end, else close it."""
        if self._exchange is None:
            await self._end_pieces()
        with trio.CancelScope(shield=True):
            await self._response.aclose()

    async def _end_pieces(self) -> None:
        """Bring httpx's async generators, one around the other, to their end.

        None of them closes the one that it iterates over, and trio warns of those that are collected unfinished. A
        cancellation that begins at the innermost ends all of them.
        """
        with trio.CancelScope(shield=True) as scope, suppress(OriginError), _transport_errors(self.url):
            scope.cancel()
            while await anext(self._pieces, b""):
                pass


class Transport:
    """Sends requests; one for each process. Close it with `aclose`."""

    def __init__(self, options: TransportOptions, own: Own = _NOTHING) -> None:
        self._options = options
        self._own = own
        self._trusts: dict[tuple[Path | None, ...], Trust] = {}  # by their files; each 0.5 MB
        self._http = httpx.AsyncClient(
            headers={"user-agent": f"lazyfs/{__version__}", "accept-encoding": "identity"},
            cookies=_NoCookies(),
            transport=_Wire(self._trust, Proxies(options.proxy, own)),
            timeout=_TIMEOUT,
            follow_redirects=False,
            trust_env=False,
        )
        self._lookups_before = trio.socket.set_custom_hostname_resolver(wire.Lookups())

    async def send(self, url: str, headers: Sequence[tuple[str, str]], method: str = "GET") -> Reply:
        """Send a GET or a HEAD and return the head of its answer.

        *Raises*: OriginUnreachable, Unconnected among them; OriginRefused for a URL that cannot be asked for.
        *Cancellation*: at any time; it closes the connection.
        """
        patience = wire.CONNECT_TIMEOUT + wire.HEAD_TIMEOUT
        with _transport_errors(url), trio.move_on_after(patience):  # httpx bounds only each piece of a head
            request = self._http.build_request(method, _parsed(url), headers=list(headers), extensions={"url": url})
            return Reply(url, await self._http.send(request, stream=True))
        raise OriginUnreachable(urls.redact(url), f"no answer for {patience:g} s")

    async def aclose(self) -> None:
        """Close all connections."""
        trio.socket.set_custom_hostname_resolver(self._lookups_before)  # the run may be somebody else's
        await self._http.aclose()

    def _trust(self, place: Place) -> Trust:
        """The system's authorities (what the administrator trusts, not what a package ships), or those of a file.

        *Raises*: UsageError, for files that cannot be used.
        """
        own, general = self._own.of(place), self._options
        certificate, key = own.client_certificate, own.client_key
        if certificate is None and place in general.named:
            certificate, key = general.client_certificate, general.client_key
        files = own.ca_file or general.ca_file, certificate, key
        if files not in self._trusts:
            try:
                self._trusts[files] = Trust(*files)
            except OSError as exc:
                named = ", ".join(map(str, filter(None, files))) or "the system's authorities"
                raise UsageError(f"TLS cannot use {named}: {wire.words(exc)}; see lazyfs config") from None
        return self._trusts[files]


class _NoCookies(http.cookiejar.CookieJar):
    """Takes none and sends none, without a look at what there is."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Do nothing."""

    def add_cookie_header(self, request: object) -> None:
        """Do nothing."""


_parsed = functools.lru_cache(URLS_KEPT)(httpx.URL)


class _Wire(httpx.AsyncBaseTransport):
    """httpx's requests over our own connections, or httpx's to the proxy that an origin has."""

    def __init__(self, trust: wire.Trusted, proxies: Proxies) -> None:
        self._trust = trust
        self._proxies = proxies
        self._pool = wire.Pool(trust)
        self._through: dict[tuple[str, Trust], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. *Raises*: WireError; httpx's errors, through a proxy; UsageError, as `Transport._trust`."""
        place = urls.origin_of(str(request.url))
        proxy = self._proxies.of(place)
        if proxy is not None:
            return await self._by_way_of(proxy, self._trust(place)).handle_async_request(request)
        target = urls.target(request.extensions["url"]) or request.url.raw_path
        exchange, head = await self._pool.exchange(place, target, request.headers.raw, request.method)
        stream, extensions = _WireStream(exchange), {"exchange": exchange}
        return httpx.Response(head.status, headers=head.headers, stream=stream, extensions=extensions)

    async def aclose(self) -> None:
        """Close the idle connections."""
        self._pool.close()
        for through in self._through.values():
            await through.aclose()

    def _by_way_of(self, proxy: str, trust: Trust) -> httpx.AsyncHTTPTransport:
        found = self._through.get((proxy, trust))
        if found is None:
            found = httpx.AsyncHTTPTransport(verify=trust.context, proxy=proxy, limits=_LIMITS, trust_env=False)
            self._through[proxy, trust] = found
        return found


class _WireStream(httpx.AsyncByteStream):
    """What httpx closes in the end; `Reply` takes the body from the exchange itself."""

    def __init__(self, exchange: wire.Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        piece = memoryview(bytearray(_PIECE))
        while count := await self._exchange.receive_into(piece):
            yield bytes(piece[:count])

    async def aclose(self) -> None:
        """Give the connection back, or close it."""
        self._exchange.close()


class _transport_errors:  # noqa: N801 - reads as the context manager it is
    """Turn httpx's errors into ours, without the URL that they may carry."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, (httpx.InvalidURL, httpx.LocalProtocolError, wire.Unsendable, UnicodeError)):
            raise OriginRefused(urls.redact(self._url), f"cannot be asked for ({type(exc).__name__})", 0) from None
        if isinstance(exc, UsageError):
            raise OriginDenied(urls.redact(self._url), str(exc)) from None
        if isinstance(exc, wire.Unconnected):
            raise Unconnected(urls.redact(self._url), str(exc)) from None
        if isinstance(exc, wire.WireError):
            raise OriginUnreachable(urls.redact(self._url), str(exc)) from None
        if isinstance(exc, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            raise Unconnected(urls.redact(self._url), _reason(exc)) from None
        if isinstance(exc, httpx.RequestError):
            raise OriginUnreachable(urls.redact(self._url), _reason(exc)) from None


def _reason(exc: httpx.RequestError) -> str:
    """Say what went wrong in words; the operating system's where there are some."""
    words = next((wire.words(cause) for cause in _causes(exc) if isinstance(cause, OSError)), None)
    match exc:
        case httpx.ConnectTimeout():
            return "no connection in time through the proxy; check the host and the port that --proxy names"
        case httpx.ConnectError():
            return f"cannot connect through the proxy: {words or exc}; check what --proxy names, and whether it runs"
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
