"""tools/origin: right where it is asked to be right, and wrong in the very way that each behaviour says."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

import pytest

from tests.servers import ORIGIN, MisbehavingOrigin
from tools.misbehaving_origin import behaviours as _rows  # noqa: F401  fills the table
from tools.misbehaving_origin.contents import random_bytes
from tools.misbehaving_origin.table import BEHAVIOURS

SIZE = 100_000
NAME = f"random-{SIZE}-seed"
WHOLE = random_bytes(SIZE, "seed")
SECOND = random_bytes(SIZE, "seed", version=2)
HEAD = "HEAD"


@dataclass
class Reply:
    """What came back; `ended` is how: `whole`, `closed` before Content-Length was reached, or `reset`."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    ended: str = "whole"

    @property
    def content_range(self) -> str | None:
        return self.headers["Content-Range"]


class Client:
    """One connection, kept alive, to the origin of a URL; closed when left."""

    def __init__(self, url: str, timeout: float = 10) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, url: str, method: str = "GET", **headers: str) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        target = url[url.index("/", len("http://")) :]
        self.connection.request(method, target, headers={"Accept-Encoding": "identity", **sent})
        reply = self.connection.getresponse()
        body = b""
        try:
            while piece := reply.read1(65536):
                body += piece
        except ConnectionResetError:
            return Reply(reply.status, reply.headers, body, "reset")
        finally:
            reply.close()
        said = reply.headers["Content-Length"]
        short = method != HEAD and said is not None and len(body) < int(said)
        return Reply(reply.status, reply.headers, body, "closed" if short else "whole")


@pytest.fixture(scope="module")
def shared() -> Iterator[MisbehavingOrigin]:
    with MisbehavingOrigin() as origin:
        yield origin


@pytest.fixture
def origin(shared: MisbehavingOrigin) -> MisbehavingOrigin:
    shared.wait(most_connected=0)
    shared.reset()
    return shared


def ask(url: str, method: str = "GET", **headers: str) -> Reply:
    with Client(url) as client:
        return client.ask(url, method, **headers)


# --- what is right --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=4095-4096", 4095, 4097),
        ("bytes=99000-", 99_000, SIZE),
        ("bytes=-10", SIZE - 10, SIZE),
        ("bytes=99999-1000000", 99_999, SIZE),
    ],
)
def test_plain_ranges(origin: MisbehavingOrigin, asked: str, start: int, stop: int) -> None:
    reply = ask(origin.plain(NAME), Range=asked)
    assert (reply.status, reply.body) == (206, WHOLE[start:stop])
    assert reply.content_range == f"bytes {start}-{stop - 1}/{SIZE}"


@pytest.mark.parametrize("asked", ["", "bytes=5-4", "bytes=0-1,5-6", "lines=0-1", "bytes=-", "bytes=x-1"])
def test_plain_without_a_range_that_counts(origin: MisbehavingOrigin, asked: str) -> None:
    reply = ask(origin.plain(NAME), Range=asked)
    assert (reply.status, reply.body, reply.content_range) == (200, WHOLE, None)


def test_plain_out_of_range_and_empty(origin: MisbehavingOrigin) -> None:
    reply = ask(origin.plain(NAME), Range=f"bytes={SIZE}-")
    assert (reply.status, reply.content_range) == (416, f"bytes */{SIZE}")
    reply = ask(origin.plain("random-0-x"), Range="bytes=0-0")
    assert (reply.status, reply.content_range) == (416, "bytes */0")
    assert ask(origin.plain("random-0-x")).body == b""


def test_plain_conditions(origin: MisbehavingOrigin) -> None:
    url = origin.plain(NAME)
    first = ask(url, HEAD)
    etag, date = first.headers["ETag"], first.headers["Last-Modified"]
    assert (first.status, first.headers["Content-Length"], first.body) == (200, str(SIZE), b"")
    assert etag.startswith('"')
    assert ask(url, If_Match=etag, Range="bytes=0-0").status == 206
    assert ask(url, If_Match='"other"').status == 412
    assert ask(url, If_None_Match=f'"other", {etag}').status == 304
    assert ask(url, If_Modified_Since=date).status == 304
    assert ask(url, If_Unmodified_Since="Mon, 01 Jan 2001 00:00:00 GMT").status == 412
    assert ask(url, If_Range=etag, Range="bytes=0-0").status == 206
    assert ask(url, If_Range=date, Range="bytes=0-0").status == 206
    assert ask(url, If_Range='"other"', Range="bytes=0-0").status == 200


