"""Redirects, request by request: where a URL leads is kept, and nothing of ours goes along."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
import trio.testing

from lazyfs import urls
from lazyfs.errors import (
    BlobChanged,
    OriginRefused,
)
from lazyfs.origin import transport
from lazyfs.origin.client import ClientOptions
from lazyfs.origin.credentials import CredentialOptions
from lazyfs.origin.sender import MAX_HOPS
from lazyfs.origin.transport import TransportOptions, Unconnected
from tests.certificates import self_signed
from tests.faults.asking import BLOB, client, count, expected, fetch, pinned, run
from tests.servers import MisbehavingOrigin


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
            assert not asker._sender._resolving

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
    log = sorted(origin.log(), key=lambda line: line["status"])  # two servers write it, each when its answer is out
    assert [(line["status"], line["headers"].get("authorization")) for line in log] == [(200, None), (302, "planted")]


def test_a_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    pem = self_signed(tmp_path)
    with MisbehavingOrigin(tls=pem) as origin:

        async def main() -> None:
            async with client(ClientOptions(transport=TransportOptions(ca_file=pem))) as asker:
                assert await pinned(asker, origin.url("redirect", BLOB))
                with pytest.raises(OriginRefused, match="https to http"):
                    await asker.probe(origin.url("redirect-port", BLOB))

        run(main)


def test_a_redirect_whose_body_does_not_come_is_followed() -> None:
    async def main() -> None:
        requests = 0

        async def answer(stream: trio.SocketStream) -> None:
            nonlocal requests
            await stream.receive_some()
            requests += 1
            if requests == 1:
                await stream.send_all(b"HTTP/1.1 302 F\r\nLocation: /there\r\nContent-Length: 5\r\n\r\nhere")
                await trio.sleep_forever()
            await stream.send_all(b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n\r\nx")

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery, client() as asker:
            nursery.start_soon(trio.serve_listeners, answer, [listener])
            with trio.fail_after(transport.RATE_WINDOW - 1):
                assert await asker.probe(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/here")
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize(("behaviour", "asked"), [("redirect-loop", 1), (f"redirect={MAX_HOPS + 1}", MAX_HOPS + 1)])
def test_redirects_have_an_end(origin: MisbehavingOrigin, behaviour: str, asked: int) -> None:
    async def main() -> None:
        async with client() as asker:
            with pytest.raises(OriginRefused, match="redirects"):
                await asker.probe(origin.url(behaviour, BLOB))

    run(main)
    assert len(origin.log()) == asked
    assert origin.stats()["connections"]["total"] <= 2


def test_a_url_is_sent_to_the_letter(origin: MisbehavingOrigin) -> None:
    """Decoding and encoding anew breaks a signature, also that in a Location."""
    plain = f"{origin.base}/plain/{BLOB}?a=%2f%2F%20+&b=c%3D;~!'()*&c={{d}}|^`%zz<>"
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
