"""What the subjects fetch from: nginx, plain and over TLS, with what it serves, and the link in front of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from tests.certificates import LOOPBACK, Authority
from tests.mounts import ENVIRONMENT
from tests.servers import Nginx
from tests.serving import PATIENCE
from tools.benching.processes import limit, run

BLOB = "blob"
"""What the blob is called in each of the directories that nginx serves."""


LASTING = "keepalive_requests 1000000;"
"""Connections are kept: after 1000 requests, nginx's default, some would be closed in the middle of a reading."""


@dataclass(frozen=True)
class Scale:
    """How much is read. *Units*: bytes, seconds, bytes a second."""

    size: int
    link_size: int
    wide_size: int
    reads: int
    names: int
    runtime: float
    rtt: float
    rate: float

    def of(self, directory: str) -> int:
        """Return the size of the blob in a directory."""
        return {"whole": self.size, "part": self.link_size, "wide": self.wide_size}[directory]


@dataclass(frozen=True)
class Place:
    """A directory of an origin; `authority` is to be trusted there. With `index`, it is what is to be mounted."""

    url: str
    authority: Path | None = None
    index: bool = False

    @property
    def blob(self) -> str:
        """The URL of its blob."""
        return self.url + BLOB


def name_size(number: int) -> int:
    """Return the size of one of the many files; httpdirfs does not show empty ones."""
    return 1 + number % 100


class Linked:
    """A link to a port in a process of its own."""

    def __init__(self, to: int, rtt: float, rate: float) -> None:
        self._words = [sys.executable, "-m", "tools.benching.link"]
        self._words += ["--to", str(to), "--rtt", str(rtt), "--rate", str(rate)]
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        self.url = f"http://127.0.0.1:{self._line().rpartition(' ')[2].strip()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE)

    def counts(self) -> dict[str, int]:
        """Return how many connections and requests there were, and the bytes that went up and down."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return cast("dict[str, int]", json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Ground:
    """The servers, on files of random bytes: `whole` for loopback, `part` for the link, `wide` sparse, `many` names."""

    def __init__(self, work: Path, scale: Scale) -> None:
        self.work, self.scale = work, scale
        self._served = work / "served"
        self._entered = contextlib.ExitStack()
        self.digests: dict[str, str] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._fill()
            authority = Authority(self.work / "authority")
            self._authority = authority.pem
            pem = authority.issue("server", *LOOPBACK)
            self.nginx = stack.enter_context(Nginx(self.work / "nginx", self._served, http=LASTING))
            self._secure = stack.enter_context(Nginx(self.work / "nginx-tls", self._served, tls=pem, http=LASTING))
            self.link = stack.enter_context(Linked(self.nginx.port, self.scale.rtt, self.scale.rate))
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def file(self, directory: str) -> Path:
        """Return the local file behind a directory's blob."""
        return self._served / directory / BLOB

    def plain(self, directory: str) -> Place:
        """Return a directory on loopback."""
        return Place(f"{self.nginx.url}/{directory}/")

    def index(self) -> Place:
        """Return the directory with many names."""
        return Place(f"{self.nginx.url}/many/", index=True)

    def secure(self, directory: str) -> Place:
        """Return a directory over TLS."""
        return Place(f"{self._secure.url}/{directory}/", self._authority)

    def linked(self, directory: str) -> Place:
        """Return a directory over the link."""
        return Place(f"{self.link.url}/{directory}/")

    def _fill(self) -> None:
        for directory in ("whole", "part"):
            self.file(directory).parent.mkdir(parents=True)
            size, to = self.scale.of(directory), f"of={self.file(directory)}"
            run(["dd", "if=/dev/urandom", to, "bs=1M", f"count={size >> 20}", "status=none"], limit(size))
            self.digests[directory] = run(["sha256sum", self.file(directory)], limit(size)).split()[0]
        self.file("wide").parent.mkdir()
        with self.file("wide").open("wb") as file:
            file.truncate(self.scale.wide_size)
        many = self._served / "many"
        many.mkdir()
        for number in range(self.scale.names):
            (many / f"layer-{number:05}.bin").write_bytes(b"x" * name_size(number))
        run(["sync", "-f", self._served])
