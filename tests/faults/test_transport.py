"""How requests are carried: through proxies, with client certificates, and what they never carry."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from lazyfs import urls
from lazyfs.errors import LazyfsError, OriginDenied, OriginUnreachable, UsageError
from lazyfs.native import receiving
from lazyfs.options import DIRECT, OriginOptions
from lazyfs.origin.own import Own
from lazyfs.origin.proxies import Proxies
from lazyfs.origin.transport import ENVIRONMENT, Transport, TransportOptions
from tests.certificates import LOOPBACK, Authority
from tests.servers import Nginx
from tests.serving import PATIENCE

CONTENT = b"through and through"


class Proxy:
    """An HTTP proxy on loopback, for CONNECT and for requests in absolute form; `asked` are their first lines."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            line, rest = head.split(b"\r\n", 1)
            self.asked.append(line.decode())
            method, target, _ = line.decode().split(" ")
            if method == "CONNECT":
                host, port = target.split(":")
                client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                _, host, port = urls.origin_of(target)  # type: ignore[assignment]
            with socket.create_connection((host, int(port)), PATIENCE) as server:
                if method != "CONNECT":
                    server.sendall(f"GET /{target.split('/', 3)[3]} HTTP/1.1\r\n".encode() + rest)
                back = threading.Thread(target=_pour, args=(server, client), daemon=True)
                back.start()
                _pour(client, server)
                back.join(PATIENCE)


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def secure(tmp_path: Path, docroot: Path, authority: Authority) -> Iterator[Nginx]:
    """An nginx with TLS, which tells whose certificate it was shown."""
    shown = f"ssl_client_certificate {authority.pem}; ssl_verify_client optional; add_header X-Shown $ssl_client_s_dn;"
    with Nginx(tmp_path / "secure", docroot, tls=authority.issue("server", *LOOPBACK), server=shown) as nginx:
        yield nginx


def get(options: TransportOptions, *places: str, own: Iterable[OriginOptions] = ()) -> list[tuple[int, bytes, str]]:
    """Return the status and body at each URL, and whose client certificate was seen there."""
    found = []

    async def main() -> None:
        transport = Transport(options, Own(own))
        try:
            for url in places:
                async with aclosing(await transport.send(url, [])) as reply:
                    body = bytearray(1000)
                    count = await reply.receive_into(memoryview(body))
                    found.append((reply.status, bytes(body[:count]), reply.headers.get("x-shown", "")))
        finally:
            await transport.aclose()

    trio.run(main)
    return found


@pytest.fixture(autouse=True)
def _content(docroot: Path) -> None:
    (docroot / "file").write_bytes(CONTENT)


def test_a_proxy_carries_http_and_https(proxy: Proxy, nginx: Nginx, secure: Nginx, authority: Authority) -> None:
    options = TransportOptions(ca_file=authority.pem, proxy=proxy.url)
    found = get(options, f"{nginx.url}/file", f"{secure.url}/file")
    assert found == [(200, CONTENT, "")] * 2
    assert [line.split(" ")[0] for line in proxy.asked] == ["GET", "CONNECT"]


def test_through_a_proxy_certificates_are_checked_all_the_same(proxy: Proxy, secure: Nginx) -> None:
    with pytest.raises(OriginUnreachable, match="certificate"):
        get(TransportOptions(proxy=proxy.url), f"{secure.url}/file")


