"""A whole blob that the kernel reads past us: when it may, and that nobody takes its bytes away meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lazyfs.extents import Extent
from lazyfs.store import passage, trash
from lazyfs.store.blobfile import BlobFile, look_into
from lazyfs.store.layout import Layout
from lazyfs.store.locks import DataLocks
from tests.unit.stores import BLOB, BLOCK, CONTENT, SIZE, directory, fill, layout, opened

__all__ = ["layout"]

ALL = Extent(0, 4)


@pytest.fixture
def blob(layout: Layout) -> Iterator[BlobFile]:
    """A whole blob."""
    with opened(layout) as blob:
        fill(blob)
        yield blob


def test_what_was_looked_through_may_be_read_past_us(layout: Layout, blob: BlobFile) -> None:
    seen = passage.glance(blob)
    assert passage.check(blob, ALL) == 0, "all of it is in memory"
    fd = passage.take(layout, blob, seen)
    assert fd is not None
    assert os.pread(fd, SIZE, 0) == CONTENT[:SIZE]
    assert DataLocks(blob.files.data).is_leased()
    os.close(fd)
    assert not DataLocks(blob.files.data).is_leased()


def test_the_lease_lasts_as_long_as_the_open_file(layout: Layout, blob: BlobFile) -> None:
    fd = passage.take(layout, blob, passage.glance(blob))
    assert fd is not None
    kept = os.dup(fd)  # as the kernel keeps it
    os.close(fd)
    assert DataLocks(blob.files.data).is_leased()
    os.close(kept)
    assert not DataLocks(blob.files.data).is_leased()


def evicted(blob: BlobFile, data: Path) -> None:
    """Evict a block."""
    blob.evict(1, 1)


def flipped(blob: BlobFile, data: Path) -> None:
    """Change a byte, and hide that as well as can be."""
    before = data.stat()
    with data.open("r+b") as file:
        file.write(bytes([CONTENT[0] ^ 1]))
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(blob: BlobFile, data: Path) -> None:
    """Cut the data short."""
    os.truncate(data, BLOCK)


def replaced(blob: BlobFile, data: Path) -> None:
    """Put another file in the place of the data."""
    data.rename(data.with_name("old"))
    data.write_bytes(CONTENT[:SIZE])


@pytest.mark.parametrize("change", [evicted, flipped, cut, replaced])
def test_what_has_changed_since_may_not(
    layout: Layout, blob: BlobFile, change: Callable[[BlobFile, Path], None]
) -> None:
    seen = passage.glance(blob)
    change(blob, directory(layout) / "data")
    assert passage.take(layout, blob, seen) is None
    assert not DataLocks(blob.files.data).is_leased()


def test_what_is_being_evicted_may_not(layout: Layout, blob: BlobFile) -> None:
    seen = passage.glance(blob)
    evictor = look_into(layout, BLOB)
    assert evictor.locks.try_blocks(Extent(2, 3))
    assert passage.take(layout, blob, seen) is None
    evictor.close()
    fd = passage.take(layout, blob, seen)
    assert fd is not None
    os.close(fd)


def test_a_damaged_block_is_found_and_becomes_missing(layout: Layout, blob: BlobFile) -> None:
    flipped(blob, directory(layout) / "data")
    assert passage.check(blob, ALL) is None
    assert list(blob.missing(ALL)) == [0]
    assert passage.check(blob, ALL) is None, "it is not all there"
    assert passage.check(blob, Extent(1, 4)) == 0


def test_what_is_read_past_us_is_deleted_without_being_cut(layout: Layout) -> None:
    with opened(layout) as blob:
        fill(blob)
        fd = passage.take(layout, blob, passage.glance(blob))
    assert fd is not None
    staged = trash.stage(layout, BLOB)
    assert staged is not None
    trash.delete(layout, staged)
    assert not directory(layout).exists()
    assert os.pread(fd, SIZE, 0) == CONTENT[:SIZE]
    os.close(fd)
