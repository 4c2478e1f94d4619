"""Stores for tests of what is in them."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lazyfs import records
from lazyfs.store.blobfile import BlobFile, open_blob
from lazyfs.store.layout import Layout, open_layout
from lazyfs.versions import BlobId

BLOCK = records.MIN_BLOCK_SIZE
SIZE = 3 * BLOCK + 1000
BLOB = BlobId("url-" + "ab" * 32)
CONTENT = bytes(range(251)) * (SIZE // 251 + 1)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """An empty store."""
    layout = open_layout(tmp_path / "store")
    yield layout
    layout.close()


@contextlib.contextmanager
def opened(layout: Layout, size: int = SIZE, block_size: int = BLOCK) -> Iterator[BlobFile]:
    """Have the blob open."""
    with contextlib.closing(open_blob(layout, BLOB, size, block_size)) as blob:
        yield blob


def directory(layout: Layout) -> Path:
    """The blob's directory."""
    return layout.path / "blobs" / "ab" / BLOB


def fill(blob: BlobFile) -> None:
    """Commit all of the blob."""
    for index in range(blob.geometry.blocks):
        blob.record(index, *blob.write(index, block(blob, index)))


def block(blob: BlobFile, index: int) -> bytes:
    """The right bytes of a block."""
    start = index * blob.geometry.block_size
    return CONTENT[start : start + blob.geometry.length(index)]


def in_processes(count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call `function(*args)` in so many new processes at once and return what they return."""
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        return [result.get(30) for result in [pool.apply_async(function, args) for _ in range(count)]]
