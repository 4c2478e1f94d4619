"""Keys and certificates for TLS in tests, made by `openssl` in some 20 ms: self-signed, or by an authority of ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.serving import PATIENCE

LOOPBACK = ("IP:127.0.0.1", "DNS:localhost")
"""The names of every server here, as a certificate has them."""


def self_signed(directory: Path) -> Path:
    """Return a PEM file with a key and a certificate of LOOPBACK; it is its own authority."""
    return _with_key(directory / "server.pem", "localhost", [_alternative(LOOPBACK)])


class Authority:
    """A private authority, which lives in `directory`; `pem` is its certificate, for those who are to trust it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.pem, self._key = directory / "authority.pem", directory / "authority.key"
        _make(self.pem, self._key, "an authority of tests", ["keyUsage=critical,keyCertSign"])

    def issue(self, subject: str, *names: str) -> Path:
        """Return a PEM file, called as its subject, with a key and a certificate of `names`, written as in LOOPBACK."""
        extensions = [_alternative(names), "basicConstraints=critical,CA:FALSE"]
        pem = self.pem.with_name(f"{subject}.pem")
        return _with_key(pem, subject, extensions, "-CA", self.pem, "-CAkey", self._key)


def _alternative(names: tuple[str, ...]) -> str:
    return f"subjectAltName={','.join(names)}"


def _with_key(pem: Path, subject: str, extensions: list[str], *options: str | Path) -> Path:
    """Make a certificate and put its key into the same file."""
    key = pem.with_suffix(".key")
    _make(pem, key, subject, extensions, *options)
    pem.write_bytes(pem.read_bytes() + key.read_bytes())
    key.unlink()
    return pem


def _make(pem: Path, key: Path, subject: str, extensions: list[str], *options: str | Path) -> None:
    command: list[str | Path] = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={subject}", "-keyout", key, "-out", pem, *options]
    for extension in extensions:
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
