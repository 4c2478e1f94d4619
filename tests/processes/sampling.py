"""How long single calls under a mount take, one after the other, until the caller says enough; for tools/removal.

Only the standard library is imported, as for tests/under.py.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import time
from collections.abc import Callable

BLOCK = 256 * 1024

PAUSE = 0.003
"""Seconds between two calls: a sampler is not to be a load."""


def hits(path: str) -> list[float]:
    """Read pages at random from a file that is all in the store, past the kernel's cache."""
    dice = random.Random(1)
    with open(path, "rb", buffering=0) as file:
        fd, pages = file.fileno(), os.stat(path).st_size // 4096
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

        def read() -> None:
            offset = dice.randrange(pages) * 4096
            os.posix_fadvise(fd, offset, 4096, os.POSIX_FADV_DONTNEED)
            os.pread(fd, 4096, offset)

        return _timed(read)


def misses(path: str, start: int, stop: int) -> list[float]:
    """Read a page of one block after the other of a part of a file of which nothing is in the store."""
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        blocks = iter(range(start, stop, 3 * BLOCK))  # not side by side: that would be read ahead
        return _timed(lambda: os.pread(fd, 4096, next(blocks)))


def listings(path: str) -> list[float]:
    """List a directory with the attributes of what is in it."""

    def look() -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                os.lstat(entry.path)

    return _timed(look)


def wake_ups(_path: str) -> list[float]:
    """Do nothing for a millisecond: how long that takes is the machine's own doing."""
    return _timed(lambda: time.sleep(0.001))


def _timed(call: Callable[[], object]) -> list[float]:
    """Call again and again, and return how long each call took, up to the end of standard input or of the calls."""
    taken = []
    os.write(1, b"!")
    for _ in itertools.count():
        if select.select([0], [], [], PAUSE)[0]:
            break
        began = time.monotonic()
        try:
            call()
        except StopIteration:
            break
        taken.append(time.monotonic() - began)
    return taken
