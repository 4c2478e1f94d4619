"""What is asked for and what of an answer is believed, against the misbehaving origin, request by request."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from lazyfs import urls
from lazyfs.errors import (
    BlobChanged,
    OriginBadAnswer,
    OriginError,
    OriginRefused,
    OriginUnreachable,
)
from lazyfs.extents import Extent
from lazyfs.origin.client import ClientOptions
from lazyfs.origin.credentials import CredentialOptions
from lazyfs.origin.transport import TransportOptions
from lazyfs.versions import Version
from tests.faults.asking import BLOB, PIECE, client, count, expected, fetch, pinned, run, saying
from tests.servers import MisbehavingOrigin, Nginx


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


def test_what_says_that_a_weak_etag_still_holds_is_not_asked_for() -> None:
    """Reads compare the date as well, and would fail for ever if look-ups did not."""
    was = Version(9, 'W/"a"', "Sat, 01 Jan 2022 00:00:00 GMT")
    unchanged = b'HTTP/1.1 304 N\r\nETag: W/"a"\r\n\r\n'
    answer = b'HTTP/1.1 206 P\r\nETag: W/"a"\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n\r\na'

    async def main() -> None:
        async with saying(answer, answer, unchanged) as (url, heads), client() as asker:
            found = await asker.probe(url, was)
            assert found is not None
            assert found.version == Version(9, 'W/"a"')
            assert not any(b"if-none-match" in head for head in heads)

    run(main)


def test_an_etag_that_is_not_ascii_is_compared_and_no_condition() -> None:
    """What its bytes were, is a guess."""
    answer = 'HTTP/1.1 206 P\r\nETag: "é{}"\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n\r\na'
    one, other = answer.format(1).encode(), answer.format(2).encode()

    async def main() -> None:
        async with saying(one, one, other, other) as (url, heads), client() as asker:
            version = await pinned(asker, url)
            assert await fetch(asker, url, version, Extent(0, 1)) == b"a"
            with pytest.raises(BlobChanged):
                await fetch(asker, url, version, Extent(0, 1))
            assert not any(b"if-match" in head for head in heads)

    run(main)


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


def test_a_page_that_is_too_large_is_not_asked_for_again(origin: MisbehavingOrigin) -> None:
    """It would be as large."""

    async def main() -> None:
        async with client() as asker:
            with pytest.raises(OriginRefused, match="a page of more than 1000 bytes"):
                await asker.fetch_page(origin.plain(BLOB), 1000)

    run(main)


def test_a_head_has_the_length_of_a_body_that_does_not_come(nginx: Nginx, docroot: Path) -> None:
    (docroot / "page").write_bytes(b"a page")

    async def main() -> None:
        async with client() as asker:
            page = await asker.fetch_document(f"{nginx.url}/page", 0, {"accept": "text/x"}, "HEAD")
            assert (page.content, page.headers["content-length"]) == (b"", "6")
            page = await asker.fetch_document(f"{nginx.url}/page", 6, {})
            assert page.content == b"a page"
            with pytest.raises(OriginRefused):
                await asker.fetch_document(f"{nginx.url}/none", 0, {}, "HEAD")

    run(main)
    assert [request.method for request in nginx.requests()] == ["HEAD", "GET", "HEAD"]


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


def test_so_is_another_version_that_a_look_up_finds(origin: MisbehavingOrigin) -> None:
    url = origin.url("etag-per-connection,close", BLOB)

    async def main() -> None:
        async with client() as asker:
            found = await asker.probe(url, await pinned(asker, url))
            assert found is not None

    run(main)
    assert [line["headers"].get("cache-control") for line in origin.log()] == [None, None, "no-cache"]


@pytest.mark.parametrize(
    "line", [b"Location : http://elsewhere/?signature=planted", b"Location: /?signature=planted\0", b"planted"]
)
def test_what_is_no_answer_is_not_quoted(line: bytes) -> None:
    async def main() -> None:
        async with saying(b"HTTP/1.1 302 F\r\n" + line + b"\r\n\r\n") as (url, _), client() as asker:
            with pytest.raises(OriginUnreachable, match="not an HTTP answer") as caught:
                await asker.probe(url)
            assert "planted" not in str(caught.value)

    run(main)


def test_what_cannot_be_sent_is_not_quoted(origin: MisbehavingOrigin) -> None:
    async def main() -> None:
        credentials = CredentialOptions(
            headers=(("x-token", "planted "),), named=frozenset({urls.origin_of(origin.base)})
        )
        async with client(ClientOptions(credentials)) as asker:
            with pytest.raises(OriginRefused, match="cannot be asked for") as caught:
                await asker.probe(origin.plain(BLOB))
            assert "planted" not in str(caught.value)

    run(main)


@pytest.mark.parametrize("proxied", [False, True])
def test_no_library_logs_urls_or_headers(
    origin: MisbehavingOrigin, caplog: pytest.LogCaptureFixture, proxied: bool
) -> None:
    caplog.set_level("DEBUG")
    options = TransportOptions(proxy=origin.base if proxied else None)

    async def main() -> None:
        async with client(ClientOptions(transport=options)) as asker:
            with contextlib.suppress(OriginError):  # it is no proxy
                await asker.probe(origin.plain(BLOB) + "?signature=planted")

    run(main)
    assert origin.log()
    assert not [record for record in caplog.records if record.name.startswith("http")]
    assert "planted" not in caplog.text
