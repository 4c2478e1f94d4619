"""A shared tier on loopback, made of the files in tools/shared-tier with only addresses and paths replaced in them."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from tests.mounts import ROOT
from tests.servers import Nginx
from tests.serving import reserved_port

NODES: Final = 3
"""As many as the files name."""

SLICE: Final = 256 * 1024

_FILES = ROOT / "tools" / "shared-tier"


class Tier:
    """Three nodes, each an nginx with a front and a cache, before the origin at a URL of https.

    `trust` is a PEM file with the authority of the origin's certificate, and `name` what this must be made out to.
    """

    def __init__(self, directory: Path, origin: str, trust: Path, *, name: str = "localhost") -> None:
        self._fronts = [reserved_port() for _ in range(NODES)]
        self._caches = [reserved_port() for _ in range(NODES)]
        self._directories = [directory / f"node{number + 1}" for number in range(NODES)]
        addresses = {f"node{number + 1}.example.net:8081": _address(self._caches[number]) for number in range(NODES)}
        self.nodes: list[Nginx] = []
        for number, node in enumerate(self._directories):
            node.mkdir()
            _copy("front.conf", node, {"listen 8080;": f"listen {_address(self._fronts[number])};", **addresses})
            replaced = {
                "listen 8081;": f"listen {_address(self._caches[number])};",
                "origin.example.net:443;": f"{urlsplit(origin).netloc};",
                "origin.example.net": name,
                "/etc/ssl/certs/ca-certificates.crt": str(trust),
                "/var/cache/nginx-lazyfs": str(node / "slices"),
            }
            _copy("cache.conf", node, replaced)
            self.nodes.append(
                Nginx(node / "nginx", node, http=f"include {node}/cache.conf; include {node}/front.conf;")
            )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for reserved in self._fronts + self._caches:
                stack.callback(reserved.close)
            for node in self.nodes:
                stack.enter_context(node)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self, number: int = 0) -> str:
        """Return the URL of a node's front, which stands for the origin's."""
        return "http://" + _address(self._fronts[number])

    def kept(self, number: int) -> int:
        """Return how many slices a node has on its disk."""
        names = (path.name for path in (self._directories[number] / "slices").rglob("*"))
        return sum(re.fullmatch("[0-9a-f]{32}", name) is not None for name in names)


def _address(reserved: socket.socket) -> str:
    host, port = reserved.getsockname()
    return f"{host}:{port}"


def _copy(name: str, directory: Path, replaced: dict[str, str]) -> None:
    text = (_FILES / name).read_text()
    for before, after in replaced.items():
        assert before in text, f"{name} no longer has {before!r}"
        text = text.replace(before, after)
    (directory / name).write_text(text)
