"""The same images through every web server that people have, plain, and with TLS by an authority of their own."""

from __future__ import annotations

import hashlib
import os
import random
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from lazyfs.records import DEFAULT_BLOCK_SIZE as BLOCK
from lazyfs.versions import http_date_ns
from tests import under
from tests.certificates import LOOPBACK, Authority
from tests.mounts import Mounts, lazyfs, on_mount, run
from tests.servers import Nginx
from tests.serving import PATIENCE, Server
from tests.webservers import Apache, Caddy, Lighttpd, PythonServer

MINUTE = 60 * 10**9

IMAGE = "disk.img"
DEEP = "a directory/ünïcode"
ODD = f"{DEEP}/50% #1 a+b=c? & more.img"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pem(authority: Authority) -> Path:
    """What a server needs for TLS."""
    return authority.issue("loopback", *LOOPBACK)


@pytest.fixture(scope="module")
def docroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an image of the same tree in each format, and with what else may be hard to serve."""
    tree, docroot = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("docroot")
    (tree / "random").write_bytes(random.Random(1).randbytes(2_000_000))
    (tree / "text").write_text("line\n" * 10_000)
    run(["mkfs.ext4", "-q", "-d", tree, docroot / IMAGE, "4M"])
    run(["mksquashfs", tree, docroot / "disk.squashfs", "-quiet", "-no-progress"])
    run(["mkfs.erofs", "--quiet", docroot / "disk.erofs", tree])
    (docroot / DEEP).mkdir(parents=True)
    (docroot / ODD).write_bytes(random.Random(2).randbytes(BLOCK + 1))
    (docroot / "empty.img").touch()
    (docroot / "one byte.img").write_bytes(b"!")
    for number, path in enumerate(files(docroot).values()):
        os.utime(path, (1_600_000_000 + number * 100_001,) * 2)
    return docroot


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, pem: Path) -> Path | None:
    """With TLS and without."""
    return pem if request.param == "https" else None


@pytest.fixture(params=[Nginx, Apache, Lighttpd, Caddy, PythonServer])
def server(request: pytest.FixtureRequest, docroot: Path, tls: Path | None, tmp_path: Path) -> Iterator[Server]:
    """Each server."""
    kind: type[Server] = request.param
    with kind(tmp_path / "server", docroot, tls=tls) as server:
        yield server


def files(directory: Path) -> dict[str, Path]:
    """Find files, to any depth."""
    return {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}


def date(server: Server, name: str, authority: Authority) -> int | None:
    """Return what a server says in Last-Modified."""
    trust = ssl.create_default_context(cafile=authority.pem) if server.tls else None
    with urlopen(Request(f"{server.url}/{quote(name)}", method="HEAD"), timeout=PATIENCE, context=trust) as answer:
        return http_date_ns(answer.headers["Last-Modified"])


def test_an_image_is_the_same_by_every_server(
    server: Server, docroot: Path, authority: Authority, mounts: Mounts
) -> None:
    expected = files(docroot)
    mount = mounts(server.url + "/", options=["--ca-file", authority.pem] if server.tls else [])
    on_mount(under.wait_for_names, mount.path(), 6, 20.0)  # all but nginx's come one by one, as each is asked
    on_mount(under.wait_for_names, mount.path(DEEP), 1, 20.0)
    listed = on_mount(under.tree, mount.path())
    before = mount.counters()["origin_bytes"]

    seen = {name: one for name, one in listed.items() if name in expected}
    assert listed.keys() - seen.keys() == {"a directory", DEEP}
    assert {name: one.size for name, one in seen.items()} == {name: expected[name].stat().st_size for name in expected}
    assert {one.mode for one in seen.values()} == {0o444}

    dates = {name: path.stat().st_mtime_ns for name, path in expected.items()}
    if isinstance(server, Nginx):  # its index says all that is shown, dates to the minute, so no file is asked
        dates = {name: at - at % MINUTE for name, at in dates.items()}
    else:
        said = {name: date(server, name, authority) for name in dates}
        undated = {"disk.squashfs", "disk.erofs"} if isinstance(server, Lighttpd) else set()
        assert said == dates | dict.fromkeys(undated)
        dates = {name: at for name, at in dates.items() if name not in undated}
    assert {name: seen[name].mtime_ns for name in dates} == dates

    if not isinstance(server, PythonServer):  # which has no ranges: a file comes whole, in one pass
        middle = seen[IMAGE].size // 2
        content = on_mount(under.read, mount.path(IMAGE), middle, 4096)
        assert content == expected[IMAGE].read_bytes()[middle : middle + 4096]
        assert mount.counters()["origin_bytes"] - before <= BLOCK + 1  # the block, and the byte that asks of the file

    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in expected.items()}
    assert on_mount(under.sha256_tree, mount.path()) == digests
    counters = mount.counters()
    total = sum(path.stat().st_size for path in expected.values())
    assert total - len(expected) <= counters["origin_bytes"] - before <= total, "each byte once"
    assert (counters["errors"], counters["blocks_corrupt"]) == (0, 0)


def test_a_server_is_trusted_by_its_authority_and_under_its_names_only(
    docroot: Path, authority: Authority, pem: Path, mounts: Mounts, tmp_path: Path
) -> None:
    elsewhere = authority.issue("elsewhere", "DNS:elsewhere.example", "IP:127.0.0.2")
    trust: list[str | Path] = ["--ca-file", authority.pem]
    at = tmp_path / "mount"
    at.mkdir()
    with (
        Nginx(tmp_path / "server", docroot, tls=pem) as server,
        Nginx(tmp_path / "impostor", docroot, tls=elsewhere) as impostor,
    ):

        def refusal(source: str, *options: str | Path) -> str:
            done = lazyfs("mount", "--store", tmp_path / "store", *options, source, at)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
            return done.stderr

        for name in ("", IMAGE):
            assert f"{server.url}/{name}: no TLS connection: certificate not trusted" in refusal(f"{server.url}/{name}")
            assert "not valid for '127.0.0.1'" in refusal(f"{impostor.url}/{name}", *trust)
        assert server.requests() == impostor.requests() == []
        by_name = mounts(f"https://localhost:{server.port}/{IMAGE}", options=trust)
        assert on_mount(under.read, by_name.path(IMAGE), 0, 4096) == (docroot / IMAGE).read_bytes()[:4096]
