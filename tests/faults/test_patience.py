"""How long an attempt may take, when it is made again, doubled, or not made at all: request by request."""

from __future__ import annotations

import contextlib
import socket
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from lazyfs import urls
from lazyfs.errors import (
    OriginError,
    OriginFailing,
    OriginUnreachable,
)
from lazyfs.extents import Extent
from lazyfs.origin import transport, wire
from lazyfs.origin.client import ClientOptions
from lazyfs.origin.health import SAMPLES_LEAST, SLOW_AT_FIRST, SLOW_LEAST
from lazyfs.origin.transport import TransportOptions, Unconnected
from tests.faults.asking import BLOB, PIECE, client, expected, fetch, pinned, run, until_left_alone
from tests.servers import MisbehavingOrigin


def test_a_trickle_is_given_up(origin: MisbehavingOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "RATE_WINDOW", 0.5)
    url = origin.url("rate=100@2-", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            with pytest.raises(OriginUnreachable, match=r"only .* bytes came"):
                await fetch(asker, url, version)

    run(main)


def test_a_slow_but_steady_origin_is_not_given_up(origin: MisbehavingOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "RATE_WINDOW", 0.2)
    url = origin.url("rate=200K@2-", BLOB)

    async def main() -> None:
        async with client() as asker:
            assert await fetch(asker, url, await pinned(asker, url)) == expected(origin)

    run(main)


def test_a_slow_reader_is_not_held_against_the_origin(
    origin: MisbehavingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "RATE_WINDOW", 0.2)
    url = origin.plain(BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            async with aclosing(await asker.ask(url, PIECE, version)) as answer:
                received = 0
                while received <= transport.LEAST_RATE:  # the rest comes as it is asked for
                    received += await answer.receive_into(memoryview(bytearray(1 << 16)))
                for _ in range(10):
                    await trio.sleep(0.05)  # the disk takes its time
                    assert await answer.receive_into(memoryview(bytearray(1)))

    run(main)


@pytest.mark.parametrize("status", ["429:7", "503:d30"])
def test_a_retry_after_is_told(origin: MisbehavingOrigin, status: str) -> None:
    url = origin.url(f"status={status}@2-", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            with pytest.raises(OriginUnreachable) as caught:
                await fetch(asker, url, version)
            assert caught.value.retry_after == 7 if status == "429:7" else 5 < (caught.value.retry_after or 0) <= 30

    run(main)


@pytest.mark.parametrize("behaviour", ["stall@2-", "stall-body=0@2-", "stall-body=1000@2-"])
def test_silence_is_given_up(origin: MisbehavingOrigin, monkeypatch: pytest.MonkeyPatch, behaviour: str) -> None:
    monkeypatch.setattr(transport, "RATE_WINDOW", 0.3)
    monkeypatch.setattr(wire, "HEAD_TIMEOUT", 0.3)
    url = origin.url(behaviour, BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            with pytest.raises(OriginUnreachable, match=r"no (answer|byte came) for 0\.3 s"):
                await fetch(asker, url, version)

    run(main)


@pytest.mark.parametrize("proxied", [False, True])
def test_a_head_that_comes_in_drops_is_given_up(monkeypatch: pytest.MonkeyPatch, proxied: bool) -> None:
    monkeypatch.setattr(wire, "CONNECT_TIMEOUT", 0.3)
    monkeypatch.setattr(wire, "HEAD_TIMEOUT", 0.3)

    async def drip(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"HTTP/1.1 206 P\r\n")
            while True:
                await stream.send_all(b"X: y\r\n")
                await trio.sleep(0.05)

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        base = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        options = ClientOptions(transport=TransportOptions(proxy=base if proxied else None))
        async with trio.open_nursery() as nursery, client(options) as asker:
            nursery.start_soon(trio.serve_listeners, drip, [listener])
            with trio.fail_after(5), pytest.raises(OriginUnreachable, match="no answer"):
                await asker.probe(f"{base}/x")
            nursery.cancel_scope.cancel()

    run(main)


def test_a_connection_that_is_not_made_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CONNECT_TIMEOUT", 0.3)

    async def main() -> None:
        with socket.socket() as full, contextlib.ExitStack() as others:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(3):  # nobody accepts: the queue is full, and further ones get no answer
                waiting = others.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            async with client() as asker:
                with pytest.raises(Unconnected, match="no connection for"):
                    await asker.probe(f"http://127.0.0.1:{full.getsockname()[1]}/x")

    run(main)


def test_a_dead_host_is_refused_at_once_and_found_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with client(ClientOptions(patience=0.5, hedge=0)) as asker:
            with socket.socket() as reserved:
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                reserved.bind(("127.0.0.1", 0))
                url = f"http://127.0.0.1:{reserved.getsockname()[1]}/"
                reason = await until_left_alone(asker, url + "x")
                assert "cannot be reached" in reason
                assert "asked again in 2 s" in reason
                with pytest.raises(OriginFailing):  # another name on the same host as well
                    await asker.probe(url + "y")
            (listener,) = await trio.open_tcp_listeners(int(url[:-1].rpartition(":")[2]), host="127.0.0.1")

            async def answer(stream: trio.SocketStream) -> None:
                await stream.receive_some()
                await stream.send_all(b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n\r\nx")
                await stream.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, answer, [listener])
                while True:
                    try:
                        await asker.probe(url + "x")
                        break
                    except OriginFailing:
                        await trio.sleep(0.05)
                await asker.probe(url + "y")
                nursery.cancel_scope.cancel()

    run(main)


def test_a_url_that_fails_does_not_break_its_origin(origin: MisbehavingOrigin) -> None:
    bad, good = origin.url("status=500", BLOB), origin.plain(BLOB)

    async def main() -> None:
        async with client(ClientOptions(patience=0.5, hedge=0)) as asker:
            assert "no answer that can be used" in await until_left_alone(asker, bad)
            assert await fetch(asker, good, await pinned(asker, good)) == expected(origin)

    run(main)


@pytest.mark.parametrize("behaviour", ["drop", "status=500", "stall", "stall-body=0"])
def test_a_url_without_an_answer_of_use_is_left_alone(origin: MisbehavingOrigin, behaviour: str) -> None:
    """Also when each of its readers has left before the attempt had failed."""
    url = origin.url(behaviour, BLOB)

    async def main() -> None:
        async with client(ClientOptions(patience=0.5, hedge=0)) as asker:
            assert "no answer that can be used" in await until_left_alone(asker, url)
        origin.release()

    run(main)


def test_what_was_wrong_or_too_slow_rests_and_is_still_asked(origin: MisbehavingOrigin) -> None:
    url, other = origin.plain(BLOB), origin.plain("random-10-x")

    async def main() -> None:
        async with client() as asker:
            asker.let_rest(url)
            assert asker.resting(url)
            assert not asker.resting(other)
            assert await asker.probe(url)
            assert not asker.resting(url)

    run(main)


@pytest.mark.parametrize("then", ["status=404@2-", "etag=other@2-", "delay=1ms"])
def test_one_answer_and_a_url_is_well_again(origin: MisbehavingOrigin, then: str) -> None:
    """Also one that says no, or that it has another version now."""
    url = origin.url(f"status=500@1,{then}", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, origin.plain(BLOB))
            for resting in (True, False):
                with contextlib.suppress(OriginError):
                    await fetch(asker, url, version, Extent(0, 10))
                assert asker.resting(url) == resting

    run(main)


def test_an_answer_that_broke_after_it_went_well_is_no_long_failure(origin: MisbehavingOrigin) -> None:
    """However long it took: else a slow download that is reset once would fail the reads that follow."""
    url = origin.url("rate=200K,reset=190K@2-", BLOB)

    async def main() -> None:
        async with client(ClientOptions(patience=1.0, hedge=0)) as asker:
            version = await pinned(asker, url)
            with pytest.raises(OriginUnreachable):
                await fetch(asker, url, version)
            assert await asker.probe(url)

    run(main)


# Two for one.


def test_a_second_request_is_allowed_for_so_many_that_were_sent(origin: MisbehavingOrigin) -> None:
    url = origin.plain(BLOB)

    async def main() -> None:
        async with client(ClientOptions(hedge=0.5)) as asker:
            version = await pinned(asker, url)
            assert [asker.may_hedge() for _ in range(3)] == [True, False, False]
            for _ in range(4):
                await fetch(asker, url, version)
            assert [asker.may_hedge() for _ in range(3)] == [True, True, False]
            assert asker._counters.hedges == 3

    run(main)


def test_slow_is_what_it_is_not_usually(origin: MisbehavingOrigin) -> None:
    url = origin.plain(BLOB)

    async def main() -> None:
        async with client(ClientOptions()) as asker:
            version = await pinned(asker, url)
            assert asker.slow(url) == SLOW_AT_FIRST
            for _ in range(SAMPLES_LEAST):
                await fetch(asker, url, version)
            latencies = asker._sender._slots[urls.origin_of(url)].latencies
            assert 0 < latencies.usual < 60
            assert asker.slow(url) == latencies.slow == max(SLOW_LEAST, latencies.usual)
            assert asker.slow("http://another.example/") == SLOW_AT_FIRST
        async with client(ClientOptions(hedge=0)) as asker:
            assert asker.slow(url) == float("inf"), "nothing is asked for twice"

    run(main)
