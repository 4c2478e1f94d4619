"""One nginx for the tests of a module, which counts what each of them costs it; and stores that are gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import lazyfs
from tests.servers import MisbehavingOrigin, Nginx

ODDITIES = """
location /forbidden { return 403; }
location /broken { return 500; }
location /style/ { default_type text/css; return 200 "a {}"; }
"""


@dataclass(frozen=True)
class Site:
    """An nginx and what it serves."""

    nginx: Nginx
    docroot: Path

    def put(self, name: str, content: bytes) -> str:
        """Serve some bytes, and return their URL."""
        (self.docroot / name).write_bytes(content)
        return self.url(name)

    def url(self, name: str) -> str:
        """Return the URL of a name."""
        return f"{self.nginx.url}/{name}"

    def sent(self, *, metadata: bool = False) -> int:
        """Return how many bytes of files were sent in this test, without the byte of each question for metadata."""
        answered = (request for request in self.nginx.requests() if request.status == 206)
        return sum(request.body_bytes for request in answered if metadata or request.range != "bytes=0-0")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The nginx of a module."""
    place = tmp_path_factory.mktemp("site")
    (place / "docroot").mkdir()
    with Nginx(place / "nginx", place / "docroot", server=ODDITIES) as nginx:
        yield Site(nginx, place / "docroot")


@pytest.fixture
def site(running: Site) -> Site:
    """The same, with nothing asked of it yet."""
    running.nginx.forget()
    return running


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MisbehavingOrigin]:
    """The misbehaving origin of a module."""
    with MisbehavingOrigin() as origin:
        yield origin


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where a store of the test's own is to be."""
    return tmp_path / "store"


@pytest.fixture
def store(there: Path) -> Iterator[lazyfs.Store]:
    """The same, open."""
    with lazyfs.Store(store=there) as store:
        yield store
