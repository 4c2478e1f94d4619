"""Many hosts, one origin: stores that share nothing but the tier of tools/shared-tier cost the origin its bytes once.

A host is a mount with a store of its own; it mounts from the front of one of the tier's nodes.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import under
from tests.certificates import self_signed
from tests.mounts import Mount, Mounts, on_mount, start
from tests.processes import sharing
from tests.processes.sharing import BLOB
from tests.processes.tier import NODES, SLICE, Tier
from tests.servers import Logged, MisbehavingOrigin, Nginx

SIZE = 32 * 1024 * 1024 + 12_345
HOSTS = 4
PATIENCE = 60.0

LOOK_UP = "bytes=0-0"
"""What a host asks with for size and version: a byte from the origin for each mount."""

ALL = {f"bytes={max(start, 1)}-{start + SLICE - 1}" for start in range(0, SIZE, SLICE)}
"""The slices of the blob, as the origin is asked for them: a host has the first byte from its look-up."""


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


@pytest.fixture
def nginx(tmp_path: Path, docroot: Path, pem: Path) -> Iterator[Nginx]:
    """The origin. Under /private/ it has the same files, for whom they are meant; it is slow enough to be met at it."""
    private = f"location /private/ {{ alias {docroot}/; add_header Cache-Control private; }}"
    server = f"limit_rate 16m; add_header Cache-Control max-age=0; {private}"
    with Nginx(tmp_path / "nginx", docroot, server=server, tls=pem) as nginx:
        yield nginx


@pytest.fixture
def tier(tmp_path: Path, nginx: Nginx, pem: Path) -> Iterator[Tier]:
    with Tier(tmp_path, nginx.url, pem) as tier:
        yield tier


@pytest.fixture
def digest(docroot: Path) -> str:
    return sharing.make_blob(docroot, SIZE)


def host(mounts: Mounts, url: str, *options: str) -> Mount:
    """Mount a URL on a store that nobody else has."""
    number = len(list(mounts.directory.glob("store*")))
    return mounts(url, store=mounts.directory / f"store{number}", options=options)


def hosts(mounts: Mounts, tier: Tier, *, fronts: int = NODES) -> list[Mount]:
    """Mount the blob on four hosts, dealt out to so many fronts."""
    return [host(mounts, f"{tier.url(number % fronts)}/{BLOB}") for number in range(HOSTS)]


def slices(requests: list[Logged]) -> Counter[str]:
    """Return how often each slice was asked for."""
    assert {request.status for request in requests} <= {206}
    return Counter(request.range for request in requests if request.range != LOOK_UP)


def test_four_hosts_cost_the_origin_each_byte_once(mounts: Mounts, nginx: Nginx, tier: Tier, digest: str) -> None:
    four = hosts(mounts, tier)
    passages = [task.result(PATIENCE) for task in sharing.read_all(four, HOSTS)]
    assert [passage.digest for passage in passages] == [digest] * HOSTS
    assert slices(nginx.requests()) == Counter(ALL)
    assert nginx.body_bytes() == SIZE - 1 + HOSTS, "all but the first byte once, and that one for each host"
    assert [mount.counters()["origin_bytes"] for mount in four] == [SIZE] * HOSTS
    assert all(tier.kept(number) for number in range(NODES)), "one blob is spread over all nodes"


def test_hosts_that_read_at_random_cost_the_origin_only_what_they_read(
    mounts: Mounts, nginx: Nginx, tier: Tier, docroot: Path, digest: str
) -> None:
    four, source = hosts(mounts, tier), str(docroot / BLOB)
    tasks = [start(under.differing_reads, mount.path(BLOB), source, 2, 10, seed) for seed, mount in enumerate(four)]
    assert [task.result(PATIENCE) for task in tasks] == [[]] * HOSTS
    asked = slices(nginx.requests())
    assert asked.keys() < ALL
    assert set(asked.values()) == {1}
    assert on_mount(under.sha256, four[0].path(BLOB)) == digest
    assert slices(nginx.requests()) == Counter(ALL)


def test_a_dead_node_costs_the_origin_its_slices_again(mounts: Mounts, nginx: Nginx, tier: Tier, digest: str) -> None:
    assert on_mount(under.sha256, host(mounts, f"{tier.url()}/{BLOB}").path(BLOB)) == digest
    lost = tier.kept(NODES - 1)
    tier.nodes[-1].stop()
    nginx.forget()
    four = hosts(mounts, tier, fronts=NODES - 1)
    passages = [task.result(PATIENCE) for task in sharing.read_all(four, HOSTS)]
    assert [passage.digest for passage in passages] == [digest] * HOSTS
    assert [mount.counters()["retries"] for mount in four] == [0] * HOSTS, "they do not notice"
    again = slices(nginx.requests())
    assert len(again) == lost < len(ALL)
    assert set(again.values()) == {1}


def test_a_node_that_dies_meanwhile_stops_nobody(mounts: Mounts, nginx: Nginx, tier: Tier, digest: str) -> None:
    four = hosts(mounts, tier, fronts=NODES - 1)
    tasks = sharing.read_all(four, HOSTS)
    on_mount(under.pass_through, four[0].path(BLOB), SIZE // 4)  # so far have they come
    tier.nodes[-1].stop()
    passages = [task.result(PATIENCE) for task in tasks]
    assert [(passage.digest, passage.error) for passage in passages] == [(digest, 0)] * HOSTS
    asked = slices(nginx.requests())
    assert asked.keys() == ALL
    assert max(asked.values()) <= 2, "of the dead one, and of the one that stands in for it"


@pytest.fixture
def origin(pem: Path) -> Iterator[MisbehavingOrigin]:
    with MisbehavingOrigin(tls=pem) as origin:
        yield origin


@pytest.mark.parametrize("how", ["reset", "short=9"])
def test_a_slice_that_is_cut_short_shifts_nothing(
    mounts: Mounts, origin: MisbehavingOrigin, tmp_path: Path, pem: Path, how: str
) -> None:
    name = "random-4M-x"
    url = origin.url(",".join(f"{how}@{nth}-{nth}" for nth in (7, 11, 15)), name)  # in the midst of what it asks for
    with Tier(tmp_path, url, pem) as tier:
        mount = host(mounts, tier.url() + urlsplit(url).path)
        assert on_mount(under.sha256, mount.path(name)) == hashlib.sha256(origin.expected(name)).hexdigest()
        assert mount.counters()["retries"] > 0, "it has met some"


@pytest.mark.parametrize("size", ["64K", "1M"])
def test_blocks_of_another_size_are_not_to_be_had(mounts: Mounts, tier: Tier, docroot: Path, size: str) -> None:
    (docroot / BLOB).write_bytes(bytes(4 * SLICE))
    mount = host(mounts, f"{tier.url()}/{BLOB}", "--block-size", size, "--read-timeout", "1")
    assert on_mount(under.timed_read, mount.path(BLOB), 2 * SLICE).error == errno.EIO


# A new version at the origin.


@pytest.mark.parametrize("behaviours", ["", "no-conditions"], ids=["If-Match honoured", "If-Match ignored"])
@pytest.mark.parametrize("kept", ["all", "a slice"])
def test_nobody_reads_a_mix_of_versions(
    mounts: Mounts, origin: MisbehavingOrigin, tmp_path: Path, pem: Path, behaviours: str, kept: str
) -> None:
    """`kept` is what the tier has of the old version when the new one comes."""
    name = "random-4M-x"
    url = origin.url(behaviours, name)
    old, new = origin.expected(name), origin.expected(name, version=2)
    with Tier(tmp_path, url, pem) as tier:
        path = urlsplit(url).path
        first, second = (host(mounts, tier.url(number) + path) for number in range(2))
        assert on_mount(under.read, first.path(name), 0, len(old) if kept == "all" else 1) in (old, old[:1])
        reading = start(under.hold_and_read, second.path(name))
        reading.wait_until_open()
        origin.swap(name)
        reading.go()
        if kept == "all":
            assert reading.result() == old, "the tier has it, whatever the origin has by now"
        else:
            with pytest.raises(OSError, match=f"Errno {errno.ESTALE}"):
                reading.result()
            for mount in (first, second):
                assert on_mount(under.read_when_it_works, mount.path(name), 20.0) == new
        third = host(mounts, tier.url(2) + path)
        assert on_mount(under.sha256, third.path(name)) == hashlib.sha256(new).hexdigest()


# What the tier passes on, and what it keeps.


CONTENT = bytes(range(256)) * 4096
RANGE = "bytes=262144-999999"
FIRST = "bytes=262144-524287"
"""The slice in which that begins."""
CONTENT_OF_FIRST = CONTENT[262_144:524_288]


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
    """Ask as lazyfs does, unless the headers say otherwise; return the status, the ETag and the body of the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    sent = {"User-Agent": "lazyfs/0", **{name.replace("_", "-"): text for name, text in headers.items()}}
    connection.request(method, url.partition(parts.netloc)[2], headers=sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers.get("ETag", ""), content


@pytest.fixture
def etag(docroot: Path, nginx: Nginx, tier: Tier) -> str:
    (docroot / "a b").write_bytes(CONTENT)
    etag = ask(tier.url() + "/a%20b", "HEAD")[1]
    assert [request.method for request in nginx.requests()] == ["HEAD"]
    nginx.forget()
    return etag


def test_what_names_its_version_is_cut_and_kept(nginx: Nginx, tier: Tier, etag: str) -> None:
    for number in range(NODES):
        url = tier.url(number) + "/a%20b?x=%2F"
        assert ask(url, Range=RANGE, If_Match=etag) == (206, etag, CONTENT_OF_FIRST)
    (only,) = nginx.requests()
    assert (only.uri, only.range, only.if_match) == ("/a%20b?x=%2F", FIRST, etag)


def test_the_rest_is_passed_on(nginx: Nginx, tier: Tier, etag: str) -> None:
    url, asked = tier.url() + "/a%20b", (206, etag, CONTENT[262_144:1_000_000])
    for _ in range(2):
        assert ask(url, Range=RANGE) == asked
    assert ask(url, Range=RANGE, If_Match=etag, User_Agent="curl/8") == asked
    assert [request.range for request in nginx.requests()] == [RANGE] * 3
    assert ask(url, Range=RANGE, If_Match='"another"')[0] == 412
    assert ask(url)[2] == CONTENT
    assert ask(url, If_None_Match=etag)[0] == 304
    assert ask(tier.url() + "/missing", Range=RANGE, If_Match=etag)[0] == 404


def test_an_index_is_passed_on(mounts: Mounts, tier: Tier, docroot: Path) -> None:
    (docroot / "below").mkdir()
    (docroot / "a b").write_bytes(CONTENT)
    mount = host(mounts, tier.url() + "/")
    assert on_mount(under.names, mount.path()) == ["a b", "below"]
    assert on_mount(under.names, mount.path("below")) == []
    assert on_mount(under.read, mount.path("a b")) == CONTENT


def test_no_cache_asks_past_what_is_kept(nginx: Nginx, tier: Tier, etag: str) -> None:
    for count, cache in ((1, ""), (1, ""), (2, "no-cache"), (2, "")):
        headers = {"Range": RANGE, "If_Match": etag, "Cache_Control": cache}
        assert ask(tier.url() + "/a%20b", **headers) == (206, etag, CONTENT_OF_FIRST)
        assert len(nginx.requests()) == count


def test_what_its_origin_calls_private_is_not_kept(nginx: Nginx, tier: Tier, etag: str) -> None:
    for _ in range(2):
        assert ask(tier.url() + "/private/a%20b", Range=RANGE, If_Match=etag) == (206, etag, CONTENT_OF_FIRST)
    assert [request.range for request in nginx.requests()] == [FIRST] * 2


@pytest.mark.parametrize("behaviours", ["no-conditions", "etag=asked,elsewhere", "etag=asked,no-length"])
def test_an_answer_that_proves_nothing_is_not_kept(
    origin: MisbehavingOrigin, tmp_path: Path, pem: Path, behaviours: str
) -> None:
    url = origin.url(behaviours, "random-1M-x")
    with Tier(tmp_path, url, pem) as tier:
        for count in (1, 2):
            assert ask(tier.url() + urlsplit(url).path, Range=RANGE, If_Match='"asked"')[0] == 206
            assert origin.stats(url)["requests"] == count


def test_hosts_send_the_origin_nothing_of_their_own(nginx: Nginx, tier: Tier, docroot: Path) -> None:
    (docroot / "blob").write_bytes(b"content")
    _, etag, _ = ask(tier.url() + "/blob", Authorization="Basic secret")
    ask(tier.url() + "/blob", Authorization="Basic secret", If_Match=etag)
    assert ask(tier.url() + "/blob", "HEAD") == (200, etag, b"")
    assert ask(tier.url() + "/blob", "DELETE")[0] == 403
    assert [(request.method, request.authorization) for request in nginx.requests()] == [
        ("GET", ""),
        ("GET", ""),
        ("HEAD", ""),
    ]


def test_an_origin_with_a_certificate_of_somebody_else_is_not_asked(nginx: Nginx, tmp_path: Path, pem: Path) -> None:
    with Tier(tmp_path, nginx.url, pem, name="somebody.example.net") as tier:
        assert ask(tier.url() + "/blob")[0] == 502
    assert nginx.requests() == []
