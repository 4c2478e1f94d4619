"""lazyfs.origin.securing: whom TLS believes, and what it makes of a peer that breaks off; by C and the ssl module."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import random
import select
import socket
import ssl
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
import trio

from lazyfs.native import receiving
from lazyfs.native.receiving import Reception
from lazyfs.origin import wire
from lazyfs.origin.connection import Connection
from lazyfs.origin.securing import Secured, Trust
from tests.certificates import LOOPBACK, Authority, self_signed
from tests.serving import PATIENCE

MUCH = 1 << 30
NOWHERE = (-1, 0, 0)  # a place without room
LONG = 60.0


@pytest.fixture(params=["C", "the ssl module"])
def by_c(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    assert receiving.AVAILABLE, "the receiver was not built"
    monkeypatch.setattr(receiving, "AVAILABLE", request.param == "C")
    return bool(request.param == "C")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def server_context(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@contextlib.contextmanager
def serving(context: ssl.SSLContext, answer: Callable[[ssl.SSLSocket], object]) -> Iterator[int]:
    """Have a TLS server on loopback that does `answer` with its one connection; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                with peer, context.wrap_socket(peer, server_side=True) as secured:
                    answer(secured)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(PATIENCE)
        assert not thread.is_alive()


async def connected(port: int, trust: Trust, host: str) -> Connection:
    connection = await Connection.open("127.0.0.1", port)
    try:
        with trio.fail_after(PATIENCE):
            await connection.secure(trust, host)
    except BaseException:
        connection.close()
        raise
    return connection


def refused(context: ssl.SSLContext, trust: Trust, host: str) -> str:
    """Return in which words a server is refused, after how much has been sent to it."""

    async def main() -> str:
        serves = serving(context, lambda peer: heard.append(peer.recv(1)))
        with serves as port, pytest.raises(ssl.SSLError) as raised:
            await connected(port, trust, host)
        return wire.words(raised.value)

    heard: list[bytes] = []
    words = trio.run(main)
    assert heard in ([], [b""])
    return words


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST", "a.example.org", "xn--bcher-kva.example", "bücher.example"]
)
def test_who_has_a_certificate_for_its_name_is_believed(by_c: bool, authority: Authority, host: str) -> None:
    names = (*LOOPBACK, "DNS:*.example.org", "DNS:xn--bcher-kva.example")
    context, seen = server_context(authority.issue("server", *names)), []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)

    async def main() -> None:
        with serving(context, lambda peer: peer.sendall(peer.recv(9) * 2)) as port:
            connection = await connected(port, Trust(authority.pem), host)
            assert isinstance(connection._socket, Secured) == by_c
            await connection.send_all(b"abc")
            assert await connection.receive(9) == b"abcabc"
            assert await connection.receive(9) == b""
            connection.close()

    trio.run(main)
    assert [name and name.lower() for name in seen] == [
        None if host == "127.0.0.1" else host.lower().encode("idna").decode()
    ]


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.0.0.2", "IP address mismatch"),
        ("::1", "IP address mismatch"),
        ("other.example", "Hostname mismatch"),
        ("localhost.example", "Hostname mismatch"),
        ("a.b.example.org", "Hostname mismatch"),
        ("example.org", "Hostname mismatch"),
        ("wwwa.example.net", "Hostname mismatch"),  # a wildcard is a whole label
        ("subject", "Hostname mismatch"),  # which is the certificate's subject, and that is no name
    ],
)
def test_who_has_a_certificate_for_another_name_is_refused(
    by_c: bool, authority: Authority, host: str, words: str
) -> None:
    context = server_context(authority.issue("subject", *LOOPBACK, "DNS:*.example.org", "DNS:www*.example.net"))
    said = refused(context, Trust(authority.pem), host)
    assert words in said
    assert "--ca-file" not in said


def test_whose_authority_is_not_named_is_refused(by_c: bool, authority: Authority, tmp_path: Path) -> None:
    context = server_context(authority.issue("server", *LOOPBACK))
    for trust in (Trust(), Trust(Authority(tmp_path / "other").pem)):
        assert "name its authority with --ca-file" in refused(context, trust, "localhost")


