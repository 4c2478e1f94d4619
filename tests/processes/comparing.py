"""What reads under a mount whose daemon is killed again and again; it imports only the standard library."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import time
from dataclasses import dataclass, field

LENGTHS = (4096, 70_000, 300_000, 1_000_000)

GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT})
"""What a mount answers whose daemon is dead, and a mountpoint that has none."""


@dataclass
class Compared:
    """What a reader saw. `wrong` and `failed` say where bytes differed, or a read failed under a living daemon."""

    reads: int = 0
    size: int = 0
    deaths: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def compare_until_told(pairs: list[tuple[str, str]], seed: int) -> Compared:
    """Read here and there, each time beside the source, until a byte comes on standard input.

    `pairs` are paths under a mount, each with what it must have the bytes of.
    """
    dice, found = random.Random(seed), Compared()
    sources = {path: os.open(source, os.O_RDONLY) for path, source in pairs}
    fds: dict[str, int] = {}
    os.write(1, b"!")
    while not select.select([0], [], [], 0)[0]:
        path = dice.choice(pairs)[0]
        offset, length = dice.randrange(os.fstat(sources[path]).st_size), dice.choice(LENGTHS)
        try:
            if path not in fds:
                fds[path] = os.open(path, os.O_RDONLY)
            content = _read(fds[path], length, offset)
        except OSError as exc:
            if exc.errno not in GONE:
                found.failed.append(f"{path} at {offset}: {exc.strerror}")
            found.deaths += 1
            if path in fds:
                with contextlib.suppress(OSError):  # of a dead mount that fails as well
                    os.close(fds.pop(path))
            time.sleep(0.02)
            continue
        time.sleep(0.005)  # it is the daemons that should be at work
        found.reads += 1
        found.size += len(content)
        if content != os.pread(sources[path], length, offset):
            found.wrong.append(f"{path} at {offset}, {length} bytes")
    return found


def _read(fd: int, length: int, offset: int) -> bytes:
    """Read past the page cache; a daemon that dies in the middle of it may be an EIO, of which the next read tells."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        content = os.pread(fd, length, offset)
        while len(content) < length and (more := os.pread(fd, length - len(content), offset + len(content))):
            content += more  # what came before an error is a short read
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        os.pread(fd, 1, offset)
        raise
    return content
