"""HTTP/1.1 over connections of our own: one request at a time on each, bodies received into the caller's buffers.

httpx's own transport takes a body through six layers in pieces of 64 KiB at the most; here a body with a length goes
from the socket straight into blocks (measured on loopback: 0.09 ms instead of 0.45 ms a request, and half of the CPU
time for each byte). Heads are parsed by h11, and so are bodies that are chunked or end with the connection.

The pool is a list of idle connections; nothing waits in it, so nothing is lost when a request is
cancelled: its connection is closed, and that is all. An idle connection may be closed by its server just as it is
taken; a request on one that ends before any byte of an answer is sent again on another, since a GET, like a HEAD, may
be repeated.
One that is silent is not: all may be, of a host that is out of reach by now, and each would cost a time-out.

*Source*: RFC 9112 §6 (bodies), §9.3 (persistence).
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import h11
import trio

from lazyfs.buffers import cut
from lazyfs.origin import early
from lazyfs.origin.connection import Connection, Sink, hand_over
from lazyfs.origin.securing import Trust

IDLE_FOR: Final = 30.0
"""Seconds for which an idle connection is kept; common servers keep theirs for 60 or 75."""

IDLE_MAX: Final = 128
"""Idle connections kept, over all origins: a manifest may name thousands of them, each asked once."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for name look-up, TCP and TLS together."""

EARLY_WITHIN: Final = 0.25
"""Seconds for which one that was begun early (early.py) is waited for: it tries one address after the other."""

HEAD_TIMEOUT: Final = 20.0
"""Seconds for sending a request and for all of the head of its answer; what a body may take is its receiver's."""

LOOKUPS_MAX: Final = 512
"""Name look-ups at a time, those included that nobody waits for any longer."""

_HEAD_PIECE: Final = 64 * 1024

