"""Whether a block is what its map says, told beside those who fetch and evict it.

look ── matches ── sound
  └ does not ── look again, with its lock held ── missing now, or matches ── sound
                   │                           └ does not ── damaged: it becomes missing, if so wanted
                   └ its lock is held: it is being fetched or evicted, and nothing is said of it
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from enum import Enum, auto

from lazyfs.extents import Extent
from lazyfs.records import MISSING
from lazyfs.store.blobfile import BlobFile


class Verdict(Enum):
    """What a look at a block has found."""

    SOUND = auto()
    ABSENT = auto()
    HELD = auto()
    DAMAGED = auto()


def check_block(
    blob: BlobFile, index: int, drop: Callable[[BlobFile, int], None] | None
) -> tuple[Verdict, bytearray | None]:
    """Look at a block, and again before it is called damaged; then `drop` it. Returns the bytes of a sound one.

    Blocks on the disk. *Raises*: OSError, when the map cannot be written. *Locks*: tries the block's, and releases it.
    """
    verdict, block = _look(blob, index)
    if verdict is Verdict.DAMAGED:
        with try_block(blob, index) as ours:
            if not ours:
                return Verdict.HELD, None
            verdict, block = _look(blob, index)
            if verdict is Verdict.DAMAGED and drop is not None:
                drop(blob, index)
    return verdict, block


def drop_block(blob: BlobFile, index: int) -> None:
    """Make a damaged block missing, and give its disk space back. *Locks*: the block's, held. *Raises*: OSError."""
    blob.forget(index)
    blob.discard(index)


def reclaim(blob: BlobFile, *, give_back: bool = True) -> int:
    """Give back the disk space of blocks that are missing, which who was killed before the map's entry leaves.

    Returns how many blocks have some. *Raises*: OSError. *Locks*: tries the blocks', and releases them.
    """
    found = 0
    for index in blob.unvouched():
        with try_block(blob, index) as ours:
            if ours and blob.entries(Extent(index, index + 1))[0] == MISSING:
                found += 1
                if give_back:
                    blob.discard(index)
    return found


@contextlib.contextmanager
def try_block(blob: BlobFile, index: int) -> Iterator[bool]:
    """Hold a block's lock, if nobody else does."""
    run = Extent(index, index + 1)
    ours = bool(blob.locks.try_blocks(run))
    try:
        yield ours
    finally:
        if ours:
            blob.locks.release_blocks(run)


def _look(blob: BlobFile, index: int) -> tuple[Verdict, bytearray | None]:
    try:
        block = blob.read(index, wait=True)
    except OSError:
        return Verdict.DAMAGED, None  # what the disk cannot read
    if block is not None:
        return Verdict.SOUND, block
    absent = blob.entries(Extent(index, index + 1))[0] == MISSING
    return (Verdict.ABSENT if absent else Verdict.DAMAGED), None
