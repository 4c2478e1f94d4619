"""How many requests are under way, on which connections, and what is left of them."""

from __future__ import annotations

import contextlib
import gc
import os
import ssl
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from lazyfs import urls
from lazyfs.errors import (
    OriginBadAnswer,
    OriginError,
    OriginUnreachable,
)
from lazyfs.extents import Extent
from lazyfs.origin import slots, wire
from lazyfs.origin.client import ClientOptions
from lazyfs.origin.securing import Trust
from lazyfs.origin.transport import TransportOptions
from lazyfs.urgency import Urgency
from lazyfs.versions import Version
from tests.certificates import LOOPBACK, Authority
from tests.faults.asking import BLOB, PIECE, client, expected, fetch, pinned, run, saying
from tests.servers import MisbehavingOrigin


def test_an_origin_that_says_it_is_too_much_gets_less(origin: MisbehavingOrigin) -> None:
    url = origin.url("status=429@2-30,delay=20ms", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            here = asker._sender._slots[urls.origin_of(url)]
            here.limit.answered = lambda seconds, under_way: None  # type: ignore[method-assign]
            before = here.limit.value

            async def try_once() -> None:
                with contextlib.suppress(OriginError):
                    await fetch(asker, url, version)

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(try_once)
            assert here.limit.value <= before / 2
            assert not here._held

    run(main)


def test_no_more_requests_are_under_way_than_the_limit_allows(origin: MisbehavingOrigin) -> None:
    url = origin.url("delay=30ms", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            asker._sender._slots[urls.origin_of(url)].limit.value = 3.0
            asker._sender._slots[urls.origin_of(url)].limit.answered = lambda seconds, under_way: None  # type: ignore[method-assign]
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(fetch, asker, url, version)
            assert origin.stats(url)["peak"] == 3

    run(main)


def test_requests_to_one_origin_do_not_wait_for_those_to_another(origin: MisbehavingOrigin) -> None:
    url = origin.plain(BLOB)
    other = url.replace(origin.base, origin.other)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            async with aclosing(await asker.ask(url, PIECE, version)):
                asker._sender._slots[urls.origin_of(url)].limit.value = 1.0
                assert await fetch(asker, other, version) == expected(origin)
                assert asker._sender._slots[urls.origin_of(url)].limit.value == 1.0, "that was another one's"
                assert len(asker._sender._slots[urls.origin_of(url)]._held) == 1

    run(main)


def test_whatever_comes_shows_that_a_request_is_alive(origin: MisbehavingOrigin) -> None:
    """The head after a while, and each piece of the body: until then it may count as stalled."""
    url = origin.url("delay=50ms", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            began = trio.current_time()
            async with aclosing(await asker.ask(url, PIECE, version)) as answer:
                (slot,) = asker._sender._slots[urls.origin_of(url)]._held
                assert slot.heard_at >= began + 0.05
                before = trio.current_time()
                await answer.receive_into(memoryview(bytearray(100)))
                assert slot.heard_at >= before

    run(main)


def test_prefetch_gives_way_to_demand_between_two_pieces(
    origin: MisbehavingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "GIVES_WAY", 60.0)
    monkeypatch.setattr(slots, "STALLED", 60.0)
    url = origin.plain(BLOB)

    async def main() -> None:
        async with client() as asker, trio.open_nursery() as nursery:
            version = await pinned(asker, url)
            came = trio.Event()

            async def prefetch() -> None:
                async with aclosing(await asker.ask(url, PIECE, version, lambda: Urgency.PREFETCH)) as answer:
                    await answer.receive_into(memoryview(bytearray(100)))
                    came.set()

            async with aclosing(await asker.ask(url, PIECE, version)):
                nursery.start_soon(prefetch)
                while origin.stats(url)["requests"] < 3:
                    await trio.sleep(0.001)
                with trio.move_on_after(0.1):
                    await came.wait()
                assert not came.is_set()
            await came.wait()

    run(main)


# Connections that are used again.


@pytest.mark.parametrize(
    ("behaviour", "requests", "right"),
    [("drop@2-2", 3, True), ("drop-reused@2-", 3, True), ("drop@2-", 3, False), ("garbage@2-", 2, False)],
)
def test_what_an_idle_connection_did_not_answer_is_asked_once_more_at_once(
    origin: MisbehavingOrigin, behaviour: str, requests: int, right: bool
) -> None:
    url = origin.url(behaviour, BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            with contextlib.nullcontext() if right else pytest.raises(OriginUnreachable):
                assert await fetch(asker, url, version) == expected(origin)

    run(main)
    assert origin.stats(url)["requests"] == requests


def test_what_a_fresh_connection_did_not_answer_is_a_failure(origin: MisbehavingOrigin) -> None:
    url = origin.url("drop", BLOB)

    async def main() -> None:
        async with client() as asker:
            with pytest.raises(OriginUnreachable, match="closed instead of an answer"):
                await pinned(asker, url)

    run(main)
    assert origin.stats(url)["requests"] == 1


@pytest.mark.parametrize("behaviour", ["extra@1", "stall-body=5@1", "short=2@1"])
def test_a_connection_is_used_again_only_after_an_answer_and_nothing_else(
    origin: MisbehavingOrigin, behaviour: str
) -> None:
    url = origin.url(behaviour, BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, origin.plain(BLOB))
            async with aclosing(await asker.ask(url, Extent(0, 9), version)) as answer:
                assert await answer.receive_into(memoryview(bytearray(9)))
            with trio.fail_after(10):
                assert await fetch(asker, url, version) == expected(origin)

    run(main)
    assert origin.stats()["connections"]["total"] == 2


def test_what_an_idle_connection_says_unasked_is_no_answer(origin: MisbehavingOrigin) -> None:
    """Some servers send a 408 before they close it."""

    async def main() -> None:
        closed, requests = trio.Event(), 0

        async def answer(stream: trio.SocketStream) -> None:
            nonlocal requests
            await stream.receive_some()
            requests += 1
            await stream.send_all(b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n\r\nx")
            if requests == 1:
                await looked.wait()
                await stream.send_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
                closed.set()

        looked = trio.Event()
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/x"
        async with trio.open_nursery() as nursery, client() as asker:
            nursery.start_soon(trio.serve_listeners, answer, [listener])
            assert await asker.probe(url)
            looked.set()
            await closed.wait()
            assert await asker.probe(url)
            assert requests == 2
            nursery.cancel_scope.cancel()

    run(main)


def test_what_came_with_an_answer_over_tls_is_no_answer(tmp_path: Path) -> None:
    """It is not in the socket any more: it has been decrypted along with the answer."""
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("server", *LOOPBACK))
    head = b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-8/9\r\nContent-Length: 9\r\n\r\n"

    async def main() -> None:
        begun = trio.Event()

        async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
            right = b"b" * 9 if begun.is_set() else b"a" * 9
            await stream.receive_some()
            await stream.send_all(head)
            await begun.wait()
            await stream.send_all(right + head + b"wrong " * 2)

        (listener,) = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
        url = f"https://127.0.0.1:{listener.transport_listener.socket.getsockname()[1]}/x"  # type: ignore[attr-defined]
        options = ClientOptions(transport=TransportOptions(ca_file=authority.pem))
        async with trio.open_nursery() as nursery, client(options) as asker:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            asking = asker._sender._transport.send
            async with aclosing(await asking(url, [])) as reply:
                begun.set()
                assert await reply.receive_into(memoryview(bytearray(9))) == 9
            assert await fetch(asker, url, Version(9), Extent(0, 9)) == b"b" * 9
            nursery.cancel_scope.cancel()

    run(main)


def test_of_several_idle_connections_only_one_is_waited_for(
    origin: MisbehavingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may all be dead, without a sign: each would cost the whole of the patience."""
    monkeypatch.setattr(wire, "HEAD_TIMEOUT", 0.3)
    url = origin.url("stall", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, origin.plain(BLOB))
            async with contextlib.AsyncExitStack() as idle:
                for _ in range(3):
                    answer = await idle.enter_async_context(
                        aclosing(await asker.ask(origin.plain(BLOB), Extent(0, 9), version))
                    )
                    while await answer.receive_into(memoryview(bytearray(9))):
                        pass
            with pytest.raises(OriginUnreachable, match="no answer for"):
                await fetch(asker, url, version)

    run(main)
    assert origin.stats(url)["requests"] == 1


def test_an_answer_that_ends_before_it_begins_is_not_waited_for() -> None:
    head = b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-8/9\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def main() -> None:
        async with saying(head + b"0\r\n\r\n", head + b"9\r\nabcdefghi\r\n0\r\n\r\n") as (url, _), client() as asker:
            with pytest.raises(OriginBadAnswer, match="ended 9 bytes early"):
                await fetch(asker, url, Version(9), Extent(0, 9))
            assert await fetch(asker, url, Version(9), Extent(0, 9)) == b"abcdefghi"

    run(main)


def test_an_answer_with_a_body_that_it_must_not_have_is_the_last_of_its_connection() -> None:
    unchanged = b'HTTP/1.1 304 N\r\nETag: "a"\r\nContent-Length: 9\r\n\r\nabcd'

    async def main() -> None:
        async with saying(unchanged) as (url, _):
            pool = wire.Pool(lambda place: Trust())
            exchange, head = await pool.exchange(urls.origin_of(url), b"/x", [(b"host", b"x")])
            assert head.status == 304
            exchange.close()
            assert not pool._idle, "the rest of it would pass for the next answer"

    run(main)


def test_nothing_queues_for_a_connection_through_a_proxy() -> None:
    """httpcore loses the place of a request that is cancelled while it queues (encode/httpcore#1093)."""
    many = 110  # httpx's own bound is 100

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=many)
        proxy = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        came, all_came = 0, trio.Event()

        async def hold(stream: trio.SocketStream) -> None:
            nonlocal came
            await stream.receive_some()
            came += 1
            if came == many:
                all_came.set()
            await trio.sleep_forever()

        async with (
            trio.open_nursery() as nursery,
            client(ClientOptions(transport=TransportOptions(proxy=proxy))) as asker,
        ):
            nursery.start_soon(trio.serve_listeners, hold, [listener])
            for number in range(many):
                nursery.start_soon(asker.probe, f"http://host{number}.example/x")
            await all_came.wait()
            nursery.cancel_scope.cancel()

    run(main)


# What is left over.

FAULTS = [
    "plain", "status=503@2-", "status=404@2-", "drop@2-", "reset@2-", "reset=0@2-", "short@2-", "extra@2-",
    "garbage@2-",
    "elsewhere@2-", "whole-206@2-", "no-content-range@2-", "always-gzip", "huge-headers@2-", "endless@2-",
    "chunked,reset@2-", "redirect", "redirect-loop@2-", "close", "drop-reused", "stall@2-", "stall-body@2-", "rate@2-",
]  # fmt: skip


def test_nothing_is_left_of_requests_that_fail_or_are_cancelled(origin: MisbehavingOrigin) -> None:
    """Connections, tasks, descriptors and slots; the long version, which watches memory too, is tools/leaks."""

    async def main() -> None:
        async with client(ClientOptions(patience=float("inf"))) as asker:
            version = await pinned(asker, origin.plain(BLOB))
            gc.collect()
            before = len(os.listdir("/proc/self/fd"))

            async def one(number: int) -> None:
                url = origin.url(f"{FAULTS[number % len(FAULTS)]}", BLOB).replace("/b/plain/", "/plain/")
                with trio.move_on_after(0.002 * (number % 50) + 0.02), contextlib.suppress(OriginError):
                    await fetch(asker, url, version)

            for start in range(0, 480, 48):
                async with trio.open_nursery() as nursery:
                    for number in range(start, start + 48):
                        nursery.start_soon(one, number)
            assert all(not here._held and not here._waiting for here in asker._sender._slots.values())
            assert not asker._sender._resolving
            origin.release()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before
        origin.wait(most_open=0, most_connected=0)

    run(main)


def test_urgency_is_looked_at_when_there_is_a_choice(origin: MisbehavingOrigin) -> None:
    """What is fetched ahead waits for a slot; a reader who comes for it takes it past those that came before."""
    url = origin.url("delay=100ms", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            here = asker._sender._slots[urls.origin_of(url)]
            here.limit.value = 1.0
            here.limit.answered = lambda seconds, under_way: None  # type: ignore[method-assign]
            order: list[str] = []
            urgency = {"first": Urgency.DEMAND, "ahead": Urgency.READAHEAD, "other": Urgency.READAHEAD}

            async def ask(name: str) -> None:
                async with aclosing(await asker.ask(url, PIECE, version, lambda: urgency[name])) as answer:
                    order.append(name)
                    while await answer.receive_into(memoryview(bytearray(65536))):
                        pass

            async with trio.open_nursery() as nursery:
                for name in ("first", "other", "ahead"):
                    nursery.start_soon(ask, name)
                    await trio.testing.wait_all_tasks_blocked(0.01)
                urgency["ahead"] = Urgency.DEMAND
            assert order == ["first", "ahead", "other"]

    run(main)
