"""Serves one page over HTTP/1.1 to whoever scrapes it, from the daemon's own loop.

Scrapers may be slow, or mean harm; none of them costs the mount more than these bounds: CONNECTIONS at a time, of which
the oldest makes room for the next; one in PAUSE; PATIENCE for a request and its answer together; HEAD_MAX bytes of a
request; one page made in FRESH_FOR, for all who ask meanwhile. A connection has one request.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import h11
import trio

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
"""Seconds for which a page is given to others, too."""

PATHS: Final = (b"/metrics", b"/")

_DRAINED: Final = 64 * 1024
"""Bytes of a refused request that are read, so that the refusal is not lost in a reset."""

Page = Callable[[], bytes]

Stream = trio.abc.HalfCloseableStream


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens at a numeric address. *Raises*: UsageError with one line."""
    shown = _shown(address, port)
    try:
        return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    except OSError as exc:
        reason = f"the metrics cannot be served at {shown}: {os.strerror(exc.errno) if exc.errno else exc}"
        raise UsageError(f"{reason}; name another place with --metrics, or port 0 for any that is free") from exc


def place_of(listening: socket.socket) -> str:
    """Return where a socket listens, as `status` shows it."""
    return _shown(*listening.getsockname()[:2])


def _shown(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


async def serve(listening: socket.socket, page: Page, content_type: str) -> None:
    """Serve until cancelled."""
    scrapes = Scrapes(page, content_type)
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
    """The connections there are, and the page."""

    def __init__(self, page: Page, content_type: str) -> None:
        self._make = page
        self._content_type = content_type.encode()
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
            await _send(stream, http, exc.error_status_hint, b"not a request\n")
            return
        if not isinstance(event, h11.Request):  # it has gone
            return
        if event.method not in (b"GET", b"HEAD"):
            await _send(stream, http, 405, b"GET or HEAD\n", (b"Allow", b"GET, HEAD"))
        elif event.target.partition(b"?")[0] not in PATHS:
            await _send(stream, http, 404, b"the metrics are at /metrics\n", head_only=event.method == b"HEAD")
        else:
            kind = (b"Content-Type", self._content_type)
            await _send(stream, http, 200, self._now(), kind, head_only=event.method == b"HEAD")

    def _now(self) -> bytes:
        if trio.current_time() >= self._until:
            self._page, self._until = self._make(), trio.current_time() + FRESH_FOR
        return self._page


async def _send(
    stream: Stream,
    http: h11.Connection,
    status: int,
    body: bytes,
    *headers: tuple[bytes, bytes],
    head_only: bool = False,
) -> None:
    """Send an answer, and wait until the other side has taken it."""
    fixed = [(b"Content-Length", str(len(body)).encode()), (b"Connection", b"close")]
    events: list[h11.Event] = [h11.Response(status_code=status, headers=[*headers, *fixed])]
    events += [] if head_only else [h11.Data(data=body)]
    await stream.send_all(b"".join(http.send(event) or b"" for event in [*events, h11.EndOfMessage()]))
    with suppress(trio.BrokenResourceError):
        await stream.send_eof()
        drained = 0
        while drained < _DRAINED and (piece := await stream.receive_some()):
            drained += len(piece)
