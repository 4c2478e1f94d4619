"""What TLS trusts, and who makes the connection secure: C (native/tls.c), where it was built, else the ssl module.

C is given what the ssl module's own context has, so that both trust the same and neither allows more: options, flags,
versions, ciphers, and the authorities, by the file or as the system's. A client certificate is only shown by the ssl
module.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from lazyfs.native import receiving
from lazyfs.native.receiving import Receive

try:
    from lazyfs.native import tls as _tls
except ImportError:
    _BUILT = False
else:
    _BUILT = True

T = TypeVar("T")

_WANT_READ: Final = 2
_WANT_WRITE: Final = 3
_SYSCALL: Final = 5
"""SSL_get_error's, in openssl/ssl.h."""

_OF_ANOTHER_NAME: Final = {62: "Hostname", 64: "IP address"}
"""X509_V_ERR_HOSTNAME_MISMATCH, …_IP_ADDRESS_MISMATCH in openssl/x509_vfy.h."""

_CERTIFICATE: Final = "certificate verify failed"


class Secured:
    """A TLS connection by C, as far as it has to be like an SSLSocket. *Raises*: OSError, of which SSLError is one."""

    def __init__(self, context: _tls.Context, connected: socket.socket, host: str) -> None:
        self.plain = connected
        self._tls = _tls.Connection(context, connected.fileno(), host)
        self._host = host
        self.receive: Receive = self._tls.receive
        self.fileno = connected.fileno
        self.settimeout = connected.settimeout

    def do_handshake(self) -> None:
        """Shake hands. *Raises*: SSLCertVerificationError among others."""
        self._step(self._tls.handshake)

    def send(self, content: bytes) -> int:
        """Send the start of a message, and return how much of it was."""
        return self._step(lambda: self._tls.write(content))

    def recv(self, most: int) -> bytes:
        """Return the next bytes; none at the end."""
        buffer = bytearray(most)
        return bytes(memoryview(buffer)[: self.recv_into(buffer)])

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """Fill the start of a buffer, and return how many bytes came; 0 at the end."""
        return self._step(lambda: self._tls.read_into(buffer))

    def pending(self) -> int:
        """Say whether bytes have come that are no longer in the socket; they may be no whole record."""
        return self._tls.pending()

    def close(self) -> None:
        """Close it, without a word to the peer, as an SSLSocket does."""
        self.plain.close()

    def _step(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except _tls.Failure as exc:
            raise self._as_ssl_error(*exc.args) from None

    def _as_ssl_error(self, error: int, code: int, reason: str, verified: int, words: str) -> OSError:
        if error == _WANT_READ:
            return ssl.SSLWantReadError(error, "more has to come")
        if error == _WANT_WRITE:
            return ssl.SSLWantWriteError(error, "something has to be sent")
        if error == _SYSCALL:
            return OSError(code, os.strerror(code))
        if reason != _CERTIFICATE:
            failure = ssl.SSLError(error, reason)
            failure.reason = reason
            return failure
        if kind := _OF_ANOTHER_NAME.get(verified):  # in the ssl module's words
            words = f"{kind} mismatch, certificate is not valid for '{self._host}'."
        refused = ssl.SSLCertVerificationError(error, f"{reason}: {words}")
        refused.reason, refused.verify_code, refused.verify_message = reason, verified, words
        return refused


class Trust:
    """Whom TLS trusts: the authorities of a file, else the system's; and what it shows. *Raises*: OSError."""

    def __init__(self, ca_file: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> None:
        self._ca_file, self._certificate, self._key = ca_file, certificate, key
        self._by_c = None if certificate else _by_c(ca_file)
        if self._by_c is None:
            assert self.context

    @functools.cached_property
    def context(self) -> ssl.SSLContext:
        """The ssl module's, for those who need one: to read all authorities takes it 15 ms."""
        context = ssl.create_default_context(cafile=self._ca_file)
        if self._certificate:
            context.load_cert_chain(self._certificate, self._key)
        return context

    def secure(self, connected: socket.socket, host: str) -> ssl.SSLSocket | Secured:
        """Return what makes a connected socket secure, once it has shaken hands; the socket is closed with it."""
        if self._by_c is not None:
            name = host if host.isascii() else host.encode("idna").decode("ascii")
            return Secured(self._by_c, connected, name)
        return self.context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)


def _by_c(ca_file: Path | None) -> _tls.Context | None:
    """Return a context that allows what the ssl module's does, the ciphers of TLS 1.3 being OpenSSL's own.

    None where it was not built, or cannot be made.
    """
    if not (_BUILT and receiving.AVAILABLE):
        return None
    like = ssl.create_default_context(capath=os.devnull)  # which trusts nobody: only its settings are asked for
    assert like.verify_mode is ssl.CERT_REQUIRED
    assert like.check_hostname
    ciphers = ":".join(str(cipher["name"]) for cipher in like.get_ciphers() if cipher["protocol"] != "TLSv1.3")
    minimum = max(like.minimum_version, ssl.TLSVersion.TLSv1_2)
    authorities = None if ca_file is None else str(ca_file)
    with contextlib.suppress(_tls.Failure):  # the ssl module has better words for it
        return _tls.Context(like.options, like.verify_flags, minimum, ciphers, like.security_level, authorities)
    return None
