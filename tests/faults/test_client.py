"""The client against the misbehaving origin, request by request: redirects, versions, limits, and what is left over."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from lazyfs import urls
from lazyfs.counters import Counters
from lazyfs.errors import BlobChanged, OriginError, OriginFailing, OriginRefused, OriginUnreachable
from lazyfs.extents import Extent
from lazyfs.origin import transport, wire
from lazyfs.origin.client import MAX_HOPS, Client, ClientOptions
from lazyfs.origin.transport import TransportOptions, Unconnected
from lazyfs.urgency import Urgency
from lazyfs.versions import Version
from tests.certificates import self_signed
from tests.servers import MisbehavingOrigin

BLOB = "random-1M-x"
PIECE = Extent(100_000, 300_000)


@asynccontextmanager
async def client(options: ClientOptions | None = None) -> AsyncIterator[Client]:
    made = Client(options or ClientOptions(hedge=0), Counters())
    try:
        yield made
    finally:
        await made.aclose()


async def pinned(asker: Client, url: str) -> Version:
    found = await asker.probe(url)
    assert found is not None
    return found.version


async def fetch(asker: Client, url: str, version: Version, extent: Extent = PIECE) -> bytes:
    """Return what the origin sends for a run of bytes."""
    async with aclosing(await asker.ask(url, extent, version)) as answer:
        assert answer.body.extent == extent
        body, length = bytearray(len(extent) + 1), 0
        while count := await answer.receive_into(memoryview(body)[length:]):
            length += count
        return bytes(body[:length])


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(60):
            await main()

    trio.run(bounded)


async def until_left_alone(asker: Client, url: str) -> str:
    """Ask until nobody is let through any more; return what is said then."""
    while True:
        try:
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


# Redirects.


def test_where_a_url_leads_is_kept(origin: MisbehavingOrigin) -> None:
    url = origin.url("redirect=3", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            for _ in range(5):
                assert await fetch(asker, url, version) == expected(origin)
        assert count(origin, url, 302) == 1

    run(main)


@pytest.mark.parametrize("status", [401, 403, 410, 404])
def test_an_expired_target_is_resolved_again_once_for_all(origin: MisbehavingOrigin, status: int) -> None:
    url = origin.url(f"signed=1s:{status},delay=50ms", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            assert await fetch(asker, url, version) == expected(origin)
            before = count(origin, url, 302)
            time.sleep(1.1)  # the signature's life, by the origin's clock
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(fetch, asker, url, version)
            assert count(origin, url, status) > 1
            assert count(origin, url, 302) == before + 1

    run(main)


def test_a_target_that_is_good_for_one_use_is_resolved_for_each(origin: MisbehavingOrigin) -> None:
    url = origin.url("signed=1", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            for _ in range(3):
                assert await fetch(asker, url, version) == expected(origin)

    run(main)


def test_a_target_that_cannot_be_reached_any_more_is_forgotten(origin: MisbehavingOrigin) -> None:
    url = origin.url("redirect", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                asker._targets[url] = f"http://127.0.0.1:{closed.getsockname()[1]}/gone"
                with pytest.raises(Unconnected):
                    await fetch(asker, url, version)
            assert await fetch(asker, url, version) == expected(origin)

    run(main)


def test_metadata_is_asked_at_the_url_itself(origin: MisbehavingOrigin) -> None:
    """Else a redirect to another version would never be seen."""
    url = origin.url("redirect", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            assert await asker.probe(url, version) is None
        assert count(origin, url, 302) == 2

    run(main)


def test_no_header_of_ours_goes_to_another_origin(origin: MisbehavingOrigin) -> None:
    url = origin.url("redirect-port", BLOB)
    headers = (("Authorization", "Bearer planted"), ("X-Token", "planted"))
    named = frozenset({urls.origin_of(url)})

    async def main() -> None:
        async with client(ClientOptions(headers, named, hedge=0)) as asker:
            assert await fetch(asker, url, await pinned(asker, url)) == expected(origin)

    run(main)
    by_status = {302: 0, 206: 0}
    for line in origin.log():
        by_status[line["status"]] += 1
        assert ("x-token" in line["headers"], "authorization" in line["headers"]) == (line["status"] == 302,) * 2
    assert by_status == {302: 1, 206: 2}


def test_a_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    pem = self_signed(tmp_path)
    with MisbehavingOrigin(tls=pem) as origin:

        async def main() -> None:
            async with client(ClientOptions(transport=TransportOptions(ca_file=pem))) as asker:
                assert await pinned(asker, origin.url("redirect", BLOB))
                with pytest.raises(OriginRefused, match="https to http"):
                    await asker.probe(origin.url("redirect-port", BLOB))

        run(main)


@pytest.mark.parametrize("behaviour", ["redirect-loop", f"redirect={MAX_HOPS + 1}"])
def test_redirects_have_an_end(origin: MisbehavingOrigin, behaviour: str) -> None:
    async def main() -> None:
        async with client() as asker:
            with pytest.raises(OriginRefused, match="redirects"):
                await asker.probe(origin.url(behaviour, BLOB))

    run(main)
    assert origin.stats()["connections"]["total"] <= 2


def test_a_url_is_sent_to_the_letter(origin: MisbehavingOrigin) -> None:
    """Decoding and encoding anew breaks a signature, also that in a Location."""
    plain = f"{origin.base}/plain/{BLOB}?a=%2f%2F%20+&b=c%3D;~!'()*"
    target = f"/plain/{BLOB}?%C3%A4=%2b+'\"~".replace('"', "%22")
    redirected = origin.url("redirect-to=" + target.replace("%", "%25").replace("/", "%2F").replace("?", "%3F"), BLOB)

    async def main() -> None:
        async with client() as asker:
            for url in (plain, redirected):
                await pinned(asker, url)

    run(main)
    asked = [line["target"] for line in origin.log()]
    assert asked[0] == plain.removeprefix(origin.base)
    assert asked[-1] == target


# Versions.


def test_a_stale_slice_is_asked_for_past_the_cache(origin: MisbehavingOrigin) -> None:
    url = origin.url("stale=64K,no-conditions", BLOB)

    async def main() -> None:
        async with client() as asker:
            origin.swap(BLOB)
            version = await pinned(asker, url)
            for slot in range(16):
                extent = Extent(slot << 16, (slot + 1) << 16)
                body = await fetch(asker, url, version, extent)
                assert body == origin.expected(BLOB, extent.start, extent.stop, version=2), slot

    run(main)
    asked = [line["headers"].get("cache-control") for line in origin.log()]
    assert 0 < asked.count("no-cache") <= len(asked) // 2


def test_a_change_is_asked_for_once_more_and_then_believed(origin: MisbehavingOrigin) -> None:
    url = origin.url("etag-per-connection,close", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            with pytest.raises(BlobChanged):
                await fetch(asker, url, version)

    run(main)
    assert origin.stats(url)["requests"] == 3


# Time.


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
                for _ in range(10):
                    await trio.sleep(0.05)  # the disk takes its time
                    assert await answer.receive_into(memoryview(bytearray(1)))

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


# Concurrency.


def test_an_origin_that_says_it_is_too_much_gets_less(origin: MisbehavingOrigin) -> None:
    url = origin.url("status=429@2-30,delay=20ms", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            slots = asker._slots[urls.origin_of(url)]
            before = slots.limit.value

            async def try_once() -> None:
                with contextlib.suppress(OriginError):
                    await fetch(asker, url, version)

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(try_once)
            assert slots.limit.value <= before / 2
            assert not slots._held

    run(main)


def test_no_more_requests_are_under_way_than_the_limit_allows(origin: MisbehavingOrigin) -> None:
    url = origin.url("delay=30ms", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            asker._slots[urls.origin_of(url)].limit.value = 3.0
            asker._slots[urls.origin_of(url)].limit.answered = lambda seconds, under_way: None  # type: ignore[method-assign]
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(fetch, asker, url, version)
            assert origin.stats(url)["peak"] == 3

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
            assert all(not slots._held and not slots._waiting for slots in asker._slots.values())
            assert not asker._resolving
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
            slots = asker._slots[urls.origin_of(url)]
            slots.limit.value = 1.0
            slots.limit.answered = lambda seconds, under_way: None  # type: ignore[method-assign]
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