def test_plain_keeps_alive_and_refuses_what_is_not_there(origin: MisbehavingOrigin) -> None:
    refused = {
        "/plain/nothing": 404,
        "/nowhere": 404,
        "/b/no-such/random-1-x": 400,
        "/b/delay=x/random-1-x": 400,
    }
    with Client(origin.base) as client:
        for path, status in refused.items():
            assert client.ask(origin.base + path).status == status
        assert client.ask(origin.plain(NAME), "PUT").status == 405
        assert client.ask(origin.plain(NAME)).body == WHOLE
        assert origin.stats()["connections"] == {"open": 1, "peak": 1, "total": 1}


def test_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a #1").write_bytes(b"one")
    with MisbehavingOrigin(tmp_path) as origin:
        assert ask(origin.plain("sub/a #1")).body == b"one"
        assert b'<a href="a%20%231">a #1</a>' in ask(origin.plain("sub/")).body
        assert b'<a href="sub/">' in ask(origin.plain("")).body
        assert ask(origin.base + "/plain/..%2f..%2fetc/passwd").status == 404
        listing = ask(origin.plain("index-3-1K/")).body.decode()
        assert re.findall(r'href="(f.*?)".* (\d+)\r', listing) == [(f"f00000{n}", "1024") for n in range(3)]
        assert ask(origin.plain("index-3-1K/f000002")).body == random_bytes(1024, "f000002")
        assert ask(origin.plain("index-3-1K/f000003")).status == 404
        assert origin.swap("sub/a #1", 5) == 2
        assert ask(origin.plain("sub/a #1")).body == b"nod\1\1" == origin.expected("sub/a #1", version=2, size=5)


def test_sizes_beyond_any_disk(origin: MisbehavingOrigin) -> None:
    reply = ask(origin.plain("random-8T-x"), Range="bytes=8000000000000-8000000009999")
    assert reply.body == origin.expected("random-8T-x", 8_000_000_000_000, 8_000_000_010_000)
    assert len(reply.body) == 10_000


# --- what each behaviour gets wrong in one answer -------------------------------------------------

ASKED = {"Range": "bytes=10000-10999"}
PART = WHOLE[10_000:11_000]


@pytest.mark.parametrize(
    ("behaviour", "status", "content_range", "body"),
    [
        ("no-range", 200, None, WHOLE),
        ("elsewhere", 206, f"bytes 14096-15095/{SIZE}", WHOLE[14_096:15_096]),
        ("elsewhere=90000", 206, f"bytes 0-999/{SIZE}", WHOLE[:1000]),
        ("less=100", 206, f"bytes 10000-10899/{SIZE}", PART[:900]),
        ("most=900", 206, f"bytes 10000-10899/{SIZE}", PART[:900]),
        ("most", 206, f"bytes 10000-10999/{SIZE}", PART),
        ("whole-206", 206, f"bytes 0-{SIZE - 1}/{SIZE}", WHOLE),
        ("mislabelled-206", 206, f"bytes 10000-10999/{SIZE}", WHOLE[:1000]),
        ("part-200", 200, f"bytes 10000-10999/{SIZE}", PART),
        ("no-content-range", 206, None, PART),
        ("total", 206, "bytes 10000-10999/*", PART),
        ("total=%2B1", 206, f"bytes 10000-10999/{SIZE + 1}", PART),
        ("wrong-byte=10001", 206, f"bytes 10000-10999/{SIZE}", PART[:1] + bytes([PART[1] ^ 255]) + PART[2:]),
        ("wrong-byte=11000", 206, f"bytes 10000-10999/{SIZE}", PART),
        ("chunked", 206, f"bytes 10000-10999/{SIZE}", PART),
        ("no-length", 206, f"bytes 10000-10999/{SIZE}", PART),
        ("swap", 206, f"bytes 10000-10999/{SIZE}", SECOND[10_000:11_000]),
        ("swap=10500", 206, "bytes 10000-10499/10500", SECOND[10_000:10_500]),
        ("rate=50000,delay=1ms", 206, f"bytes 10000-10999/{SIZE}", PART),
    ],
)
def test_one_answer(
    origin: MisbehavingOrigin, behaviour: str, status: int, content_range: str | None, body: bytes
) -> None:
    reply = ask(origin.url(behaviour, NAME), **ASKED)
    assert (reply.status, reply.content_range, reply.ended) == (status, content_range, "whole")
    assert reply.body == body


