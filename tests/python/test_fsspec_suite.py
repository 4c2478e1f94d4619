"""fsspec's own tests for file systems, as far as they are for one that only reads.

Of its five classes that is AbstractGetTests, whole. In AbstractCopyTests, AbstractPutTests, AbstractOpenTests and
AbstractPipeTests, each test is of what is written. What the tests write before they read goes where nginx serves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

from lazyfs.python.fsspec import LazyFileSystem
from tests.python.conftest import Site


class Written(LazyFileSystem):
    """The file system, and somebody who can write to what its origin serves."""

    cachable = False
    site: Site

    def _there(self, path: str) -> Path:
        return self.site.docroot / path.removeprefix(self.site.nginx.url).strip("/")

    def mkdir(self, path: str, *_: Any, **__: Any) -> None:
        """Make a directory."""
        self._there(path).mkdir(parents=True, exist_ok=True)

    makedirs = mkdir

    def touch(self, path: str, *_: Any, **__: Any) -> None:
        """Make an empty file."""
        self.pipe_file(path, b"")

    def pipe_file(self, path: str, value: bytes, *_: Any, **__: Any) -> None:
        """Make a file, and the directory that it is in."""
        self._there(path).parent.mkdir(parents=True, exist_ok=True)
        self._there(path).write_bytes(value)

    def rm(self, path: str, *_: Any, **__: Any) -> None:
        """Remove a file or a tree."""
        LocalFileSystem().rm(str(self._there(path)), recursive=True)


class TestGet(AbstractFixtures, AbstractGetTests):
    """What fsspec asks of `get`, and with it of `find`, `glob`, `walk`, `info`, `isdir`, `exists` and `open`."""

    @pytest.fixture
    def fs(self, site: Site, there: Path) -> Iterator[Written]:
        """The file system, which knows nothing of what was there for other tests."""
        with (fs := Written(store=there)).store:
            fs.site = site
            yield fs

    @pytest.fixture
    def fs_path(self, site: Site) -> str:
        """Where everything is."""
        return site.nginx.url
