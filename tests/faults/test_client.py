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
from urllib.parse import quote

import pytest
import trio
import trio.testing

from lazyfs import urls
from lazyfs.counters import Counters
from lazyfs.errors import (
    BlobChanged,
    OriginBadAnswer,
    OriginError,
    OriginFailing,
    OriginRefused,
    OriginUnreachable,
)
from lazyfs.extents import Extent
from lazyfs.origin import slots, transport, wire
from lazyfs.origin.client import Client, ClientOptions
from lazyfs.origin.credentials import CredentialOptions
from lazyfs.origin.health import SAMPLES_LEAST, SLOW_AT_FIRST, SLOW_LEAST
from lazyfs.origin.sender import MAX_HOPS
from lazyfs.origin.transport import TransportOptions, Unconnected
from lazyfs.urgency import Urgency
from lazyfs.versions import Version
from tests.certificates import self_signed
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
            assert asker._sender._resolving == {}

    run(main)


def test_a_target_that_is_good_for_one_use_is_resolved_for_each(origin: MisbehavingOrigin) -> None:
    url = origin.url("signed=1", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            for _ in range(3):
                assert await fetch(asker, url, version) == expected(origin)

    run(main)


def test_a_target_that_leads_on_by_now_is_resolved_again(origin: MisbehavingOrigin) -> None:
    url = origin.url("redirect", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            asker._sender._targets[url] = origin.url("redirect=2", BLOB)
            assert await fetch(asker, url, version) == expected(origin)
            assert asker._sender._targets == {url: origin.plain(BLOB)}

    run(main)


def test_so_many_targets_are_kept(origin: MisbehavingOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lazyfs.origin.sender.TARGETS_KEPT", 2)
    names = [f"random-10-{number}" for number in range(4)]

    async def main() -> None:
        async with client() as asker:
            for name in names:
                await pinned(asker, origin.url("redirect", name))
            assert list(asker._sender._targets) == [origin.url("redirect", name) for name in names[-2:]]

    run(main)


def test_a_target_that_cannot_be_reached_any_more_is_forgotten(origin: MisbehavingOrigin) -> None:
    url = origin.url("redirect", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                asker._sender._targets[url] = f"http://127.0.0.1:{closed.getsockname()[1]}/gone"
                with pytest.raises(Unconnected):
                    await fetch(asker, url, version)
            assert await fetch(asker, url, version) == expected(origin)

    run(main)


def test_a_target_that_the_url_no_longer_leads_to_is_forgotten(origin: MisbehavingOrigin) -> None:
    """It is still there, and another blob: else what the URL names now could never be read."""
    elsewhere = quote(origin.plain("random-1M-elsewhere"), safe="")
    url = origin.url(f"redirect-to={elsewhere}@1", BLOB)

    async def main() -> None:
        async with client() as asker:
            before = await pinned(asker, url)
            version = await pinned(asker, url)
            assert version != before
            assert await fetch(asker, url, version) == expected(origin)
            with pytest.raises(BlobChanged):
                await fetch(asker, url, before)

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
        async with client(ClientOptions(CredentialOptions(headers, named=named), hedge=0)) as asker:
            assert await fetch(asker, url, await pinned(asker, url)) == expected(origin)

    run(main)
    by_status = {302: 0, 206: 0}
    for line in origin.log():
        by_status[line["status"]] += 1
        assert ("x-token" in line["headers"], "authorization" in line["headers"]) == (line["status"] == 302,) * 2
    assert by_status == {302: 1, 206: 2}


def test_a_password_for_a_token_server_goes_to_no_other(origin: MisbehavingOrigin) -> None:
    url = origin.url("redirect-port", "random-10-x")

    async def main() -> None:
        async with client() as asker:
            assert await asker._sender._fetch_token(url, {"authorization": "planted"}) == origin.expected("random-10-x")

    run(main)
    log = origin.log()
    assert [(line["status"], line["headers"].get("authorization")) for line in log] == [(302, "planted"), (200, None)]


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


# What is asked for, and what of an answer is believed.


def test_each_request_is_a_plain_get_of_one_range(origin: MisbehavingOrigin) -> None:
    """Of the bytes as they are, on the condition that the version is still the same; metadata costs one byte."""
    url = origin.plain(BLOB)

    async def main() -> None:
        async with client() as asker:
            found = await asker.probe(url)
            assert found is not None
            assert found.head == origin.expected(BLOB, 0, 1)
            assert await fetch(asker, url, found.version) == expected(origin)
            assert await asker.probe(url, found.version) is None

    run(main)
    log = origin.log()
    etag = log[1]["headers"]["if-match"]
    assert etag.startswith('"')
    assert [line["method"] for line in log] == ["GET"] * 3
    assert [line["range"] for line in log] == ["bytes=0-0", "bytes=100000-299999", "bytes=0-0"]
    assert [line["status"] for line in log] == [206, 206, 304]
    assert [line["body_bytes"] for line in log] == [1, len(PIECE), 0]
    assert [line["headers"].get("if-match") for line in log] == [None, etag, None]
    assert [line["headers"].get("if-none-match") for line in log] == [None, None, etag]
    assert not any("if-range" in line["headers"] for line in log)
    assert {line["headers"]["accept-encoding"] for line in log} == {"identity"}


def test_a_weak_etag_is_compared_and_no_condition_of_a_range(origin: MisbehavingOrigin) -> None:
    url = origin.url("weak-etag", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            assert (version.etag or "").startswith("W/")
            assert await fetch(asker, url, version) == expected(origin)
            origin.swap(BLOB)
            with pytest.raises(BlobChanged):
                await fetch(asker, url, version)

    run(main)
    assert not any("if-match" in line["headers"] for line in origin.log())


def test_of_a_version_that_is_gone_nothing_is_sent(origin: MisbehavingOrigin) -> None:
    url = origin.plain(BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            origin.swap(BLOB)
            with pytest.raises(BlobChanged):
                await fetch(asker, url, version)

    run(main)
    assert count(origin, url, 412) == 2, "the second one goes past the caches"
    assert count(origin, url, 200) == 0


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        ("short@2-", OriginUnreachable, "closed in mid-answer"),
        ("no-length,short=7@2-", OriginBadAnswer, "ended 7 bytes early"),
        ("endless@2-", OriginBadAnswer, "more bytes than were due"),
        ("chunked,short@2-", OriginUnreachable, "not an HTTP answer"),
        ("chunked,reset@2-", OriginUnreachable, "reset"),
    ],
)
def test_a_body_of_another_length_is_no_answer(
    origin: MisbehavingOrigin, behaviour: str, kind: type[OriginError], reason: str
) -> None:
    url = origin.url(behaviour, BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            with pytest.raises(kind, match=reason):
                await fetch(asker, url, version)

    run(main)


def test_cookies_are_not_kept(origin: MisbehavingOrigin) -> None:
    """Blobs are the same for everybody, and what one URL says must not change what is asked at another."""
    url = origin.url("cookie,redirect", BLOB)

    async def main() -> None:
        async with client() as asker:
            assert await fetch(asker, url, await pinned(asker, url)) == expected(origin)

    run(main)
    log = origin.log()
    assert [line["status"] for line in log] == [302, 206, 206]
    assert not any("cookie" in line["headers"] for line in log)


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
                received = await answer.receive_into(memoryview(bytearray(1 << 16)))
                assert received > transport.LEAST_RATE  # what came with the head; the rest comes as it is asked for
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


# Concurrency.


def test_an_origin_that_says_it_is_too_much_gets_less(origin: MisbehavingOrigin) -> None:
    url = origin.url("status=429@2-30,delay=20ms", BLOB)

    async def main() -> None:
        async with client() as asker:
            version = await pinned(asker, url)
            here = asker._sender._slots[urls.origin_of(url)]
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
            assert asker._sender._resolving == {}
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
