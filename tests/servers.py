"""Real servers for tests: nginx, and the misbehaving origin.  On loopback, each in a process of its own.

Both are context managers that listen on a free port when they are entered and are gone, waited for, when they
are left.  Every wait here is for an event and has a bound; TimeoutError says which one was not met.

    with Nginx(tmp_path / "nginx", docroot) as nginx, MisbehavingOrigin() as origin:
        nginx.url + "/some/file"
        origin.url("status=503@1,delay=20ms", "random-1M-x")
"""

from __future__ import annotations

import contextlib
import http.client
import json
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote, urlencode, urlsplit

from tools.misbehaving_origin.contents import find

PATIENCE = 10.0
"""Units: seconds.  How long a server may take to start, to settle, or to end."""

ORIGIN = Path(__file__).resolve().parents[1] / "tools" / "origin"


@dataclass(frozen=True)
class Logged:
    """A request as nginx logged it; `range` and the other headers are empty where there was none."""

    method: str
    uri: str
    status: int
    range: str
    body_bytes: int
    if_match: str
    accept_encoding: str
    authorization: str
    user_agent: str
    complete: bool


class Nginx:
    """A real nginx, one process, whose every request is logged.

    `/` serves `docroot` with HTML indexes, `/json/` the same with JSON ones.  `server` and `http` are
    more directives for those two blocks; `tls` is a PEM file with key and certificate, see `self_signed`.
    The port stays the same through `stop` and `start`.
    """

    def __init__(
        self, directory: Path, docroot: Path, *, server: str = "", http: str = "", tls: Path | None = None
    ) -> None:
        self.directory = directory
        self._reserved = reserved_port()
        self._reserved_for_status = reserved_port()
        self.port: int = self._reserved.getsockname()[1]
        self._status_port: int = self._reserved_for_status.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "access.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        certificate = f" ssl; ssl_certificate {tls}; ssl_certificate_key {tls}" if tls else ""
        (directory / "nginx.conf").write_text(
            _NGINX_CONF.format(
                directory=directory,
                listen=f"127.0.0.1:{self.port}{certificate}",
                docroot=docroot,
                status_port=self._status_port,
                server=server,
                http=http,
            )
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._reserved.close()
        self._reserved_for_status.close()

    def start(self) -> None:
        """Start it, and return when it listens."""
        assert self._process is None, "it runs"
        errors = self.directory / "error.log"
        configuration = self.directory / "nginx.conf"
        command: list[str | Path] = ["nginx", "-p", self.directory, "-c", configuration, "-e", errors]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in self._polls("listen"):
            if self._process.poll() is not None:
                raise RuntimeError(f"nginx did not start:\n{errors.read_text()}")
            with contextlib.suppress(OSError):
                self._busy()  # an answer on one port: it opens all of them before it serves any
                return

    def stop(self) -> None:
        """End it, at once for its clients too; nothing happens if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def requests(self, *, settle: bool = True) -> list[Logged]:
        """Return what was logged so far; nginx logs a request at its end, so it waits for those under way.

        With `settle=False` it does not.
        """
        if settle and self._process is not None:
            for _ in self._polls("end its requests"):
                if not self._busy():
                    break
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [_logged(json.loads(line)) for line in lines]

    def body_bytes(self) -> int:
        """Return the bytes of body that nginx sent, headers not counted."""
        return sum(request.body_bytes for request in self.requests())

    def forget(self) -> None:
        """Empty the log, so that `requests` starts anew."""
        self.requests()
        self._log.write_bytes(b"")  # nginx appends

    def _busy(self) -> bool:
        """Say whether any request is under way, other than this one, which stub_status counts as well.

        *Source*: a request leaves that count where it is logged (ngx_http_free_request), in the only process.
        """
        with socket.create_connection(("127.0.0.1", self._status_port), PATIENCE) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            words = b"".join(iter(lambda: sock.recv(4096), b"")).split()
        reading, writing = (int(words[words.index(name) + 1]) for name in (b"Reading:", b"Writing:"))
        return reading + writing > 1

    def _polls(self, what: str) -> Iterator[None]:
        """Yield until PATIENCE is over; the pauses are waits for nginx to end, which would be news."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            yield
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.01)
        raise TimeoutError(f"nginx did not {what} within {PATIENCE} s")


_NGINX_CONF = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
lock_file {directory}/nginx.lock;
events {{ worker_connections 1000; }}
http {{
    default_type application/octet-stream;
    client_body_temp_path {directory}/temp-body;
    proxy_temp_path {directory}/temp-proxy;
    fastcgi_temp_path {directory}/temp-fastcgi;
    uwsgi_temp_path {directory}/temp-uwsgi;
    scgi_temp_path {directory}/temp-scgi;
    sendfile on;
    log_format lines escape=json '{{"method":"$request_method","uri":"$request_uri","status":$status,'
        '"range":"$http_range","body_bytes":$body_bytes_sent,"if_match":"$http_if_match",'
        '"accept_encoding":"$http_accept_encoding","authorization":"$http_authorization",'
        '"user_agent":"$http_user_agent","complete":"$request_completion"}}';
    {http}
    server {{
        listen 127.0.0.1:{status_port};
        access_log off;
        location / {{ stub_status; }}
    }}
    server {{
        listen {listen};
        access_log {directory}/access.jsonl lines;
        {server}
        location / {{ root {docroot}; autoindex on; }}
        location /json/ {{ alias {docroot}/; autoindex on; autoindex_format json; }}
    }}
}}
"""


def _logged(line: dict[str, Any]) -> Logged:
    return Logged(**{**line, "status": int(line["status"]), "complete": line["complete"] == "OK"})


def reserved_port() -> socket.socket:
    """Return a socket that keeps a port from others, but not from a server that names it.

    It is bound and does not listen, so connections are refused; with SO_REUSEADDR on both sides a second bind
    is allowed.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours and wait for it, the hard way if it does not go by itself."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PATIENCE)


