"""The sockets: listeners, a thread for each connection, and the control paths."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote

from . import behaviours as _rows  # noqa: F401  fills the table
from . import contents, table
from .answers import Answer, Interruption, Request, plain_answer, right_answer
from .ledger import Ledger
from .table import Exchange, HangUpError, Spec

PIECE = 64 << 10
LINE_MOST = 64 << 10
HEADERS_MOST = 200
WAIT_MOST = 60.0
HANDSHAKE_MOST = 10.0


class Gate:
    """What a pause waits on: its `outlet` becomes readable when the gate is opened, for all that wait."""

    def __init__(self) -> None:
        self.outlet, self._inlet = socket.socketpair()

    def open(self) -> None:
        """End the pauses; those that have yet to begin need another gate."""
        self._inlet.close()


@dataclass(frozen=True)
class Door:
    """A listening socket, and how the origin is called by those who came in by it."""

    listener: socket.socket
    tls: ssl.SSLContext | None

    @property
    def base(self) -> str:
        """The URL of this port, without a path."""
        host, port = self.listener.getsockname()[:2]
        return f"{'https' if self.tls else 'http'}://{host}:{port}"


class Origin:
    """A server on two ports of one host; the second is where redirects to another origin go."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        root: Path | None = None,
        log: IO[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.root = root
        self.ledger = Ledger()
        self.gate = Gate()
        self.doors = (
            Door(socket.create_server((host, port), backlog=512), tls),
            Door(socket.create_server((host, 0), backlog=512), None),
        )
        self._log = log
        self._log_lock = threading.Lock()
        self._numbers = count(1)

    def start(self) -> None:
        """Begin to serve, in daemon threads."""
        for door, other in (self.doors, self.doors[::-1]):
            threading.Thread(target=self._accept, args=(door, other.base), daemon=True).start()

    def _accept(self, door: Door, other: str) -> None:
        while True:
            sock, _ = door.listener.accept()
            connection = Connection(self, sock, door, other, next(self._numbers))
            threading.Thread(target=connection.run, daemon=True).start()

    def release(self) -> None:
        """End every pause that is on now."""
        gate, self.gate = self.gate, Gate()
        gate.open()

    def log(self, line: dict[str, Any]) -> None:
        """Write one line of the log, at once."""
        if self._log is not None:
            with self._log_lock:
                self._log.write(json.dumps(line) + "\n")
                self._log.flush()

    def control(self, request: Request) -> Answer:
        """Answer a request for `/control/...`.  Raises ValueError, KeyError for what cannot be meant."""
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        match request.method, request.path.removeprefix("/control/").partition("/"):
            case "GET", ("stats", _, _):
                stats = self.ledger.stats() | {"urls": [door.base for door in self.doors]}
                return _json(stats)
            case "GET", ("open", _, _):
                return _json({"open": self.ledger.under_way()})
            case "GET", ("wait", _, _):
                path = query.get("path")
                timeout = min(float(query.get("timeout", "5")), WAIT_MOST)
                most_open, most_connected = (
                    int(query[name]) if name in query else None for name in ("open", "connections")
                )
                requests = int(query.get("requests", "0"))
                reached = self.ledger.wait(path, requests, most_open, most_connected, timeout)
                return _json(self.ledger.stats(path), 200 if reached else 504)
            case "POST", ("swap", _, name):
                size = contents.parse_size(query["size"]) if "size" in query else None
                return _json({"version": self.ledger.swap(unquote(name, errors="surrogateescape"), size)})
            case "POST", ("release", _, _):
                self.release()
                return _json({})
            case "POST", ("reset", _, _):
                self.ledger.reset()
                self.release()
                return _json({})
        return plain_answer(404, "no such control\n")

    def token(self, limit: str) -> Answer:
        """Answer a request for `/token/LIMIT`.  Raises ValueError."""
        lease = table.parse_limit("" if limit == "ever" else limit)
        token = self.ledger.grant(lease)
        seconds = 3600.0 if lease.until is None else lease.until - time.monotonic()
        return _json({"token": token, "access_token": token, "expires_in": max(round(seconds), 1)})


def _json(value: object, status: int = 200) -> Answer:
    return plain_answer(status, json.dumps(value) + "\n", "application/json")


class Connection:
    """One client's connection, in a thread of its own."""

    def __init__(self, origin: Origin, sock: socket.socket, door: Door, other: str, number: int) -> None:
        self.origin = origin
        self.sock = sock
        self.door = door
        self.other = other
        self.number = number
        self.served = 0
        self._paced_until = 0.0

    def run(self) -> None:
        """Serve requests until one side has had enough."""
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.door.tls is not None:
                self.sock.settimeout(HANDSHAKE_MOST)
                self.sock = self.door.tls.wrap_socket(self.sock, server_side=True)
                self.sock.settimeout(None)
            with self.sock.makefile("rb") as reader, contextlib.suppress(HangUpError):
                while (request := read_request(reader)) is not None:
                    self._serve(request)
        except OSError:
            pass  # the client's end of it; what was sent until then is in the ledger
        finally:
            self.sock.close()
            if self.served:
                self.origin.ledger.connected(-1)

    def _serve(self, request: Request) -> None:
        """Answer one request.  Raises HangUpError when it was the connection's last."""
        if request.path.startswith("/control/"):
            self._send(request, _or_400(partial(self.origin.control, request)), lambda _size: None)
            return
        if not self.served:
            self.origin.ledger.connected(1)
        self.served += 1
        ledger = self.origin.ledger
        headers = dict(request.headers)
        path_count, nth = ledger.arrived(request.path, headers.get("range"))
        status, body_bytes = None, 0

        def sent(size: int) -> None:
            nonlocal body_bytes
            body_bytes += size
            ledger.sent(path_count, size)

        try:
            answer = _or_400(lambda: self._answer(request, nth))
            status = answer.status
            ledger.answered(path_count, status)
            self._send(request, answer, sent)
        finally:
            line = {
                "time": round(time.time(), 6),
                "port": int(self.door.base.rpartition(":")[2]),
                "connection": self.number,
                "method": request.method,
                "target": request.target,
                "path": request.path,
                "range": headers.get("range"),
                "status": status,
                "body_bytes": body_bytes,
                "headers": headers,
            }
            self.origin.log(line)
            ledger.ended(path_count)

    def _answer(self, request: Request, nth: int) -> Answer:
        """Work out the answer, behaviours and all.  Raises ValueError, HangUpError."""
        if request.path == "/":
            return plain_answer(200, "/b/BEHAVIOUR[=ARGUMENT][@WHEN],.../NAME\n\n" + table.describe())
        if request.path.startswith("/token/"):
            return self.origin.token(request.path.removeprefix("/token/"))
        if request.method not in ("GET", "HEAD"):
            return plain_answer(405, "GET or HEAD\n", Allow="GET, HEAD")
        match = re.fullmatch(r"/(?:plain|b/([^/]+))/(.*)", request.path)
        if match is None:
            return plain_answer(404, "no such path\n")
        exchange = self._exchange(request, match[2], table.parse_specs(match[1]) if match[1] else [], nth)
        if exchange is None:
            return plain_answer(404, "no such name\n")
        active = [spec for spec in exchange.specs if spec.applies(nth)]
        for spec in active:
            if spec.behaviour.before is not None:
                refusal = spec.behaviour.before(exchange, spec.argument)
                if refusal is not None:
                    return refusal
        answer = right_answer(request, exchange.blob)
        for spec in active:
            if spec.behaviour.after is not None:
                spec.behaviour.after(exchange, answer, spec.argument)
        return answer

    def _exchange(self, request: Request, raw_name: str, specs: list[Spec], nth: int) -> Exchange | None:
        name = unquote(raw_name, errors="surrogateescape")
        version, size = self.origin.ledger.version(name)

        def version_of(version: int, size: int | None) -> contents.Blob | None:
            return contents.find(name, self.origin.root, version, size)

        blob = version_of(version, size)
        if blob is None:
            return None
        reused = self.served > 1
        return Exchange(
            request=request,
            specs=specs,
            raw_name=raw_name,
            nth=nth,
            connection=self.number,
            reused=reused,
            base=self.door.base,
            other=self.other,
            ledger=self.origin.ledger,
            pause=self.pause,
            version_of=version_of,
            version=version,
            blob=blob,
        )

    def _send(self, request: Request, answer: Answer, sent: Callable[[int], None]) -> None:
        """Send the answer, telling `sent` of each piece of body.  Raises HangUpError after the last."""
        http_1_0 = request.version == "HTTP/1.0"
        chunked = answer.framing == "chunked" and not http_1_0
        self.sock.sendall(answer.head(http_1_0=http_1_0))
        if request.method != "HEAD":
            position = answer.start
            for point in sorted(answer.interruptions, key=lambda each: each.after):
                if point.after <= answer.length:
                    self._send_body(answer, position, answer.start + point.after, sent, chunked=chunked)
                    position = answer.start + point.after
                    self._interrupt(point)
            self._send_body(answer, position, answer.stop, sent, chunked=chunked)
            if chunked:
                self.sock.sendall(b"0\r\n\r\n")
        asked = request.headers.get("connection", "").lower()
        if answer.hang_up or answer.framing == "close" or http_1_0 or asked == "close":
            raise HangUpError

    def _send_body(self, answer: Answer, start: int, stop: int, sent: Callable[[int], None], *, chunked: bool) -> None:
        piece = PIECE if answer.rate is None else min(max(answer.rate // 20, 1), PIECE)
        for position in range(start, stop, piece):
            content = answer.blob.read(position, min(position + piece, stop))
            if answer.rate is not None:
                self._pace(len(content) / answer.rate)
            sent(len(content))  # before it is: who has read the last byte finds all of them counted
            try:
                self.sock.sendall(b"%x\r\n%b\r\n" % (len(content), content) if chunked else content)
            except OSError:
                sent(-len(content))
                raise

    def _pace(self, seconds: float) -> None:
        """Take up that much of the connection's time."""
        now = time.monotonic()
        self._paced_until = max(self._paced_until, now) + seconds
        self.pause(self._paced_until - now)

    def _interrupt(self, point: Interruption) -> None:
        match point.what:
            case "pause":
                self.pause(point.seconds)
            case "close":
                raise HangUpError
            case "reset":
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise HangUpError

    def pause(self, seconds: float | None) -> None:
        """Wait that long, or for ever, or until released.  Raises HangUpError when the client goes."""
        gate = self.origin.gate
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        poll.register(gate.outlet, select.POLLIN)
        ready = poll.poll(None if seconds is None else seconds * 1000)
        if any(descriptor == self.sock.fileno() for descriptor, _ in ready):
            raise HangUpError


def _or_400(work: Callable[[], Answer]) -> Answer:
    """Return the answer, or a 400 that says what could not be meant."""
    try:
        return work()
    except (ValueError, KeyError) as error:
        return plain_answer(400, f"{error}\n")


def read_request(reader: IO[bytes]) -> Request | None:
    """Read a request and throw its body away; None at the connection's end, or for what is no request."""
    words = reader.readline(LINE_MOST).decode("latin-1").split()
    if len(words) != 3:
        return None
    headers: dict[str, str] = {}
    for _ in range(HEADERS_MOST):
        line = reader.readline(LINE_MOST).decode("latin-1")
        name, colon, value = line.partition(":")
        if not colon:
            break
        key = name.strip().lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    length = headers.get("content-length", "0")
    reader.read(int(length) if length.isdigit() else 0)
    method, target, version = words
    if target.startswith(("http://", "https://")):
        target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
    return Request(method, target, version, headers)
