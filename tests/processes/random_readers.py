"""A reader of random parts that compares every byte, for a process of its own; only the standard library."""

from __future__ import annotations

import mmap
import os
import random
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """What a reader read; `wrong` are the offsets of reads that differ, `errors` the errnos of those that failed."""

    reads: int
    bytes: int
    wrong: list[int]
    errors: list[int]


def compare(path: str, truth: str, seed: int, seconds: float, *, direct: bool) -> Compared:
    """Read random parts of `path` until the time is over, and compare them with those of the file `truth`.

    Most reads go to a twentieth of the file, which moves on now and then; one in eight goes through a part in order.
    With `direct` none is answered from the page cache.
    """
    dice = random.Random(seed)
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    size = os.fstat(fd).st_size
    reads = total = 0
    wrong: list[int] = []
    errors: list[int] = []
    buffer = mmap.mmap(-1, 1 << 17)
    sys.stdout.write("!")
    sys.stdout.flush()
    end = time.monotonic() + seconds
    with open(truth, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as right:
        hot = 0
        while time.monotonic() < end and len(wrong) + len(errors) < 10:
            if dice.random() < 0.001:
                hot = dice.randrange(size)
            within = size // 20 if dice.random() < 0.75 else size
            offset = (hot + dice.randrange(within)) % size & -4096
            length = dice.choice((4096, 4096, 4096, 16384, 65536))
            for _ in range(16 if dice.random() < 0.125 else 1):
                length = min(length, size - offset)
                if length <= 0:
                    break
                try:
                    count = os.preadv(fd, [memoryview(buffer)[:length]], offset)
                except OSError as exc:
                    errors.append(exc.errno or 0)
                    break
                reads += 1
                total += count
                if count != length or buffer[:length] != right[offset : offset + length]:
                    wrong.append(offset)
                offset += length
            if not direct and dice.random() < 0.05:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return Compared(reads, total, wrong, errors)