@pytest.mark.parametrize(
    ("behaviour", "absent"),
    [
        ("chunked", ["Content-Length"]),
        ("no-length", ["Content-Length", "Transfer-Encoding"]),
        ("no-accept-ranges", ["Accept-Ranges"]),
        ("no-etag", ["ETag"]),
        ("no-last-modified", ["Last-Modified"]),
        ("no-validators", ["ETag", "Last-Modified"]),
    ],
)
def test_a_header_is_missing(origin: MisbehavingOrigin, behaviour: str, absent: list[str]) -> None:
    for method in ("GET", HEAD):
        headers = ask(origin.url(behaviour, NAME), method, **ASKED).headers
        assert [headers[name] for name in absent] == [None] * len(absent)
    assert set(absent) - {"Transfer-Encoding"} <= set(ask(origin.plain(NAME)).headers)


@pytest.mark.parametrize(
    ("behaviour", "ended", "received"),
    [("short", "closed", 999), ("short=2K", "closed", 0), ("reset=10", "reset", 10), ("reset", "reset", 500)],
)
def test_a_body_that_does_not_end(origin: MisbehavingOrigin, behaviour: str, ended: str, received: int) -> None:
    reply = ask(origin.url(behaviour, NAME), **ASKED)
    assert (reply.status, reply.ended, reply.body) == (206, ended, PART[:received])
    assert reply.headers["Content-Length"] == "1000"


@pytest.mark.parametrize("behaviour", ["drop", "garbage", "huge-headers", "huge-headers=200K"])
def test_what_is_no_answer(origin: MisbehavingOrigin, behaviour: str) -> None:
    with pytest.raises(http.client.HTTPException):
        ask(origin.url(behaviour, NAME))


def test_more_than_it_said(origin: MisbehavingOrigin) -> None:
    for behaviour in ("extra=7", "endless"):
        url = origin.url(behaviour, "random-10-x")
        with Client(url) as client:
            client.connection.request("GET", urlsplit(url).path)
            sock = client.connection.sock
            received = b""
            while len(received.partition(b"\r\n\r\n")[2]) < 17:
                received += sock.recv(1)
            head, _, body = received.partition(b"\r\n\r\n")
            assert body == origin.expected("random-10-x") + bytes(7)
            assert (b"Content-Length: 10" in head) == (behaviour == "extra=7")


def test_dates(origin: MisbehavingOrigin) -> None:
    now = time.time()
    for behaviour, off in (("date", 3600), ("date=-60", -60)):
        shown = parsedate_to_datetime(ask(origin.url(behaviour, NAME)).headers["Date"]).timestamp()
        assert off - 1 <= shown - now <= off + 30


def test_cookies(origin: MisbehavingOrigin) -> None:
    assert ask(origin.url("cookie", NAME)).headers["Set-Cookie"] == "visitor=1; Path=/"
    assert ask(origin.url("cookie=a%3D2", NAME)).headers["Set-Cookie"] == "a=2; Path=/"


def test_gzip(origin: MisbehavingOrigin) -> None:
    assert ask(origin.url("gzip", NAME), **ASKED).headers["Content-Encoding"] is None
    for reply in (
        ask(origin.url("gzip", NAME), Accept_Encoding="gzip, br"),
        ask(origin.url("always-gzip", NAME)),
    ):
        assert reply.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(reply.body) == WHOLE
    part = ask(origin.url("always-gzip", NAME), Range="bytes=0-1")
    assert (part.status, part.body) == (206, b"\x1f\x8b")


def test_etags(origin: MisbehavingOrigin) -> None:
    weak = origin.url("weak-etag", NAME)
    etag = ask(weak).headers["ETag"]
    assert etag.startswith('W/"')
    assert ask(weak, If_Match=etag).status == 412
    assert ask(weak, If_None_Match=etag).status == 304
    assert ask(origin.url("etag=abc", NAME)).headers["ETag"] == '"abc"'
    varying = origin.url("etag-per-connection", NAME)
    with Client(varying) as client:
        assert client.ask(varying).headers["ETag"] == client.ask(varying).headers["ETag"]
        assert client.ask(varying).headers["ETag"] != ask(varying).headers["ETag"]
    assert ask(origin.url("no-conditions", NAME), If_Match='"other"').status == 200