_OF_ANOTHER_NAME: Final = frozenset({62, 63, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, …_EMAIL_MISMATCH, …_IP_ADDRESS_MISMATCH in openssl/x509_vfy.h."""

_NOT_TLS: Final = frozenset({"wrong version number", "http request", "unknown protocol"})
"""Why OpenSSL gives up on an answer that is no TLS at all."""

_QUOTED: Final = re.compile(r"(: )?(bytearray\()?b?['\"].*", re.DOTALL)
"""What h11 quotes of an answer, such as a whole header line: a secret may be in it."""

Place = tuple[str, str, int]
"""Scheme, host, port."""

Headers = Sequence[tuple[bytes, bytes]]


Trusted = Callable[[Place], Trust]
"""Returns what TLS trusts, and shows, for an origin."""


class WireError(Exception):
    """A connection failed; the message says how, without the URL."""


class Unconnected(WireError):
    """There was none: no name, nobody at that port, no TLS."""


class Unsendable(WireError):
    """What was to be sent is no HTTP request."""


class Closed(WireError):
    """It has ended."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer."""

    status: int
    headers: list[tuple[bytes, bytes]]


class Exchange:
    """One request and its answer. Close it, read to the end or not."""

    def __init__(self, pool: Pool, place: Place, connection: Connection, *, reused: bool) -> None:
        self._pool = pool
        self._place = place
        self._connection = connection
        self._reused = reused
        self._heard = False  # whether any byte of an answer has come
        self._http = h11.Connection(h11.CLIENT)
        self._rest: memoryview = memoryview(b"")  # of the body: received, not yet handed out
        self._due: int | None = None  # bytes of the body not yet received; None where h11 has to find the end
        self._reusable = False

    async def begin(self, target: bytes, headers: Headers, method: str) -> Head:
        """Send a request without a body and return the head of its answer. *Raises*: WireError."""
        try:
            request = h11.Request(method=method, target=target, headers=list(headers))
        except h11.LocalProtocolError:
            raise Unsendable("no HTTP request") from None  # not in h11's words, which quote a header
        message = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        with _InTime(HEAD_TIMEOUT, "no answer"):
            await self._connection.send_all(message)
            while True:
                event = await self._next_event()
                if isinstance(event, h11.Response):
                    break
        self._frame(event, empty=method == "HEAD")
        return Head(event.status_code, list(event.headers.raw_items()))

    async def receive_into(self, *buffers: memoryview, sink: Sink | None = None) -> int:
        """Fill the start of some buffers, none of them empty, with the next bytes of the body; 0 at its end.

        Waits for as long as it takes. *Raises*: WireError, also when the connection ends before the body does.
        """
        if not self._rest and self._due is None:
            self._rest = memoryview(await self._next_data())
        if self._rest:
            count = await hand_over(self._rest, buffers, sink)
            self._rest = self._rest[count:]
            return count
        if not self._due:
            return 0
        with _failures():
            count = await self._connection.receive_into(list(cut(buffers, self._due)), sink)
        if count == 0:
            raise WireError("the connection was closed in mid-answer")
        self._due -= count
        return count

    def close(self) -> None:
        """Give the connection back where the answer was read to its end, else close it."""
        if self._due == 0 and not self._rest and self._reusable:
            self._pool.give_back(self._place, self._connection)
        else:
            self._connection.close()

    @property
    def unanswered(self) -> bool:
        """Whether this may be sent again: the connection was an idle one, and not a byte has come."""
        return self._reused and not self._heard

    def _frame(self, response: h11.Response, *, empty: bool) -> None:
        """Find out how the body ends, unless it is `empty` whatever is said; with a length, h11 is done with it."""
        headers = dict(response.headers)
        self._reusable = response.http_version >= b"1.1" and b"close" not in headers.get(b"connection", b"").lower()
        if empty or response.status_code in (204, 304):
            length = 0
        elif b"transfer-encoding" not in headers and b"content-length" in headers:
            length = int(headers[b"content-length"])  # h11 has checked that there is one, and that it is a number
        else:
            return
        early = self._http.trailing_data[0]  # what came along with the head
        self._rest = memoryview(early)[:length]
        self._due = length - len(self._rest)
        self._reusable &= len(early) <= length

    async def _next_data(self) -> bytes:
        """Return the next bytes of a body whose end h11 finds; none at the end, which is noted."""
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self._due = 0
        self._reusable &= self._http.their_state is h11.DONE and not self._http.trailing_data[0]
        return b""

    async def _next_event(self) -> h11.Event:
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Event):
                    return event
                if event is h11.PAUSED:
                    raise WireError("more than one answer came")
                piece = await self._receive(_HEAD_PIECE)
                if not piece and not self._heard:
                    raise Closed("the connection was closed instead of an answer")
                self._heard = True
                self._http.receive_data(piece)
        except h11.RemoteProtocolError as exc:
            raise WireError(f"not an HTTP answer ({_QUOTED.sub('', str(exc))})") from None

    async def _receive(self, most: int) -> bytes:
        with _failures():
            return await self._connection.receive(most)


class Pool:
    """Idle connections, by origin, and the making of new ones."""

    def __init__(self, trust: Trusted) -> None:
        self._trust = trust
        self._idle: list[tuple[float, Place, Connection]] = []  # those idle longest first

    async def exchange(
        self, place: Place, target: bytes, headers: Headers, method: str = "GET"
    ) -> tuple[Exchange, Head]:
        """Send a GET or a HEAD to an origin and return the exchange with the answer's head. *Raises*: WireError."""
        while True:
            connection = self._take(place) or await self._begun(place)
            reused = connection is not None
            exchange = Exchange(self, place, connection or await self._connect(place), reused=reused)
            try:
                return exchange, await exchange.begin(target, headers, method)
            except Closed:
                exchange.close()
                if not exchange.unanswered:
                    raise
            except BaseException:
                exchange.close()
                raise

    def give_back(self, place: Place, connection: Connection) -> None:
        """Take a connection that may be used again; close those, of any origin, that are idle for too long."""
        self._idle.append((time.monotonic(), place, connection))
        oldest = time.monotonic() - IDLE_FOR
        while self._idle[0][0] < oldest or len(self._idle) > IDLE_MAX:
            self._idle.pop(0)[2].close()

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop()[2].close()

    def _take(self, place: Place) -> Connection | None:
        """Return an origin's connection used last, unless it is idle for too long or its server has closed it."""
        oldest = time.monotonic() - IDLE_FOR
        for number in reversed(range(len(self._idle))):
            since, there, connection = self._idle[number]
            if there != place:
                continue
            del self._idle[number]
            if since >= oldest and not connection.has_news():
                return connection
            connection.close()
        return None

    async def _connect(self, place: Place) -> Connection:
        try:
            with _InTime(CONNECT_TIMEOUT, "no connection"):
                return await self._connected(place)
        except WireError as exc:
            raise Unconnected(*exc.args) from exc

    async def _connected(self, place: Place) -> Connection:
        _, host, port = place
        try:
            connection = await Connection.open(host, port)
        except OSError as exc:
            raise WireError(f"cannot connect: {words(exc)}{_remedy(exc)}") from exc
        return await self._secured(connection, place)

    async def _begun(self, place: Place) -> Connection | None:
        """Return the connection that was begun early; None where there is none, or none that is any good in time."""
        _, host, port = place
        on_its_way = early.begun(host, port)
        if on_its_way is None:
            return None
        try:
            if not on_its_way.settled:
                await trio.to_thread.run_sync(on_its_way.wait, EARLY_WITHIN, abandon_on_cancel=True)
        except BaseException:
            on_its_way.drop()
            raise
        taken = on_its_way.take()
        with suppress(WireError), _InTime(CONNECT_TIMEOUT, "no connection"):
            return None if taken is None else await self._secured(Connection(taken), place)
        return None

    async def _secured(self, connection: Connection, place: Place) -> Connection:
        """Return a new connection when it can be used: with TLS, where that is wanted."""
        scheme, host, _ = place
        if scheme == "http":
            return connection
        try:
            await connection.secure(self._trust(place), host)
        except OSError as exc:
            connection.close()
            raise WireError(f"no TLS connection: {words(exc)}") from exc
        except BaseException:
            connection.close()
            raise
        return connection


class Lookups(trio.abc.HostnameResolver):
    """Name look-ups on threads of their own.

    libc's take as long as they like, 10 s and more for a silent name server, and go on in their thread when nobody
    waits any longer. On trio's 40 shared threads a few dozen dead names would stop every read of the disk.
    """

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(LOOKUPS_MAX)

    async def getaddrinfo(
        self, host: bytes | None, port: bytes | str | int | None, family: int = 0, type: int = 0,  # noqa: A002
        proto: int = 0, flags: int = 0,
    ) -> Any:  # fmt: skip
        """As socket.getaddrinfo. *Cancellation*: at any time; the thread goes on to its end."""
        look = partial(socket.getaddrinfo, host, port, family, type, proto, flags)
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=self._limiter)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """As socket.getnameinfo; we ask for none, but whose run it is may."""
        return await trio.to_thread.run_sync(
            socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True, limiter=self._limiter
        )


