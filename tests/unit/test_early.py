"""A connection that was begun before there was anything to use it with: the first request takes it, or does without."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio

from lazyfs.origin import early, wire
from lazyfs.origin.securing import Trust

HOST = "127.0.0.1"

Answer = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Leave nothing for the next test."""
    yield
    early.forget()


def no_trust(_place: wire.Place) -> Trust:
    """There is no TLS here."""
    raise AssertionError


async def ask(port: int) -> int:
    """Send a request by a pool of its own and return the status of its answer."""
    pool = wire.Pool(no_trust)
    exchange, head = await pool.exchange(("http", HOST, port), b"/", [(b"host", b"example.org")])
    exchange.close()
    pool.close()
    return head.status


async def answer(stream: trio.SocketStream) -> None:
    """Answer one request."""
    async with stream:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        await stream.receive_some()


def asked(answers: list[Answer]) -> int:
    """Begin a connection to a server that does these things, one with each, and then ask it."""

    async def main() -> int:
        async with trio.open_nursery() as nursery:

            async def serve(stream: trio.SocketStream) -> None:
                await answers.pop(0)(stream)

            (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HOST))
            port = listener.socket.getsockname()[1]
            early.begin(HOST, port)
            status = await ask(port)
            nursery.cancel_scope.cancel()
        return status

    return trio.run(main)


def test_the_first_request_goes_over_it() -> None:
    answers: list[Answer] = [answer]
    assert asked(answers) == 204
    assert answers == []


def test_one_that_its_server_has_closed_is_not_used() -> None:
    answers: list[Answer] = [trio.SocketStream.aclose, answer]
    assert asked(answers) == 204
    assert answers == []


def test_one_that_failed_says_nothing() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    early.begin(HOST, port)
    with pytest.raises(wire.Unconnected, match="cannot connect: Connection refused"):
        trio.run(ask, port)


def test_one_that_is_late_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "EARLY_WITHIN", 0.01)
    block = threading.Event()
    monkeypatch.setattr(early.Early, "_connect", lambda _self: block.wait())
    answers: list[Answer] = [answer]
    try:
        assert asked(answers) == 204
    finally:
        block.set()


def test_what_nobody_wants_is_closed() -> None:
    with socket.create_server((HOST, 0)) as server:
        early.begin(HOST, server.getsockname()[1])
        peer, _ = server.accept()
        with peer:
            early.forget()
            assert peer.recv(1) == b""
            assert early.begun(HOST, server.getsockname()[1]) is None