@pytest.mark.parametrize(("behaviour", "status"), [("no-head", 405), ("no-head=403", 403)])
def test_head_refused(origin: MisbehavingOrigin, behaviour: str, status: int) -> None:
    assert ask(origin.url(behaviour, NAME), HEAD).status == status
    assert ask(origin.url(behaviour, NAME)).status == 200


def test_several_ranges_refused(origin: MisbehavingOrigin) -> None:
    assert ask(origin.url("no-multi-range", NAME), Range="bytes=0-1,5-6").status == 416
    assert ask(origin.url("no-multi-range=400", NAME), Range="bytes=0-1,5-6").status == 400


# --- what takes more than one request -------------------------------------------------------------


def test_when(origin: MisbehavingOrigin) -> None:
    def statuses(when: str) -> list[int]:
        url = origin.url(f"status=503{when}", NAME)
        return [ask(url, **ASKED).status for _ in range(4)]

    assert statuses("@2") == [503, 503, 206, 206]
    assert statuses("@2-3") == [206, 503, 503, 206]
    assert statuses("@3-") == [206, 206, 503, 503]
    assert statuses("@2+2") == [206, 503, 206, 503]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_refusals_and_retry_after(origin: MisbehavingOrigin, status: int) -> None:
    reply = ask(origin.url(f"status={status}", NAME))
    assert (reply.status, reply.headers["Retry-After"]) == (status, None)
    assert ask(origin.url(f"status={status}:7", NAME)).headers["Retry-After"] == "7"
    assert ask(origin.url(f"status={status}:d7", NAME)).headers["Retry-After"].endswith("GMT")


def test_swap(origin: MisbehavingOrigin) -> None:
    url = origin.url("swap@2-", NAME)
    first, second = ask(url), ask(url)
    assert (first.body, second.body) == (WHOLE, SECOND)
    assert first.headers["ETag"] != second.headers["ETag"]
    assert ask(url, If_Match=first.headers["ETag"]).status == 412
    assert origin.swap(NAME, 50_000) == 2
    assert ask(origin.plain(NAME)).body == SECOND[:50_000]
    origin.reset()
    assert ask(origin.plain(NAME)).body == WHOLE


def test_stale_slices(origin: MisbehavingOrigin) -> None:
    url = origin.url("swap,stale=10000", NAME)
    assert ask(url, Range="bytes=0-9").body == SECOND[:10]
    assert ask(url, Range="bytes=10000-10009").body == WHOLE[10_000:10_010]
    assert ask(url, Range="bytes=10000-10009", Cache_Control="no-cache").body == SECOND[10_000:10_010]


def test_redirects(origin: MisbehavingOrigin) -> None:
    url = origin.url("redirect=12:307,no-etag", NAME)
    for _ in range(12):
        reply = ask(url)
        assert reply.status == 307
        url = origin.base + reply.headers["Location"]
    assert url == origin.url("no-etag", NAME)
    reply = ask(origin.url("redirect-port", NAME))
    assert (reply.status, reply.headers["Location"]) == (302, f"{origin.other}/plain/{NAME}")
    assert ask(reply.headers["Location"]).body == WHOLE
    loop = origin.url("redirect-loop", NAME)
    assert origin.base + ask(loop).headers["Location"] == loop
    target = "https://example.invalid/a,b?c=d"
    assert ask(origin.url(f"redirect-to={quote(target, safe='')}", NAME)).headers["Location"] == target


def test_signed_urls_expire(origin: MisbehavingOrigin) -> None:
    for limit, status in (("2", 403), ("2:410", 410)):
        url = origin.url(f"signed={limit}", NAME)
        target = origin.base + ask(url).headers["Location"]
        assert ask(target.replace("%2B", "+")).status == status
        assert [ask(target).status for _ in range(3)] == [200, 200, status]
        assert ask(origin.base + ask(url).headers["Location"]).status == 200
    target = origin.base + ask(origin.url("signed=0.0001s", NAME)).headers["Location"]
    assert ask(target).status == 403


