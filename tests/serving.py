"""What the servers of tests have in common: a process each, which listens on a port of its own on loopback.

They are context managers that listen when they are entered and are gone, waited for, when they are left. Every wait
here is for an event and has a bound; TimeoutError says which one was not met.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Self

Words = list[str | Path]

PATIENCE = 30.0
"""Units: seconds.  How long a server may take to start, to settle, or to end."""


class Server(ABC):
    """A web server that can be stopped and started again, on the same port; what it writes is in `directory`.

    It serves `docroot` with an index of every directory. With `tls`, a PEM file with key and certificate
    (tests/certificates.py), `url` is https. Its time zone is not UTC, which some servers show.
    """

    programs: tuple[str, ...]
    """What its program is called; where distributions differ, the first that is installed is taken."""

    def __init__(self, directory: Path, docroot: Path, *, tls: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.docroot = docroot
        self.tls = tls
        self.configuration = directory / "configuration"
        self._kept: list[socket.socket] = []
        self.port = self.keep_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Words:
        """Return the words that start it in the foreground, in one process."""

    def configure(self) -> str:
        """Return what is to be in the file `configuration`."""
        return ""

    def environment(self) -> dict[str, str]:
        """Return the variables that it is started with."""
        return {**os.environ, "TZ": "NOWHERE-05:30"}

    def program(self) -> str:
        """Return the path of its program. *Raises*: RuntimeError when it is not installed."""
        found = next(filter(None, map(shutil.which, self.programs)), None)
        if found is None:
            raise RuntimeError(f"{self.programs[0]} is not installed, and tests need it; tools/test installs it")
        return found

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for sock in self._kept:
            sock.close()

    def start(self) -> None:
        """Start it, and return when it listens. *Raises*: RuntimeError with what it says when it does not."""
        assert self.process is None, "it runs"
        self.configuration.write_text(self.configure())
        output = self.directory / "output"
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self.environment()
            )
        for _ in self.polls("listen"):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.programs[0]} did not start:\n{output.read_text(errors='replace')}")
            with contextlib.suppress(OSError):
                self.knock()
                return

    def knock(self) -> None:
        """Return when it listens. *Raises*: OSError while it does not."""
        socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()

    def stop(self) -> None:
        """End it, at once for its clients too; nothing happens if it does not run."""
        process, self.process = self.process, None
        if process is not None:
            end(process)

    def keep_port(self) -> int:
        """Return a port that is kept from others, but not from this server, for as long as this lives."""
        self._kept.append(reserved_port())
        port: int = self._kept[-1].getsockname()[1]
        return port

    def polls(self, what: str) -> Iterator[None]:
        """Yield until PATIENCE is over; the pauses are waits for the server to end, which would be news."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            yield
            if self.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.01)
        raise TimeoutError(f"{self.programs[0]} did not {what} within {PATIENCE} s")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours and wait for it, the hard way if it does not go by itself."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PATIENCE)


def reserved_port() -> socket.socket:
    """Return a socket that keeps a port from others, but not from a server that names it.

    It is bound and does not listen, so connections are refused; with SO_REUSEADDR on both sides a second bind is
    allowed.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock
