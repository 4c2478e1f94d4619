"""Blocks of the store, read and checked without keeping the event loop waiting for the disk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final

import trio

from lazyfs.counters import Counters
from lazyfs.extents import Block, Extent
from lazyfs.store import BlobFile
from lazyfs.store.sampling import some_present

SAMPLES: Final = 4
"""Blocks that a mirror must have alike, where nothing else says that it has the same blob."""

Waiting = Callable[[], AbstractContextManager[None]]
"""Entered where a read waits for the disk, and left when that is over."""


async def read_stored(
    file: BlobFile, index: int, counters: Counters, on_disk: Waiting = nullcontext
) -> bytearray | None:
    """Return a block of the store, checked; None when it is missing or damaged.

    *Raises*: nothing of the disk's: a block that cannot be read is missing, and is fetched again.
    """
    try:
        try:
            block = file.read(index, wait=False)
        except BlockingIOError:
            with on_disk():
                block = await trio.to_thread.run_sync(lambda: file.read(index, wait=True))
        if block is None and next(file.missing(Extent(index, index + 1)), None) is None:
            counters.blocks_corrupt += 1
    except OSError:
        return None
    return block


async def read_stored_run(file: BlobFile, run: Extent, on_disk: Waiting) -> Block | None:
    """Return several blocks in one piece, checked; None when one is missing, damaged, or cannot be read."""
    try:
        try:
            return file.read_run(run, wait=False)
        except BlockingIOError:
            with on_disk():
                return await trio.to_thread.run_sync(partial(file.read_run, run, wait=True))
    except OSError:
        return None


async def read_samples(file: BlobFile, counters: Counters) -> list[tuple[Extent, Block]]:
    """Return a few blocks of the store, any of them, checked, and where they are."""
    chosen = await trio.to_thread.run_sync(some_present, file, SAMPLES)
    blocks = [(index, await read_stored(file, index, counters)) for index in chosen]
    return [(file.geometry.bytes_of(Extent(index, index + 1)), block) for index, block in blocks if block]
