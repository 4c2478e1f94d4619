"""A connection that is begun before there is anything to use it with: while a daemon still loads its code.

That takes Python longer than the origin takes to answer, so the first request finds a connection. The system's connect
needs neither trio nor TLS, and is made in a thread of its own; whoever connects first takes it over (wire.py). When it
has failed, or is late, nobody hears of it: the connection is made as any other.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Final

LATE: Final = 10.0
"""Seconds after which it is given up."""

_begun: list[Early] = []


class Early:
    """A connection on its way."""

    def __init__(self, host: str, port: int) -> None:
        self.address = host, port
        self._socket: socket.socket | None = None
        self._wanted = True
        self._lock = threading.Lock()  # of the two above
        self._thread = threading.Thread(target=self._connect, daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            host, port = self.address[0].encode("ascii"), self.address[1]  # for text Python loads a codec, for 3 ms
            connected = socket.create_connection((host, port), LATE)  # type: ignore[arg-type] # bytes will do
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self._wanted:
                    self._socket = connected
                else:
                    connected.close()

    @property
    def settled(self) -> bool:
        """Whether it is there or has failed."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait until it is there or has failed, for so long at the most."""
        self._thread.join(seconds)

    def take(self) -> socket.socket | None:
        """Return it, if it is there; if it still comes, it is closed."""
        with self._lock:
            self._wanted = False
            taken, self._socket = self._socket, None
            return taken

    def drop(self) -> None:
        """Close it, there or still to come."""
        if (unused := self.take()) is not None:
            unused.close()


def begin(host: str, port: int) -> None:
    """Begin to connect."""
    _begun.append(Early(host, port))


def begun(host: str, port: int) -> Early | None:
    """Return the connection that was begun there, once."""
    for early in _begun:
        if early.address == (host, port):
            _begun.remove(early)
            return early
    return None


def forget() -> None:
    """Close what nobody wanted."""
    while _begun:
        _begun.pop().drop()
