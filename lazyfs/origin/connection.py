"""A connection that never blocks the event loop, plain or TLS: bytes go from the socket into the caller's buffers.

trio's streams hand out a new piece of bytes for whatever has come, for TLS one for each record of 16 KiB that went
through memory before. Here OpenSSL reads from the socket itself, and what is large is received in a worker thread, so
that the event loop neither copies nor decrypts it: in C, for up to 4 MiB without Python's lock, where that was built
(native/filling.h), else in Python.

*Source*: socket(7); the ssl module's notes on non-blocking sockets.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

from lazyfs.buffers import advance, put
from lazyfs.native import receiving
from lazyfs.native.receiving import Receive
from lazyfs.origin.securing import Secured, Trust

SOON: Final = 0.05
"""Seconds after which what has come is handed out, although there is room for more."""

AT_ONCE: Final = 4
"""Buffers that are filled in one go: of 256 KiB they stay in the CPU's cache until they are where they belong."""

_TIMEVAL: Final = struct.Struct("@ll")

_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Wait = Callable[[socket.socket | Secured], Awaitable[None]]

T = TypeVar("T")

_receivers = trio.CapacityLimiter(512)
"""Of their own: what they do with the bytes may take as long as a disk likes, and must not keep others from theirs."""


class Sink(Protocol):
    """Where a body goes: whoever has the buffers, and does something with the bytes as they come."""

    spent: float
    """Seconds that this has taken so far: they are not the origin's."""

    def filled(self, count: int) -> None:
        """Hear of more bytes that are in place, in a worker thread when a buffer is full; none come meanwhile."""

    def receive(self, receive: Receive, most: int, seconds: float) -> tuple[int, int]:
        """Fill the buffers in C with so many bytes at the most, for about so long, in a worker thread.

        Returns how many came, and an errno: 0 when they are full, or at the end.
        """


class Connection:
    """A connected socket. What waits for its peer may be cancelled at any time; then close it.

    *Raises*: OSError, of which ssl.SSLError is one, when it fails.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        # For the worker threads, in which it blocks.
        for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connected.setsockopt(socket.SOL_SOCKET, limit, _TIMEVAL.pack(0, int(SOON * 1e6)))
        self._socket: socket.socket | Secured = connected

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect."""
        stream = await trio.open_tcp_stream(host, port)
        return cls(socket.socket(fileno=stream.socket.detach()))

    async def secure(self, trust: Trust, host: str) -> None:
        """Shake hands for TLS."""
        assert isinstance(self._socket, socket.socket)
        self._socket = secured = trust.secure(self._socket, host)
        await self._when_ready(secured.do_handshake, trio.lowlevel.wait_readable)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def has_news(self) -> bool:
        """Say whether there is anything to be read: of an idle one its end, or what would pass for an answer."""
        if self._decrypted():
            return True
        plain = self._socket.plain if isinstance(self._socket, Secured) else self._socket
        try:
            socket.socket.recv(plain, 1, socket.MSG_PEEK)  # what lies in the socket, also for TLS
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
        return await self._when_ready(partial(self._socket.recv, most), trio.lowlevel.wait_readable)

    async def receive_into(self, buffers: Sequence[memoryview], sink: Sink | None = None) -> int:
        """Fill the start of some buffers, none of them empty, and return how many bytes came; 0 at the end.

        Waits as long as it takes, for any. With `sink`, which hears of them as they come, it goes on in a worker
        thread until all are full, or for `SOON`.
        """
        if sink is None:
            count = await self._when_ready(partial(self._take, buffers), trio.lowlevel.wait_readable)
            await trio.lowlevel.cancel_shielded_checkpoint()  # a body may come as fast as it is taken
            return count
        await trio.lowlevel.checkpoint_if_cancelled()
        why: OSError | None = None if self._decrypted() else BlockingIOError()
        while True:
            if why is not None:
                await self._ready(why, trio.lowlevel.wait_readable)
            count, why = await trio.to_thread.run_sync(self._take_while, list(buffers), sink, limiter=_receivers)
            if count or why is None:
                return count  # what is wrong with the connection, if anything is, will be so the next time
            if not isinstance(why, _NOT_NOW):
                raise why

    def _take_while(self, rest: list[memoryview], sink: Sink) -> tuple[int, OSError | None]:
        """Fill buffers for `SOON`; return how much came, and why not more: None when they are full, or at the end.

        Runs in a worker thread, in which the socket does block.
        """
        by_ssl_module = isinstance(self._socket, ssl.SSLSocket)
        take = self._take_records if by_ssl_module else self._take_all
        count, until = 0, time.monotonic() + SOON
        self._socket.settimeout(SOON if by_ssl_module else None)
        try:
            if (receive := self._receive_in_c()) is not None:
                count, failure = sink.receive(receive, sum(map(len, rest)), SOON)
                return count, OSError(failure, os.strerror(failure)) if failure else None
            while rest:
                came = take(rest)
                if not came:
                    break
                count += came
                advance(rest, came)
                sink.filled(came)
                if rest and time.monotonic() >= until:
                    return count, BlockingIOError()
        except TimeoutError:
            return count, BlockingIOError()
        except OSError as why:
            return count, why
        finally:
            self._socket.settimeout(0)
        return count, None

    def _receive_in_c(self) -> Receive | None:
        if isinstance(self._socket, Secured):
            return self._socket.receive
        return None if isinstance(self._socket, ssl.SSLSocket) else receiving.from_socket(self._socket.fileno())

    def _take_all(self, rest: Sequence[memoryview]) -> int:
        """Fill some buffers, as far as it gets within `SOON`; 0 at the end."""
        assert isinstance(self._socket, socket.socket)
        return self._socket.recvmsg_into(rest[:AT_ONCE], 0, socket.MSG_WAITALL)[0]

    def _take_records(self, rest: Sequence[memoryview]) -> int:
        """Fill the first buffer from TLS records of 16 KiB, as far as it gets within `SOON`; 0 at the end."""
        count, until = 0, time.monotonic() + SOON
        with contextlib.suppress(TimeoutError):
            while (came := self._socket.recv_into(rest[0][count:])) and count + came < len(rest[0]):
                count += came
                if time.monotonic() >= until:
                    return count
            return count + came
        if not count:
            raise TimeoutError
        return count

    def _take(self, rest: Sequence[memoryview]) -> int:
        """Fill the start of the first buffer with what is here, for TLS a record at the most; 0 at the end."""
        return self._socket.recv_into(rest[0])

    def _decrypted(self) -> int:
        """Return how many bytes have come that are no longer in the socket, or that there are some."""
        return self._socket.pending() if isinstance(self._socket, (ssl.SSLSocket, Secured)) else 0

    async def _when_ready(self, step: Callable[[], T], wait: Wait) -> T:
        """Do a step once the socket lets us; when it does at once, no other task runs meanwhile."""
        await trio.lowlevel.checkpoint_if_cancelled()
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


async def hand_over(content: bytes | memoryview, buffers: Sequence[memoryview], sink: Sink | None = None) -> int:
    """Do with bytes that are here already what `receive_into` does with those that come."""
    if count := put(buffers, content):
        if sink is not None and count >= len(buffers[0]):
            await trio.to_thread.run_sync(sink.filled, count, limiter=_receivers)
        elif sink is not None:  # no buffer is full, so there is nothing to do
            sink.filled(count)
    return count
