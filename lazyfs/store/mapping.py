"""Which parts of a map anybody has written to.

The map of 4 TiB is 128 MiB, most of it a hole as long as little of the blob is there. Where the file system says that
there is a hole, entries would be read as zeros, which is what "missing" is: so nothing depends on what it says.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from lazyfs import records
from lazyfs.extents import Extent

FIRST: Final = 1 << 8
"""Entries of the first run: most who look for a missing block find one at once."""

MOST: Final = 1 << 13
"""Entries of the later ones."""


def mapped(fd: int, blocks: int, start: int = 0) -> Iterator[Extent]:
    """Yield runs of blocks from `start` on, ascending; all others are missing. `fd` is the map's, of so many blocks."""
    length = FIRST
    while start < blocks:
        first, stop = _next_part(fd, blocks, start)
        start, stop = min(max(start, first), blocks), min(stop, blocks)
        while start < stop:
            run = Extent(start, min(start + length, stop))
            yield run
            start, length = run.stop, min(2 * length, MOST)


def _next_part(fd: int, blocks: int, start: int) -> tuple[int, int]:
    """Return where the next part begins that is no hole, and where it ends, in blocks."""
    try:
        first = os.lseek(fd, records.entry_offset(start), os.SEEK_DATA)
        stop = os.lseek(fd, first, os.SEEK_HOLE)
    except OSError as exc:
        # There is only a hole up to the end; else, who reads the entries sees what is wrong.
        return (blocks, blocks) if exc.errno == errno.ENXIO else (start, blocks)
    first, stop = first - records.MAP_HEADER_SIZE, stop - records.MAP_HEADER_SIZE
    return first // records.ENTRY_SIZE, max(start + 1, -(-stop // records.ENTRY_SIZE))