def test_who_vouches_for_itself_is_refused(by_c: bool, authority: Authority, tmp_path: Path) -> None:
    context = server_context(self_signed(tmp_path))
    for trust in (Trust(), Trust(authority.pem)):
        assert "self-signed certificate" in refused(context, trust, "localhost").replace("self signed", "self-signed")


def test_whose_certificate_has_expired_is_refused(by_c: bool, tmp_path: Path) -> None:
    pem, expired = self_signed(tmp_path), tmp_path / "expired.pem"
    words: list[str | Path] = ["openssl", "x509", "-in", pem, "-signkey", pem, "-days", "-1", "-out", expired]
    subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE)
    expired.write_bytes(expired.read_bytes() + pem.read_bytes()[pem.read_bytes().index(b"-----BEGIN PRIVATE") :])
    assert "certificate has expired" in refused(server_context(expired), Trust(expired), "localhost")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_old_version_is_refused(by_c: bool, authority: Authority) -> None:
    context = server_context(authority.issue("server", *LOOPBACK))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    refused(context, Trust(authority.pem), "localhost")


def test_a_weak_cipher_is_refused(by_c: bool, authority: Authority) -> None:
    context = server_context(authority.issue("server", *LOOPBACK))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    refused(context, Trust(authority.pem), "localhost")


def test_what_is_no_tls_is_refused(by_c: bool, authority: Authority) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            connection = await Connection.open(*server.getsockname())
            peer, _ = server.accept()
            with peer, contextlib.closing(connection):
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                with pytest.raises(ssl.SSLError), trio.fail_after(PATIENCE):
                    await connection.secure(Trust(authority.pem), "localhost")

    trio.run(main)


