"""A connection that never blocks the event loop, plain or TLS: bytes go from the socket into the caller's buffers.

trio's streams hand out a new piece of bytes for whatever has come, for TLS one for each record of 16 KiB that went
through memory before. Here the kernel is told how much is wanted (SO_RCVLOWAT), so it wakes us once for some blocks
instead of once for each segment, and OpenSSL reads from the socket itself.

*Source*: socket(7); the ssl module's notes on non-blocking sockets.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from lazyfs.buffers import advance

SOON: Final = 0.05
"""Seconds after which what has come is handed out, although there is room for more."""

WORTH_A_THREAD: Final = 512 * 1024
"""Bytes; the event loop has other things to do than to copy as many out of the kernel, or to decrypt them."""

_receivers = trio.CapacityLimiter(8)
"""Of their own: the threads that all share may all wait for a disk."""

_RECORDS: Final = 32 * 1024
"""Bytes that OpenSSL may have taken from the socket and not handed out: a record's, and to spare."""

_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Wait = Callable[[socket.socket], Awaitable[None]]

T = TypeVar("T")


class Connection:
    """A connected socket. What waits for its peer may be cancelled at any time; then close it.

    *Raises*: OSError, of which ssl.SSLError is one, when it fails.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._wanted = 1  # bytes in the socket before the kernel calls it readable

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect."""
        stream = await trio.open_tcp_stream(host, port)
        return cls(socket.socket(fileno=stream.socket.detach()))

    async def secure(self, trust: ssl.SSLContext, host: str) -> None:
        """Shake hands for TLS."""
        secured = trust.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._socket = secured
        await self._when_ready(secured.do_handshake, trio.lowlevel.wait_readable)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def has_news(self) -> bool:
        """Say whether there is anything to be read: of an idle one its end, or what would pass for an answer."""
        if self._decrypted():
            return True
        try:
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)  # what lies in the socket, also for TLS
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def send_all(self, message: bytes) -> None:
        """Send a whole message."""
        while message:
            sent = await self._when_ready(partial(self._socket.send, message), trio.lowlevel.wait_writable)
            message = message[sent:]

    async def receive(self, most: int) -> bytes:
        """Return the next bytes, so many at the most; none at the end."""
        self._want(1)
        return await self._when_ready(partial(self._socket.recv, most), trio.lowlevel.wait_readable)

    async def receive_into(self, buffers: Sequence[memoryview]) -> int:
        """Fill buffers one after the other, and return how many bytes came; 0 at the end.

        Waits for the first byte as long as it takes, and returns when all are full, at the end, or with what has come
        after `SOON`. None may be empty.
        """
        rest, count = list(buffers), 0
        until = trio.current_time() + SOON
        await trio.lowlevel.checkpoint_if_cancelled()
        why: OSError | None = None if self._decrypted() else BlockingIOError()
        while True:
            if why is not None:
                await self._wait_for(rest, until, why)
            came, why = await self._taken(rest)
            count += came
            if why is None or (count and (trio.current_time() >= until or not isinstance(why, _NOT_NOW))):
                return count  # what is wrong with the connection, if anything is, will be so the next time
            if not isinstance(why, _NOT_NOW):
                raise why

    async def _taken(self, rest: list[memoryview]) -> tuple[int, OSError | None]:
        """Do `_take`, in a thread if it may be much: to copy a MiB out of the kernel takes as long as 50 wake-ups."""
        if sum(map(len, rest)) < WORTH_A_THREAD:
            return self._take(rest)
        return await trio.to_thread.run_sync(self._take, rest, limiter=_receivers)

    def _take(self, rest: list[memoryview]) -> tuple[int, OSError | None]:
        """Fill what is left to fill with what is here; return how much that was, and why not more: None at the end."""
        count = 0
        while rest:
            try:
                if isinstance(self._socket, ssl.SSLSocket):
                    came = self._socket.recv_into(rest[0])
                else:
                    came = self._socket.recvmsg_into(rest)[0]
            except OSError as why:
                return count, why
            if not came:
                break
            count += came
            advance(rest, came)
        return count, None

    def _decrypted(self) -> int:
        """Return how many bytes have come that are no longer in the socket."""
        return self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0

    async def _wait_for(self, rest: Sequence[memoryview], until: float, why: OSError) -> None:
        """Wait for all that is lacking, or until then for a part of it, or longer for any."""
        if trio.current_time() < until:
            self._want(sum(map(len, rest)) - (_RECORDS if isinstance(self._socket, ssl.SSLSocket) else 0))
        else:
            self._want(1)
            until = math.inf
        with trio.move_on_at(until):
            await self._ready(why, trio.lowlevel.wait_readable)

    def _want(self, wanted: int) -> None:
        """Have the socket called readable when so many bytes are in it, at least one, or when it has ended."""
        wanted = max(1, wanted)
        if wanted != self._wanted:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            self._wanted = wanted

    async def _when_ready(self, step: Callable[[], T], wait: Wait) -> T:
        """Do a step once the socket lets us."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return step()
            except _NOT_NOW as why:
                await self._ready(why, wait)

    async def _ready(self, why: OSError, wait: Wait) -> None:
        """Wait for what the socket lacked; TLS may have to send before it can receive, and the other way round."""
        if isinstance(why, ssl.SSLWantReadError):
            wait = trio.lowlevel.wait_readable
        elif isinstance(why, ssl.SSLWantWriteError):
            wait = trio.lowlevel.wait_writable
        await wait(self._socket)