class _InTime:
    """Bound a wait, and turn its failures into WireError. *Units*: seconds."""

    def __init__(self, seconds: float, what: str) -> None:
        self._scope = trio.move_on_after(seconds)
        self._failures = _failures()
        self._text = f"{what} for {seconds:g} s"

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        self._scope.__exit__(kind, exc, traceback)  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise WireError(self._text) from None
        self._failures.__exit__(kind, exc, traceback)


class _failures:  # noqa: N801 - reads as the context manager it is
    """Turn the system's errors into WireError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, OSError):
            raise Closed(f"the connection failed: {words(exc)}") from exc


def _remedy(exc: OSError) -> str:
    """Say what to do about an origin that cannot be connected to."""
    if isinstance(exc, socket.gaierror):
        return "; check the host in the URL, and the name server of this one"
    return "; check the host and the port in the URL, and whether its server runs"


def words(exc: BaseException) -> str:
    """Return the operating system's words for what happened, where there are some."""
    if isinstance(exc, BaseExceptionGroup):
        return words(exc.exceptions[0])
    if isinstance(exc, ssl.SSLCertVerificationError):
        of_another = exc.verify_code in _OF_ANOTHER_NAME
        remedy = "; use a name that it is for" if of_another else "; name its authority with --ca-file"
        return f"certificate not trusted ({exc.verify_message.rstrip('.')}){remedy}"
    if isinstance(exc, ssl.SSLError):
        reason = (exc.reason or "TLS failed").lower().replace("_", " ")
        return reason + ("; is it http:// that is spoken there?" if reason in _NOT_TLS else "")
    if isinstance(exc, OSError) and not isinstance(exc, socket.gaierror) and exc.errno:
        return os.strerror(exc.errno)  # trio's own words repeat the address
    if isinstance(exc, OSError) and exc.__cause__ is not None:
        return words(exc.__cause__)
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
