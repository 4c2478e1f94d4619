"""Open, read, map and close files at random, and compare every byte; it is started on a mount as a process of its own.

Only the standard library is imported, as tests.under says.
"""

from __future__ import annotations

import mmap
import os
import random
import time


def use_at_random(files: list[tuple[str, str]], seconds: float, seed: int) -> tuple[int, list[str]]:
    """Use files beside their sources, now these, now those; return how often they were opened, and what was wrong."""
    dice, wrong, opens = random.Random(seed), list[str](), 0
    held: list[tuple[int, mmap.mmap | None, str, bytes]] = []
    sources = {path: open(source, "rb").read() for path, source in files}  # noqa: SIM115
    chosen = files
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(wrong) < 10:
        if dice.random() < 0.05:  # the others are let go of, and may be evicted
            chosen = dice.sample(files, dice.choice((1, 1, 2)))
            time.sleep(dice.choice((0, 0, 1.5)))
        path, _ = dice.choice(chosen)
        try:
            fd = os.open(path, os.O_RDONLY | dice.choice((0, 0, os.O_DIRECT)))
            opens += 1
            mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ) if dice.random() < 0.3 else None
            held.append((fd, mapping, path, sources[path]))
            for _ in range(dice.randrange(20)):
                _compare(dice, *dice.choice(held), wrong)
        except OSError as exc:
            wrong.append(f"{path}: {exc}")
        while held and (len(held) > 3 or dice.random() < 0.7):
            fd, mapping, _, _ = held.pop(dice.randrange(len(held)))
            if mapping is not None:
                mapping.close()
            os.close(fd)
        time.sleep(dice.random() * 0.02)
    return opens, wrong


def _compare(
    dice: random.Random, fd: int, mapping: mmap.mmap | None, path: str, source: bytes, wrong: list[str]
) -> None:
    at = dice.randrange(len(source)) // 4096 * 4096
    length = 4096 * dice.choice((1, 1, 16, 64))
    if mapping is not None:
        found = mapping[at : at + length]
    else:
        buffer = mmap.mmap(-1, length)
        found = buffer[: os.preadv(fd, [buffer], at)]
    if found != source[at : at + length]:
        wrong.append(f"{path}: {len(found)} bytes at {at} are not the source's")
