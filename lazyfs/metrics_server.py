"""Serves metrics over HTTP/1.1 to whoever scrapes them, and a site to people, from the daemon's own loop.

Scrapers may be slow, or mean harm; none of them costs the mount more than these bounds: CONNECTIONS at a time, of which
the oldest makes room for the next; one in PAUSE; PATIENCE for a request and its answer together; HEAD_MAX bytes of a
request; metrics made once in FRESH_FOR, for all who ask meanwhile. A connection has one request.

Who listens on loopback answers only those who ask for it by an address, or as localhost: the page of a stranger may
have its own name lead here, and would then be allowed to read what it gets.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

import h11
import trio

from lazyfs import urls
from lazyfs.errors import UsageError

log = logging.getLogger(__name__)

CONNECTIONS: Final = 16

PAUSE: Final = 0.02
"""Seconds between two connections that are accepted: without it, 2,500 scrapes a second made reads take five times as
long."""

PATIENCE: Final = 10.0
"""Seconds for a request and its answer."""

HEAD_MAX: Final = 16 * 1024
"""Bytes in the head of a request."""

FRESH_FOR: Final = 0.2
"""Seconds for which metrics are given to others, too."""

METRICS: Final = "/metrics"

_DRAINED: Final = 64 * 1024
"""Bytes of a refused request that are read, so that the refusal is not lost in a reset."""

Page = Callable[[], bytes]


class Reply(NamedTuple):
    """An answer, but for what all of them have."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


Site = Callable[[str], Awaitable[Reply]]
"""Answers a request for anything but the metrics: its path, and its query if there is one, as they were sent."""

Stream = trio.abc.HalfCloseableStream


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens at a numeric address. *Raises*: UsageError with one line."""
    shown = urls.host_and_port(address, port)
    try:
        return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    except OSError as exc:
        reason = f"the metrics cannot be served at {shown}: {os.strerror(exc.errno) if exc.errno else exc}"
        raise UsageError(f"{reason}; name another place with --metrics, or port 0 for any that is free") from exc


def place_of(listening: socket.socket) -> str:
    """Return where a socket listens, as `status` shows it."""
    return urls.host_and_port(*listening.getsockname()[:2])


def is_loopback(listening: socket.socket) -> bool:
    """Say whether only this host can reach a socket."""
    address = str(listening.getsockname()[0])
    return address == "::1" or address.startswith("127.")


def is_no_name(host: str) -> bool:
    """Say whether what a request has in `Host` is an address, localhost or nothing, with or without a port."""
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name = host
    if name.startswith("[") and name.endswith("]"):
        family, name = socket.AF_INET6, name[1:-1]
    else:
        family = socket.AF_INET
    try:
        socket.inet_pton(family, name)
    except OSError:
        return name.lower() in ("localhost", "")
    return True


async def serve(listening: socket.socket, page: Page, content_type: str, site: Site | None = None) -> None:
    """Serve until cancelled."""
    scrapes = Scrapes(page, content_type, site, guarded=is_loopback(listening))
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    await trio.serve_listeners(scrapes.answer, [Paced(listener)])


class Paced(trio.abc.Listener[Stream]):
    """Takes its time between two connections; meanwhile they wait with the kernel."""

    def __init__(self, listener: trio.abc.Listener[Stream]) -> None:
        self._listener = listener

    async def accept(self) -> Stream:
        """Accept a connection."""
        await trio.sleep(PAUSE)
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Accept no more."""
        await self._listener.aclose()


class Scrapes:
    """The connections there are, the metrics, and the site beside them; `guarded` is one that answers to no name."""

    def __init__(self, page: Page, content_type: str, site: Site | None = None, *, guarded: bool = False) -> None:
        self._make = page
        self._content_type = content_type
        self._site = site
        self._guarded = guarded
        self._page, self._until = b"", -1.0
        self._scopes: list[trio.CancelScope] = []  # of the connections, the oldest first

    async def answer(self, stream: Stream) -> None:
        """Answer one connection. *Raises*: nothing, since that would end the mount."""
        with trio.move_on_after(PATIENCE) as scope:
            self._scopes.append(scope)
            if len(self._scopes) > CONNECTIONS:
                self._scopes.pop(0).cancel()
            try:
                async with stream:
                    await self._answer(stream)
            except trio.BrokenResourceError:
                pass
            except Exception:
                log.exception("an unforeseen failure while metrics were served")
            finally:
                if scope in self._scopes:
                    self._scopes.remove(scope)

    async def _answer(self, stream: Stream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
        try:
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some()))
        except h11.RemoteProtocolError as exc:
            await _send(stream, http, _words(exc.error_status_hint, "not a request"))
            return
        if isinstance(event, h11.Request):  # else it has gone
            await _send(stream, http, await self._reply(event), head_only=event.method == b"HEAD")

    async def _reply(self, request: h11.Request) -> Reply:
        host = next((value for name, value in request.headers if name == b"host"), b"").decode("latin-1")
        target = request.target.decode("latin-1")
        if self._guarded and not is_no_name(host):
            return _words(421, "ask for this by an address, or as localhost")
        if request.method not in (b"GET", b"HEAD"):
            return _words(405, "GET or HEAD", (b"Allow", b"GET, HEAD"))
        if target.partition("?")[0] == METRICS:
            return Reply(200, self._content_type, self._now())
        if self._site is None:
            return _words(404, "the metrics are at /metrics")
        return await self._site(target)

    def _now(self) -> bytes:
        if trio.current_time() >= self._until:
            self._page, self._until = self._make(), trio.current_time() + FRESH_FOR
        return self._page


def _words(status: int, words: str, *headers: tuple[bytes, bytes]) -> Reply:
    return Reply(status, "text/plain; charset=utf-8", f"{words}\n".encode(), headers)


async def _send(stream: Stream, http: h11.Connection, reply: Reply, *, head_only: bool = False) -> None:
    """Send an answer, and wait until the other side has taken it."""
    length = (b"Content-Length", str(len(reply.body)).encode())
    kind = (b"Content-Type", reply.content_type.encode())
    headers = [kind, (b"X-Content-Type-Options", b"nosniff"), *reply.headers, length, (b"Connection", b"close")]
    events: list[h11.Event] = [h11.Response(status_code=reply.status, headers=headers)]
    events += [] if head_only else [h11.Data(data=reply.body)]
    await stream.send_all(b"".join(http.send(event) or b"" for event in [*events, h11.EndOfMessage()]))
    with suppress(trio.BrokenResourceError):
        await stream.send_eof()
        drained = 0
        while drained < _DRAINED and (piece := await stream.receive_some()):
            drained += len(piece)