class MisbehavingOrigin:
    """tools/origin in a process of its own, which ends with this one whatever happens to it.

    `base` is its URL, `other` that of its second port.  With `tls`, a PEM file, `base` is https.
    """

    def __init__(self, docroot: Path | None = None, *, tls: Path | None = None) -> None:
        self.docroot = docroot
        self._tls = tls
        self.base = self.other = ""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="lazyfs-origin-")
        self._log = Path(self._directory.name) / "log.jsonl"
        command: list[str | Path] = [sys.executable, ORIGIN, "--until-eof", "--log", self._log]
        command += ["--tls", self._tls] if self._tls else []
        command += [self.docroot] if self.docroot else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.base = self._first_line().removeprefix("listening on ")
            self.other = self._control("GET", "stats")["urls"][1]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._directory.cleanup()

    def plain(self, name: str) -> str:
        """Return the URL of a name, percent-encoded here, as a well-behaved origin serves it."""
        return f"{self.base}/plain/{quote(name)}"

    def url(self, behaviours: str, name: str) -> str:
        """Return the URL of a name, percent-encoded here, with these behaviours; without any, plain."""
        return f"{self.base}/b/{behaviours}/{quote(name)}" if behaviours else self.plain(name)

    def expected(
        self, name: str, start: int = 0, stop: int | None = None, *, version: int = 1, size: int | None = None
    ) -> bytes:
        """Return bytes start..stop of what the name stands for, in that version, swapped to that `size`."""
        blob = find(name, self.docroot, version, size)
        assert blob is not None, name
        return blob.read(start, blob.size if stop is None else min(stop, blob.size))

    def stats(self, url: str | None = None) -> dict[str, Any]:
        """Return the counts of one URL's path, or everything: see tools/misbehaving_origin/ledger.py."""
        return self.wait(url) if url else self._control("GET", "stats")

    def wait(
        self,
        url: str | None = None,
        *,
        requests: int = 0,
        most_open: int | None = None,
        most_connected: int | None = None,
    ) -> dict[str, Any]:
        """Wait until so many requests came for this path, or for all, and at most so many are under way.

        `most_connected` bounds the connections that are open, whatever they ask for.  Returns the stats.
        """
        query: dict[str, str | float] = {"requests": requests, "timeout": PATIENCE}
        query |= {} if url is None else {"path": urlsplit(url).path}
        query |= {} if most_open is None else {"open": most_open}
        query |= {} if most_connected is None else {"connections": most_connected}
        return self._control("GET", f"wait?{urlencode(query)}")

    def log(self, *, settle: bool = True) -> list[dict[str, Any]]:
        """Return the log of the requests that ended, after waiting for those under way if `settle`."""
        if settle:
            self.wait(most_open=0)
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def swap(self, name: str, size: int | None = None) -> int:
        """Put a new version under a name, of another size where one is given; return its number."""
        query = "" if size is None else f"?size={size}"
        return cast("int", self._control("POST", f"swap/{quote(name)}{query}")["version"])

    def release(self) -> None:
        """End every stall and delay that is on."""
        self._control("POST", "release")

    def reset(self) -> None:
        """Forget counts, versions, tokens and the log; end every stall and delay."""
        self._control("POST", "reset")
        self.wait(most_open=0)
        self._log.write_bytes(b"")

    def _control(self, method: str, path: str) -> dict[str, Any]:
        address = urlsplit(self.base).netloc
        connection = http.client.HTTPConnection(address, timeout=PATIENCE + 5)
        if self._tls:
            trust = ssl.create_default_context(cafile=self._tls)
            connection = http.client.HTTPSConnection(address, timeout=PATIENCE + 5, context=trust)
        try:
            connection.request(method, f"/control/{path}")
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status == 504:
            raise TimeoutError(f"not within {PATIENCE} s: {path}; it is {content.decode()}")
        assert answer.status == 200, content
        return cast("dict[str, Any]", json.loads(content))

    def _first_line(self) -> str:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                raise TimeoutError(f"tools/origin said nothing within {PATIENCE} s")
        line = self._process.stdout.readline().decode().strip()
        if not line.startswith("listening on "):
            raise RuntimeError(f"tools/origin did not start: {line!r}")
        return line


def self_signed(directory: Path) -> Path:
    """Return a PEM file with a key and a certificate of 127.0.0.1 and localhost; it is its own authority."""
    pem, key = directory / "server.pem", directory / "server.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += [
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
    ]
    subprocess.run([*command, "-keyout", key, "-out", pem], check=True, capture_output=True, timeout=PATIENCE)
    pem.write_bytes(pem.read_bytes() + key.read_bytes())
    key.unlink()
    return pem
