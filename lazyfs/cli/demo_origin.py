"""The demo's origin: one blob of made-up bytes over HTTP on loopback, with a count of what was asked and sent.

It honours ranges and conditions as far as lazyfs uses them, and nothing else. The count is the demo's evidence: it is
taken here, on the side that sends, and before each piece goes out, so that whoever has the bytes is counted already.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

PIECE: Final = 64 * 1024
"""Bytes sent, and counted, at a time."""

_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")
_LAST_MODIFIED: Final = "Mon, 01 Jan 2024 12:00:00 GMT"


@dataclass(frozen=True, slots=True)
class Count:
    """What an origin was asked for and sent. *Units*: `body_bytes` bytes, headers not counted."""

    requests: int
    body_bytes: int

    def since(self, earlier: Count) -> Count:
        """Return what came on top of an earlier count."""
        return Count(self.requests - earlier.requests, self.body_bytes - earlier.body_bytes)


class DemoOrigin:
    """Serves `size` bytes, the same ones each time, at `url`; a context manager, to be stopped at any time."""

    def __init__(self, name: str, size: int) -> None:
        self.content = hashlib.shake_256(b"lazyfs demo").digest(size)
        self.digest = hashlib.sha256(self.content).hexdigest()
        self.path = f"/{name}"
        self._lock = threading.Lock()
        self._requests = self._body_bytes = 0
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where the blob is."""
        return f"http://127.0.0.1:{self._server.server_port}{self.path}"

    @property
    def count(self) -> Count:
        """What it was asked for and sent so far."""
        with self._lock:
            return Count(self._requests, self._body_bytes)

    def add(self, requests: int, body_bytes: int) -> None:
        """Count."""
        with self._lock:
            self._requests += requests
            self._body_bytes += body_bytes

    def stop(self) -> None:
        """End it, with the connections it has: from here on its port refuses."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, origin: DemoOrigin) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.origin = origin
        self._connections: set[socket.socket] = set()  # those being served; a connection is kept alive

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that are open; their threads end with them."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that has gone is no error here."""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer 200, 206, 304, 404, 412 or 416."""
        origin = self.server.origin
        origin.add(1, 0)
        size, etag = len(origin.content), f'"{origin.digest[:32]}"'
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, stop = 0, size
        if asked:
            start, stop = int(asked[1]), min(int(asked[2] or size - 1) + 1, size)
        if self.path != origin.path:
            return self._answer(HTTPStatus.NOT_FOUND, {})
        if self.headers.get("If-Match", etag) != etag:
            return self._answer(HTTPStatus.PRECONDITION_FAILED, {})
        if self.headers.get("If-None-Match") == etag:
            return self._answer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        if start >= stop:
            return self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{size}"})
        headers = {"ETag": etag, "Last-Modified": _LAST_MODIFIED}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self._answer(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK, headers, start, stop)

    def _answer(self, status: HTTPStatus, headers: dict[str, str], start: int = 0, stop: int = 0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        body = memoryview(self.server.origin.content)
        for at in range(start, stop, PIECE):
            piece = body[at : min(at + PIECE, stop)]
            self.server.origin.add(0, len(piece))
            self.wfile.write(piece)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