def test_bearer(origin: MisbehavingOrigin) -> None:
    url = origin.url("bearer=1", NAME)
    challenge = ask(url).headers["WWW-Authenticate"]
    realm = re.search(r'^Bearer realm="(.*?)",service=".*?",scope="blob:.*?:pull"$', challenge)
    assert realm is not None
    token = json.loads(ask(realm[1]).body)["token"]
    assert [ask(url, Authorization=f"Bearer {token}").status for _ in range(2)] == [200, 401]
    assert json.loads(ask(origin.base + "/token/90s").body)["expires_in"] == 90


def test_basic(origin: MisbehavingOrigin) -> None:
    url = origin.url("basic=me:pass", NAME)
    reply = ask(url)
    assert (reply.status, reply.headers["WWW-Authenticate"][:6]) == (401, "Basic ")
    right = base64.b64encode(b"me:pass").decode()
    assert ask(url, Authorization=f"Basic {right}").status == 200


def test_kept_alive_connections_that_close(origin: MisbehavingOrigin) -> None:
    for behaviour in ("close", "drop-reused"):
        url = origin.url(behaviour, NAME)
        with Client(url) as client:
            assert client.ask(url).headers["Connection"] is None
            with pytest.raises(ConnectionError):  # http.client.RemoteDisconnected is one
                client.ask(url)


# --- time -----------------------------------------------------------------------------------------


def test_delay_and_rate(origin: MisbehavingOrigin) -> None:
    for behaviour, least in (
        ("delay=50ms", 0.05),
        ("stall=0.05", 0.05),
        ("rate=10000", 0.1),
        ("stall-body=10:60ms", 0.06),
    ):
        start = time.monotonic()
        assert ask(origin.url(behaviour, NAME), **ASKED).body == PART
        assert time.monotonic() - start >= least


@pytest.mark.parametrize(("behaviour", "before"), [("stall", 0), ("stall-body=100", 100), ("rate=1", 0)])
def test_a_stall_lasts_until_the_client_leaves(origin: MisbehavingOrigin, behaviour: str, before: int) -> None:
    url = origin.url(behaviour, NAME)
    with Client(url, timeout=0.05) as client:
        with pytest.raises(TimeoutError):
            client.ask(url, **ASKED)
        stats = origin.stats(url)
        assert (stats["requests"], stats["open"], origin.under_way()) == (1, 1, 1)
        assert stats["body_bytes"] >= before
    assert origin.wait(url, most_open=0)["open"] == 0
    (line,) = origin.log()
    assert line["path"] == urlsplit(url).path


def test_a_stall_ends_when_released(origin: MisbehavingOrigin) -> None:
    url = origin.url("stall", NAME)
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda: replies.append(ask(url))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert origin.wait(url, requests=2)["peak"] == 2
    origin.release()
    for thread in threads:
        thread.join(10)
    assert [reply.body for reply in replies] == [WHOLE] * 2


# --- what it tells --------------------------------------------------------------------------------


def test_stats_and_log(origin: MisbehavingOrigin) -> None:
    url = origin.url("status=503@1", NAME) + "?secret=1"
    for _ in range(2):
        ask(url, Authorization="Basic abc", **ASKED)
        origin.wait(most_open=0)  # each connection has a thread, which logs after the client has its answer
    stats = origin.stats(url)
    refused = stats["body_bytes"] - 1000
    assert stats["statuses"] == {"503": 1, "206": 1}
    assert stats["ranges"] == ["bytes=10000-10999"] * 2
    first, second = origin.log()
    assert (first["status"], first["body_bytes"], second["body_bytes"]) == (503, refused, 1000)
    assert second["target"].endswith("?secret=1")
    assert second["headers"]["authorization"] == "Basic abc"
    assert (second["method"], second["range"]) == ("GET", "bytes=10000-10999")
    origin.reset()
    assert origin.log() == []
    assert origin.stats()["paths"] == {}


def test_help_has_a_line_for_each_behaviour_and_this_file_a_test() -> None:
    told = subprocess.run([str(ORIGIN), "--help"], capture_output=True, text=True, check=True, timeout=10).stdout
    tests = Path(__file__).read_text()
    for name, row in BEHAVIOURS.items():
        assert re.search(rf"^  {name}(\[=.*?\]+)? +[A-Z0-9]", told, re.MULTILINE), name
        assert row.before or row.after
        assert re.search(rf'["(,]{name}["=,@{{]', tests), name