def test_an_authority_that_cannot_be_read_is_an_error(by_c: bool, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Trust(tmp_path / "none")


def test_bytes_that_are_decrypted_and_not_taken_are_news(by_c: bool, authority: Authority) -> None:
    context = server_context(authority.issue("server", *LOOPBACK))

    def answer(peer: ssl.SSLSocket) -> None:
        peer.recv(1)
        peer.sendall(b"ab")
        peer.recv(1)

    async def main() -> None:
        with serving(context, answer) as port:
            connection = await connected(port, Trust(authority.pem), "localhost")
            await connection.send_all(b"x")
            assert await connection.receive(1) == b"a"
            assert connection.has_news()
            assert await connection.receive(1) == b"b"
            assert not connection.has_news()
            connection.close()

    trio.run(main)


def received(secured: ssl.SSLSocket | Secured, blocks: list[bytearray], progress: list[int]) -> int:
    """Receive into blocks in C, as far as it gets, and return the errno; `progress` gets how many bytes each time."""
    assert isinstance(secured, Secured)
    secured.settimeout(None)
    while True:
        done = sum(progress)
        rest = [block for n, block in enumerate(blocks) if sum(map(len, blocks[: n + 1])) > done]
        if not rest:
            return 0
        reception = Reception(rest, done - sum(len(block) for block in blocks) + sum(map(len, rest)))
        failure = reception.run(secured.receive, MUCH, LONG, -1, NOWHERE)
        progress.append(reception.came)
        if not reception.came and failure != errno.EAGAIN:
            return failure


@contextlib.contextmanager
def secured_by_c(port: int, authority: Authority, host: str = "localhost") -> Iterator[Secured]:
    with contextlib.closing(Connection(socket.create_connection(("127.0.0.1", port)))) as connection:
        trio.run(connection.secure, Trust(authority.pem), host)
        assert isinstance(connection._socket, Secured)
        yield connection._socket


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_blocks_come_in_records_of_any_length(authority: Authority, version: ssl.TLSVersion) -> None:
    content, rng = random.Random(1).randbytes(3_000_000), random.Random(2)
    context = server_context(authority.issue("server", *LOOPBACK))
    context.minimum_version = context.maximum_version = version

    def answer(peer: ssl.SSLSocket) -> None:
        rest = memoryview(content)
        while rest:
            length = rng.choice([1, 100, 16_384, 16_385, 100_000, 400_000])
            peer.sendall(rest[:length])
            rest = rest[length:]

    blocks = [bytearray(300_000) for _ in range(10)]
    with serving(context, answer) as port, secured_by_c(port, authority) as secured:
        assert received(secured, blocks, []) == 0
        assert b"".join(blocks) == content
        assert secured.recv(1) == b""


@pytest.mark.parametrize("goodbye", [True, False])
def test_a_body_that_is_cut_off_ends_where_it_was(authority: Authority, goodbye: bool) -> None:
    context = server_context(authority.issue("server", *LOOPBACK))

    def answer(peer: ssl.SSLSocket) -> None:
        peer.sendall(b"a" * 150)
        with contextlib.suppress(OSError):
            peer.unwrap() if goodbye else peer.shutdown(socket.SHUT_WR)

    blocks, progress = [bytearray(100), bytearray(100)], list[int]()
    with serving(context, answer) as port, secured_by_c(port, authority) as secured:
        assert received(secured, blocks, progress) == 0
    assert sum(progress) == 150


def test_a_record_that_was_tampered_with_is_an_error(authority: Authority) -> None:
    """One byte of the ciphertext is changed on the way."""
    context = server_context(authority.issue("server", *LOOPBACK))

    def tamper(server: int, listener: socket.socket) -> None:
        near, _ = listener.accept()
        with near, socket.create_connection(("127.0.0.1", server)) as far, contextlib.suppress(OSError):
            seen = 0
            while True:
                for one in select.select([near, far], [], [])[0]:
                    piece = bytearray(one.recv(1 << 16))
                    if not piece:
                        return
                    if one is far:
                        if seen <= 100_000 < seen + len(piece):
                            piece[100_000 - seen] ^= 1
                        seen += len(piece)
                    (near if one is far else far).sendall(piece)

    blocks, progress = [bytearray(10_000) for _ in range(30)], list[int]()
    with (
        serving(context, lambda peer: peer.sendall(b"a" * 300_000)) as port,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        thread = threading.Thread(target=tamper, args=[port, listener])
        thread.start()
        with secured_by_c(listener.getsockname()[1], authority) as secured:
            assert received(secured, blocks, progress) == errno.EPROTO
            with pytest.raises(ssl.SSLError):
                secured.recv(1)
        thread.join(PATIENCE)
    assert 0 < sum(progress) < 100_000
    assert b"".join(blocks)[: sum(progress)] == b"a" * sum(progress)


@pytest.mark.parametrize(("version", "command"), [("-tls1_3", "k"), ("-tls1_3", "K"), ("-tls1_2", "r")])
def test_what_is_no_part_of_a_body_does_not_disturb_it(authority: Authority, version: str, command: str) -> None:
    """New keys, and the wish for ours or for another handshake, in mid-body. *Source*: openssl-s_server(1)."""
    pem = authority.issue("server", *LOOPBACK)
    words: list[str | Path] = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", pem, "-key", pem, version]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(_read_until(server.stdout, b"ACCEPT").rsplit(b":", 1)[1])
        with secured_by_c(port, authority) as secured:
            for said in (b"before it\n", b"after it\n"):
                _write(server.stdin, said)
                block = bytearray(len(said))
                assert received(secured, [block], []) == 0
                assert bytes(block) == said
                if said.startswith(b"before"):
                    _write(server.stdin, f"{command}\n".encode())
                    while any(fcntl.ioctl(server.stdin.fileno(), termios.FIONREAD, bytes(4))):
                        time.sleep(0.001)  # it is a command only in a read of its own
            secured.send(b"and back\n")
            _read_until(server.stdout, b"and back")
        server.kill()


def _write(to: IO[bytes], content: bytes) -> None:
    to.write(content)
    to.flush()


def _read_until(output: IO[bytes], word: bytes) -> bytes:
    while word not in (line := output.readline()):
        assert line
    return line
