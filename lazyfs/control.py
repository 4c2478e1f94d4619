"""The control socket: how the commands talk to a running mount.

Each mount listens on `run/ID.sock` in its store. A request is one line of JSON, `{"op": NAME, ...}`; the answer is
lines of JSON, of which the last is `{"done": ...}` or `{"error": "one line"}`; those before it are progress. A client
that hangs up cancels what it asked for. The directory is 0700, so who may connect is who owns the store.

This is the commands' side, on plain sockets, since commands should start fast; the mount's is control_server.py.

Sockets are reached through a descriptor of their directory, because a socket's path may have no more than 107 bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from lazyfs.errors import LazyfsError
from lazyfs.link import SUPERVISOR

_ENDED: Final = "the mount ended before it had answered"

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

Report = Callable[[Any], Awaitable[None]]
"""Sends one line of progress."""

Operation = Callable[[Mapping[str, Any], Report], Awaitable[Any]]
"""Does what a request asks for and returns what `done` is to hold.

Not an async generator: a nursery that is open at a `yield` turns the generator's end into a BaseExceptionGroup.
"""


class ControlError(LazyfsError):
    """A mount did not answer, or said no."""


class Unreachable(ControlError):
    """Nobody listens: the mount's daemon is dead, or not ours to talk to."""


def socket_name(mountpoint: str) -> str:
    """Return the name in `run/` of the socket of the mount at an absolute path."""
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16] + ".sock"


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Yield a path to a socket that is short enough for connect and bind."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class Ended(ControlError):
    """The mount's daemon ended before it had answered."""


class Connection:
    """A connection to a mount.

    *Raises*: ControlError when nobody answers. *Units*: `timeout` seconds for each answer, None for no bound.
    """

    def __init__(self, path: Path, timeout: float | None = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            with reachable(path) as name:
                self._socket.connect(name)
        except OSError as exc:
            self._socket.close()
            raise Unreachable(f"no mount answers at {path}: {exc.strerror or exc}") from exc
        self._lines = self._socket.makefile("rb")
        self._processes = _processes_behind(self._socket)

    def request(self, op: str, **arguments: Any) -> Iterator[Any]:
        """Send a request; yield its progress and last its result. *Raises*: ControlError, what went wrong."""
        try:
            self._socket.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            for line in self._lines:
                answer = json.loads(line)
                if isinstance(answer, dict) and "error" in answer:
                    raise ControlError(answer["error"])
                if isinstance(answer, dict) and "done" in answer:
                    yield answer["done"]
                    return
                yield answer
        except ConnectionError as exc:
            raise Ended(_ENDED) from exc
        except OSError as exc:
            raise ControlError(f"the mount does not answer: {exc.strerror or exc}") from exc
        raise Ended(_ENDED)

    def wait_for_end(self) -> bool:
        """Wait until the mount's processes have ended; False when the time-out comes first.

        The daemon lets go of the connection a little before that, and still uses the store.
        """
        try:
            if self._socket.recv(1):
                return False
        except ConnectionError:
            pass
        except OSError:
            return False
        timeout = self._socket.gettimeout()
        return all(select.select([process], [], [], timeout)[0] for process in self._processes)

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()
        for process in self._processes:
            os.close(process)


def _processes_behind(connected: socket.socket) -> list[int]:
    """Return descriptors of the process that listens and of its supervisor, as far as they can be seen from here.

    *Source*: unix(7), SO_PEERCRED; pidfd_open(2); proc_pid_stat(5).
    """
    pid, _, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    found: list[int] = []
    with contextlib.suppress(OSError):
        found.append(os.pidfd_open(pid))
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{parent}/cmdline").read_bytes().startswith(SUPERVISOR.encode()):
            found.append(os.pidfd_open(parent))
    return found


def is_dead(path: Path) -> bool:
    """Say whether nobody listens at a socket, nor will: it is gone, or its daemon is."""
    try:
        Connection(path).close()
    except Unreachable as exc:
        return isinstance(exc.__cause__, ConnectionRefusedError | FileNotFoundError)
    return False


def call(path: Path, op: str, **arguments: Any) -> Any:
    """Send a request and return its result. *Raises*: ControlError."""
    with contextlib.closing(Connection(path)) as connection:
        *_, result = connection.request(op, **arguments)
        return result