def test_the_environments_proxies_count_only_when_asked(
    proxy: Proxy, nginx: Nginx, secure: Nginx, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    places = (f"{nginx.url}/file", f"{secure.url}/file")
    assert get(TransportOptions(ca_file=authority.pem), *places) == [(200, CONTENT, "")] * 2
    assert proxy.asked == []
    asking = TransportOptions(ca_file=authority.pem, proxy=ENVIRONMENT)
    get(asking, *places)
    assert len(proxy.asked) == 2
    for excepted in ("127.0.0.1", "elsewhere, 127.0.0.1", "*"):
        monkeypatch.setenv("no_proxy", excepted)
        get(asking, *places)
    assert len(proxy.asked) == 2


@pytest.mark.parametrize(
    ("no_proxy", "excepted", "asked"),
    [
        ("localhost,::1", "http://[::1]:9/", "http://elsewhere.example/"),
        ("[::1]", "http://[::1]:9/", "http://[::2]:9/"),
        ("intern.example", "http://a.intern.example/", "http://myintern.example/"),
        (".intern.example", "http://a.intern.example/", "http://myintern.example/"),
        ("*.intern.example", "http://a.intern.example/", "http://myintern.example/"),
        ("intern.example:9", "http://intern.example:9/", "http://intern.example/"),
        ("10.1.2.3", "http://10.1.2.3/", "http://10.1.2.4/"),
        ("fe80::/10, ::: , 10.1.2.3", "http://10.1.2.3/", "http://[fe80::1]/"),
        ("10.0.0.0/8, INTERN.example", "http://intern.example/", "http://10.0.0.0/"),
    ],
)
def test_what_the_environment_excepts_is_asked_directly(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, excepted: str, asked: str
) -> None:
    """As curl and Python's urllib read it; what is no host or address of one says nothing."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:8080")
    monkeypatch.setenv("no_proxy", no_proxy)

    proxies = Proxies(ENVIRONMENT, Own())
    assert proxies.of(urls.origin_of(excepted)) is None
    assert proxies.of(urls.origin_of(asked)) == "http://proxy.example:8080"


@pytest.mark.parametrize("proxy", ["socks5://:s3cret@proxy.example", "http://"])
def test_a_proxy_in_the_environment_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)

    async def main() -> None:
        with pytest.raises(UsageError, match="http_proxy: a proxy is an http or https URL") as caught:
            Transport(TransportOptions(proxy=ENVIRONMENT))
        assert "s3cret" not in str(caught.value)

    trio.run(main)


def test_a_client_certificate_is_shown_to_those_who_were_named(
    proxy: Proxy, tmp_path: Path, docroot: Path, secure: Nginx, authority: Authority
) -> None:
    mine = authority.issue("me", "DNS:me.example")
    named = frozenset({urls.origin_of(secure.url)})
    shown = f"ssl_client_certificate {authority.pem}; ssl_verify_client optional; add_header X-Shown $ssl_client_s_dn;"
    tls = authority.issue("other", *LOOPBACK)
    with Nginx(tmp_path / "other", docroot, tls=tls, server=shown) as other:
        for through in (None, proxy.url):
            options = TransportOptions(authority.pem, mine, None, through, named)
            first, second = get(options, f"{secure.url}/file", f"{other.url}/file")
            assert (first, second) == ((200, CONTENT, "CN=me"), (200, CONTENT, ""))


@pytest.mark.parametrize("by_c", [True, False])
def test_an_origin_is_trusted_and_shown_what_is_said_of_it(
    proxy: Proxy,
    tmp_path: Path,
    docroot: Path,
    secure: Nginx,
    authority: Authority,
    by_c: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By C, by the ssl module, and through a proxy: its own authority and certificate, and nobody else's."""
    assert receiving.AVAILABLE, "the receiver was not built"
    monkeypatch.setattr(receiving, "AVAILABLE", by_c)
    second = Authority(tmp_path / "second")
    mine, here = authority.issue("me", "DNS:me.example"), urls.origin_of(secure.url)
    with Nginx(tmp_path / "other", docroot, tls=second.issue("server", *LOOPBACK)) as other:
        there, places = urls.origin_of(other.url), (f"{secure.url}/file", f"{other.url}/file")
        own = [OriginOptions(here, ca_file=authority.pem), OriginOptions(there, ca_file=second.pem)]
        shows = [OriginOptions(here, ca_file=authority.pem, client_certificate=mine), own[1]]
        crossed = [OriginOptions(here, ca_file=second.pem), OriginOptions(there, ca_file=authority.pem)]
        for through in (None, proxy.url):
            options = TransportOptions(proxy=through)
            assert get(options, *places, own=own) == [(200, CONTENT, "")] * 2
            assert get(options, *places, own=shows) == [(200, CONTENT, "CN=me"), (200, CONTENT, "")]
            for url in places:
                with pytest.raises(OriginUnreachable):
                    get(options, url, own=crossed)


def test_an_origin_has_its_own_way_through_proxies_or_none(proxy: Proxy, nginx: Nginx) -> None:
    host, port = urls.origin_of(nginx.url)[1:]
    url, nobody = f"{nginx.url}/file", "http://127.0.0.1:1"
    through = [OriginOptions(("http", host, port), proxy=proxy.url)]
    for options in (TransportOptions(), TransportOptions(proxy=nobody)):
        assert get(options, url, own=through) == [(200, CONTENT, "")]
    assert len(proxy.asked) == 2
    direct = [OriginOptions(("http", host, port), proxy=DIRECT)]
    assert get(TransportOptions(proxy=nobody), url, own=direct) == [(200, CONTENT, "")]
    assert len(proxy.asked) == 2


def test_a_way_through_proxies_is_an_origins_and_not_that_of_another_port() -> None:
    """Not of its host's usual port, either; and what is said of one host leaves nothing of its domain's."""
    general, domain, one = "http://general.example", "http://domain.example", "http://one.example"
    proxies = Proxies(
        general,
        Own(
            [
                OriginOptions(("https", "*.example.org", 443), proxy=domain),
                OriginOptions(("https", "a.example.org", 443), proxy=one),
                OriginOptions(("https", "b.example.org", 443), rate=1 << 20),
                OriginOptions(("https", "::1", 443), proxy=DIRECT),
            ]
        ),
    )
    for url, proxy in (
        ("https://a.example.org/", one),
        ("https://A.example.org:443/", one),
        ("https://a.example.org:8443/", general),
        ("http://a.example.org/", general),
        ("https://b.example.org/", general),
        ("https://c.example.org/", domain),
        ("https://c.example.org:8443/", general),
        ("https://example.org/", general),
        ("https://[::1]/", None),
        ("https://[::1]:8443/", general),
    ):
        assert proxies.of(urls.origin_of(url)) == proxy, url


@pytest.mark.parametrize("through", [False, True])
def test_files_for_tls_that_cannot_be_used_are_a_denial_at_once(
    proxy: Proxy, tmp_path: Path, nginx: Nginx, secure: Nginx, authority: Authority, through: bool
) -> None:
    """Of their origin, and of no other; asked again, it would be the same."""
    missing, here = tmp_path / "missing.pem", urls.origin_of(secure.url)
    options = TransportOptions(ca_file=authority.pem, proxy=proxy.url if through else None)
    for own in (OriginOptions(here, ca_file=missing), OriginOptions(here, client_certificate=missing)):
        with pytest.raises(OriginDenied, match=r"missing\.pem: No such file or directory") as caught:
            get(options, f"{secure.url}/file", own=[own])
        assert not caught.value.retryable
        assert get(options, f"{nginx.url}/file", own=[own]) == [(200, CONTENT, "")]


def test_no_cookie_is_kept(nginx: Nginx, tmp_path: Path, docroot: Path) -> None:
    extra = 'add_header Set-Cookie "session=1"; add_header X-Shown "$http_cookie";'
    with Nginx(tmp_path / "baker", docroot, server=extra) as baker:
        assert [shown for _, _, shown in get(TransportOptions(), *[f"{baker.url}/file"] * 3)] == [""] * 3


def test_the_body_may_be_waited_for_before_it_is_taken(nginx: Nginx) -> None:
    async def main() -> None:
        transport = Transport(TransportOptions())
        async with aclosing(await transport.send(f"{nginx.url}/file", [])) as reply:
            await reply.wait_for_body()
            await reply.wait_for_body()
            body, length = bytearray(100), 0
            while count := await reply.receive_into(memoryview(body)[length : length + 4]):
                length += count
            assert bytes(body[:length]) == CONTENT
        await transport.aclose()

    trio.run(main)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://no-such-host.invalid/x", "https://127.0.0.1:1/x"])
def test_every_failure_is_one_of_ours(url: str) -> None:
    with pytest.raises(LazyfsError):
        get(TransportOptions(), url)
