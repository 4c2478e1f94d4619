"""What tests of the client share: a client, and what is asked of the misbehaving origin through it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import trio
import trio.testing

from lazyfs.counters import Counters
from lazyfs.errors import (
    OriginFailing,
    OriginUnreachable,
)
from lazyfs.extents import Extent
from lazyfs.origin.client import Client, ClientOptions
from lazyfs.versions import Version
from tests.servers import MisbehavingOrigin

BLOB = "random-1M-x"
PIECE = Extent(100_000, 300_000)


@asynccontextmanager
async def client(options: ClientOptions | None = None) -> AsyncIterator[Client]:
    async with trio.open_nursery() as nursery:
        made = Client(options or ClientOptions(hedge=0), Counters(), nursery)
        try:
            yield made
        finally:
            await made.aclose()
            nursery.cancel_scope.cancel()


async def pinned(asker: Client, url: str) -> Version:
    found = await asker.probe(url)
    assert found is not None
    return found.version


async def fetch(asker: Client, url: str, version: Version, extent: Extent = PIECE) -> bytes:
    """Return what the origin sends for a run of bytes."""
    async with aclosing(await asker.ask(url, extent, version)) as answer:
        assert answer.body.extent == extent
        body, length = bytearray(len(extent) + 1), 0
        while length < len(body) and (count := await answer.receive_into(memoryview(body)[length:])):
            length += count
        return bytes(body[:length])


@asynccontextmanager
async def saying(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Give one answer after the other, to the letter; yield the URL and the heads of the requests."""
    left, heads = iter(answers), list[bytes]()

    async def serve(stream: trio.SocketStream) -> None:
        while head := await stream.receive_some():
            heads.append(head)
            await stream.send_all(next(left))

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/x", heads
        nursery.cancel_scope.cancel()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(60):
            await main()

    trio.run(bounded)


async def until_left_alone(asker: Client, url: str) -> str:
    """Ask until nobody is let through any more; return what is said then."""
    while True:
        try:
            with trio.move_on_after(0.3):
                await asker.probe(url)
        except OriginFailing as exc:
            return exc.reason
        except OriginUnreachable:
            await trio.sleep(0.05)


def expected(origin: MisbehavingOrigin, version: int = 1) -> bytes:
    return origin.expected(BLOB, PIECE.start, PIECE.stop, version=version)


def count(origin: MisbehavingOrigin, url: str, status: int) -> int:
    """How often the origin gave this status at a URL's path."""
    return int(origin.stats(url)["statuses"].get(str(status), 0))
