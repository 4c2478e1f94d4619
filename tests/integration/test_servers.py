"""The servers that other tests rely on do what tests/servers.py says of them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.certificates import self_signed
from tests.servers import MisbehavingOrigin, Nginx
from tests.webservers import PythonServer

BODY = bytes(range(256)) * 4096


@pytest.fixture
def docroot(tmp_path: Path) -> Path:
    docroot = tmp_path / "docroot"
    (docroot / "sub").mkdir(parents=True)
    (docroot / "a blob").write_bytes(BODY)
    return docroot


@pytest.fixture
def nginx(tmp_path: Path, docroot: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path / "nginx", docroot) as nginx:
        yield nginx


def get(url: str, trust: Path | None = None, **headers: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=trust)
        connection = http.client.HTTPSConnection(parts.netloc, timeout=10, context=context)
    connection.request("GET", parts.path, headers={name.replace("_", "-"): headers[name] for name in headers})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_nginx_serves_ranges_and_logs_each_request(nginx: Nginx) -> None:
    assert get(nginx.url + "/a%20blob", Range="bytes=5-9") == (206, BODY[5:10])
    assert get(nginx.url + "/a%20blob", If_Match='"other"')[0] == 412
    first, second = nginx.requests()
    assert (first.method, first.uri, first.status, first.range) == ("GET", "/a%20blob", 206, "bytes=5-9")
    assert (first.body_bytes, first.complete) == (5, True)
    assert (second.status, second.if_match) == (412, '"other"')
    assert nginx.body_bytes() == 5 + second.body_bytes
    nginx.forget()
    assert nginx.requests() == []
    get(nginx.url + "/missing")
    assert [request.status for request in nginx.requests()] == [404]


def test_nginx_lists_directories_both_ways(nginx: Nginx) -> None:
    assert b'<a href="a%20blob">a blob</a>' in get(nginx.url + "/")[1]
    names = {entry["name"]: entry["type"] for entry in json.loads(get(nginx.url + "/json/")[1])}
    assert names == {"a blob": "file", "sub": "directory"}


def test_a_request_that_its_client_gave_up_is_in_the_log_too(nginx: Nginx, docroot: Path) -> None:
    with (docroot / "large").open("wb") as file:
        file.truncate(1 << 30)
    with socket.create_connection(("127.0.0.1", nginx.port), 10) as sock:
        sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        with sock.makefile("rb") as reader:
            assert len(reader.read(100_000)) == 100_000
        assert nginx.requests(settle=False) == []
    (request,) = nginx.requests()
    assert not request.complete
    assert 0 < request.body_bytes < 1 << 30


def test_nginx_stops_and_starts_on_its_port_and_leaves_nothing(tmp_path: Path, docroot: Path) -> None:
    with Nginx(tmp_path / "nginx", docroot) as nginx:
        pid = int((tmp_path / "nginx" / "nginx.pid").read_text())
        nginx.stop()
        with pytest.raises(ConnectionRefusedError):
            get(nginx.url + "/")
        nginx.start()
        assert get(nginx.url + "/a%20blob") == (200, BODY)
        second_pid = int((tmp_path / "nginx" / "nginx.pid").read_text())
        assert pid != second_pid
    assert not Path(f"/proc/{second_pid}").exists()
    with pytest.raises(ConnectionRefusedError):
        get(nginx.url + "/")


def test_nginx_with_more_directives_and_tls(tmp_path: Path, docroot: Path) -> None:
    pem = self_signed(tmp_path)
    teapot = "location = /teapot { return 418; }"
    with Nginx(tmp_path / "nginx", docroot, server=teapot, http="etag off;", tls=pem) as nginx:
        assert nginx.url.startswith("https://")
        assert get(nginx.url + "/teapot", trust=pem)[0] == 418
        assert [request.uri for request in nginx.requests()] == ["/teapot"]


def test_nginx_that_cannot_start_says_why(tmp_path: Path, docroot: Path) -> None:
    nginx = Nginx(tmp_path / "nginx", docroot, server="no_such_directive;")
    with pytest.raises(RuntimeError, match="no_such_directive"), nginx:
        pass


def test_a_server_that_is_not_installed_says_so(tmp_path: Path, docroot: Path) -> None:
    class Missing(PythonServer):
        programs = ("no-such-program",)

    with pytest.raises(RuntimeError, match="no-such-program is not installed"), Missing(tmp_path / "missing", docroot):
        pass


def test_the_origin_is_gone_when_left(docroot: Path) -> None:
    with MisbehavingOrigin(docroot) as origin:
        assert get(origin.plain("a blob"), Range="bytes=1-3") == (206, BODY[1:4])
        assert origin.expected("a blob", 1, 4) == BODY[1:4]
        process = origin._process
    assert process.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        get(origin.plain("a blob"))


def test_the_origin_ends_with_whoever_started_it() -> None:
    with MisbehavingOrigin() as origin:
        assert origin._process.stdin is not None
        origin._process.stdin.close()
        assert origin._process.wait(10) == 0


def test_the_origin_with_tls_redirects_to_a_second_port_without(tmp_path: Path) -> None:
    pem = self_signed(tmp_path)
    with MisbehavingOrigin(tls=pem) as origin:
        assert origin.base.startswith("https://")
        assert origin.other.startswith("http://")
        assert get(origin.plain("random-10-x"), trust=pem) == (200, origin.expected("random-10-x"))
        assert get(origin.url("redirect-port", "random-10-x"), trust=pem)[0] == 302
