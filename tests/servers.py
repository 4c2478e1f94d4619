"""Real servers for tests: nginx, and the misbehaving origin.

Both are gone when they are left, and wait for nothing without a bound, as tests/serving.py says.

    with Nginx(tmp_path / "nginx", docroot) as nginx, MisbehavingOrigin() as origin:
        nginx.url + "/some/file"
        origin.url("status=503@1,delay=20ms", "random-1M-x")
"""

from __future__ import annotations

import http.client
import json
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote, urlencode, urlsplit

from tests.serving import PATIENCE, Server, Words, end
from tools.misbehaving_origin.contents import find

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


class Nginx(Server):
    """A real nginx, one process, whose every request is logged.

    `/` serves `docroot` with HTML indexes, `/json/` the same with JSON ones.  `server` and `http` are
    more directives for those two blocks.
    """

    programs = ("nginx",)

    def __init__(
        self, directory: Path, docroot: Path, *, server: str = "", http: str = "", tls: Path | None = None
    ) -> None:
        super().__init__(directory, docroot, tls=tls)
        self._status_port = self.keep_port()
        self._log = directory / "access.jsonl"
        self._server, self._http = server, http

    def configure(self) -> str:
        """Log every request, as `Logged`, and keep all that it writes in one directory."""
        certificate = f" ssl; ssl_certificate {self.tls}; ssl_certificate_key {self.tls}" if self.tls else ""
        return _NGINX_CONF.format(
            directory=self.directory,
            listen=f"127.0.0.1:{self.port}{certificate}",
            docroot=self.docroot,
            status_port=self._status_port,
            server=self._server,
            http=self._http,
        )

    def command(self) -> Words:
        """Run it; the configuration says how."""
        return [self.program(), "-p", self.directory, "-c", self.configuration, "-e", "stderr"]

    def knock(self) -> None:
        """Ask for the status: an answer on one port says that it listens on all, which it opens before it serves."""
        self._busy()

    def requests(self, *, settle: bool = True) -> list[Logged]:
        """Return what was logged so far; nginx logs a request at its end, so it waits for those under way.

        With `settle=False` it does not.
        """
        if settle and self.process is not None:
            for _ in self.polls("end its requests"):
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
        end(self._process)
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

    def under_way(self) -> int:
        """Return how many requests are under way; `stats` says so too, with a line for each there ever was."""
        return cast("int", self._control("GET", "open")["open"])

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
