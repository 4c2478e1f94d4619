"""The metrics' server: right answers, and nobody who asks costs more than its bounds."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from lazyfs.errors import UsageError
from lazyfs.metrics_server import (
    CONNECTIONS,
    FRESH_FOR,
    HEAD_MAX,
    PATIENCE,
    PAUSE,
    Paced,
    Reply,
    Scrapes,
    is_no_name,
    listen,
    place_of,
    serve,
)
from tests.fakes import run

GET = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"

Stream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


class Server:
    """A server of a page that counts how often it was made."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.made = 0
        self._scrapes = Scrapes(self._page, "text/plain")
        self._nursery = nursery

    def _page(self) -> bytes:
        self.made += 1
        return b"page %d\n" % self.made

    def connect(self) -> Stream:
        """Return a client's end of a new connection."""
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._scrapes.answer, ours)
        return theirs

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the whole answer."""
        stream = self.connect()
        await stream.send_all(request)
        answer = await received(stream)
        await stream.aclose()
        return answer


async def received(stream: Stream) -> bytes:
    """Return all that comes until the other side has ended."""
    answer = b""
    while piece := await stream.receive_some():
        answer += piece
    return answer


def served(test: Callable[[Server], Awaitable[None]]) -> None:
    """Run a test with a server, on a clock that jumps."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await test(Server(nursery))
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (GET, 200, b"page 1\n"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200, b"page 1\n"),
        (b"GET / HTTP/1.0\r\n\r\n", 404, b"the metrics are at /metrics\n"),
        (b"GET /metrics?name[]=x HTTP/1.1\r\nHost: h\r\n\r\n", 200, b"page 1\n"),
        (b"HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n", 200, b""),
        (b"GET /etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", 404, b"the metrics are at /metrics\n"),
        (b"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n", 405, b"GET or HEAD\n"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400, b"not a request\n"),  # without Host
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, b"not a request\n"),  # TLS
        (GET[:-2] + b"X: " + b"x" * HEAD_MAX * 2, 431, b"not a request\n"),
    ],
)
def test_each_request_has_its_answer(request_: bytes, status: int, body: bytes) -> None:
    async def test(server: Server) -> None:
        head, _, rest = (await server.ask(request_)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d" % status)
        assert b"connection: close" in head.lower()
        assert rest == body
        assert b"content-type: text/plain" in head.lower()

    served(test)


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1:9100", True), ("127.0.0.1", True), ("[::1]:9100", True), ("[::1]", True), ("192.168.0.7:1", True),
        ("localhost:9100", True), ("LocalHost", True), ("", True),
        ("attacker.example:9100", False), ("127.0.0.1.attacker.example", False), ("localhost.example:1", False),
        ("[attacker.example]:1", False), ("::1", False), ("127.0.0.1:1:2", False), ("0x7f.1", False),
    ],
)  # fmt: skip
def test_on_loopback_only_addresses_and_localhost_are_answered(host: str, answered: bool) -> None:
    assert is_no_name(host) == answered

    async def site(target: str) -> Reply:
        return Reply(200, "text/html", target.encode(), ((b"X-More", b"1"),))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for path in ("/metrics", "/", "/api/state?x=1"):
                scrapes = Scrapes(lambda: b"page\n", "text/plain", site, guarded=True)
                ours, theirs = memory_stream_pair()
                nursery.start_soon(scrapes.answer, ours)
                await theirs.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                head, _, body = (await received(theirs)).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200" if answered else b"HTTP/1.1 421")
                if answered:
                    assert body == (b"page\n" if path == "/metrics" else path.encode())
            nursery.cancel_scope.cancel()

    run(main)


def test_a_page_is_made_once_for_all_who_ask_at_a_time() -> None:
    async def test(server: Server) -> None:
        for _ in range(50):
            assert (await server.ask(GET)).endswith(b"page 1\n")
        await trio.sleep(FRESH_FOR)
        assert (await server.ask(GET)).endswith(b"page 2\n")

    served(test)


@pytest.mark.parametrize("begun", [b"", GET[:-1], GET])
def test_who_is_slow_is_left_after_a_while(begun: bytes) -> None:
    async def test(server: Server) -> None:
        stream, began = server.connect(), trio.current_time()
        await stream.send_all(begun)
        if begun == GET:
            await wait_all_tasks_blocked()  # it has its answer, and never says that it has
        await received(stream)
        while True:  # until nobody reads what is sent
            try:
                await stream.send_all(b"x")
            except trio.BrokenResourceError:
                break
            await trio.sleep(0.1)
        assert trio.current_time() - began <= PATIENCE + 1

    served(test)


def test_a_crowd_that_says_nothing_keeps_nobody_out() -> None:
    async def test(server: Server) -> None:
        crowd = [server.connect() for _ in range(3 * CONNECTIONS)]
        await wait_all_tasks_blocked()
        assert (await server.ask(GET)).endswith(b"page 1\n")
        left = 0
        for stream in crowd:
            with trio.move_on_after(0.01) as waited:
                assert await received(stream) == b""
            left += waited.cancelled_caught
        assert left < CONNECTIONS, "and the others were sent away"

    served(test)


def test_a_flood_of_connections_is_let_in_by_and_by() -> None:
    class Flood(trio.abc.Listener[trio.abc.HalfCloseableStream]):
        async def accept(self) -> trio.abc.HalfCloseableStream:
            await trio.lowlevel.checkpoint()
            return memory_stream_pair()[0]

        async def aclose(self) -> None:
            pass

    async def main() -> None:
        listener, began = Paced(Flood()), trio.current_time()
        for _ in range(100):
            await (await listener.accept()).aclose()
        assert trio.current_time() - began >= 100 * PAUSE * 0.999

    run(main)


def test_a_page_that_cannot_be_made_ends_nothing() -> None:
    def page() -> bytes:
        raise ValueError("planted")

    async def main() -> None:
        scrapes = Scrapes(page, "text/plain")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                ours, theirs = memory_stream_pair()
                nursery.start_soon(scrapes.answer, ours)
                await theirs.send_all(GET)
                assert await received(theirs) == b""

    run(main)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_it_is_reached_where_it_says(address: str) -> None:
    async def main() -> None:
        listening = listen(address, 0)
        place = place_of(listening)
        assert place.rpartition(":")[0] == (f"[{address}]" if ":" in address else address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listening, lambda: b"page\n", "text/plain")
            stream = await trio.open_tcp_stream(address, int(place.rpartition(":")[2]))
            async with stream:
                await stream.send_all(GET.replace(b"h\r", b"localhost\r"))
                answer = b"".join([piece async for piece in stream])
            assert answer.endswith(b"page\n")
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as raised:
            listen("127.0.0.1", port)
    assert str(raised.value) == (
        f"the metrics cannot be served at 127.0.0.1:{port}: Address already in use; "
        "name another place with --metrics, or port 0 for any that is free"
    )
