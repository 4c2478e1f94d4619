"""What `tools/scale` does under a mount, each call in a process of its own; only the standard library is imported."""

from __future__ import annotations

import os
import random
import resource
import select
import time


def walk(path: str) -> int:
    """Look at the attributes of every name below a directory, as `find -ls` does, and return how many there are."""
    found, directories = 0, [path]
    while directories:
        with os.scandir(directories.pop()) as entries:
            for entry in entries:
                found += 1
                entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
    return found


def list_names(path: str, times: int) -> int:
    """List a directory again and again, and return how many names there were."""
    return sum(len(os.listdir(path)) for _ in range(times))


def read_at_random(path: str, size: int, count: int, seed: int) -> list[int]:
    """Read a page at each of `count` random places, past the kernel's pages, and return the places."""
    dice = random.Random(seed)
    places = [dice.randrange(size // 4096) * 4096 for _ in range(count)]
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for place in places:
            os.posix_fadvise(file.fileno(), place, 4096, os.POSIX_FADV_DONTNEED)
            assert len(os.pread(file.fileno(), 4096, place)) == 4096
    return places


def attributes(path: str, times: int) -> None:
    """Get a file's extended attributes again and again."""
    for _ in range(times):
        for name in os.listxattr(path):
            os.getxattr(path, name)


def look_again_and_again(path: str) -> float:
    """Look at a name that the kernel does not know, every few milliseconds, until standard input ends.

    Returns the seconds that the slowest look took.
    """
    slowest, number = 0.0, 0
    os.write(1, b"!")
    while not select.select([0], [], [], 0.005)[0]:
        began = time.monotonic()
        try:
            os.lstat(f"{path}.{number}")
        except FileNotFoundError:
            number += 1
        slowest = max(slowest, time.monotonic() - began)
    return slowest


def open_all(directory: str, count: int) -> None:
    """Open the files `0` to `count`, read a page of each, say so, and hold them all until standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fds = []
    for number in range(count):
        fds.append(os.open(os.path.join(directory, str(number)), os.O_RDONLY))
        assert os.pread(fds[-1], 4096, 0)
    os.write(1, b"!")
    os.read(0, 1)
    for fd in fds:
        os.close(fd)


def open_as_many_as_go(directory: str, count: int) -> tuple[list[bytes], int]:
    """Open the files `0` to `count` until one cannot be opened, then read a page of each, twice, past the page cache.

    Returns what was read, and the errno of the one that could not be opened.
    """
    fds, error = [], 0
    try:
        for number in range(count):
            fds.append(os.open(os.path.join(directory, str(number)), os.O_RDONLY))
    except OSError as exc:
        error = exc.errno or -1
    pages = []
    for fd in fds + fds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pages.append(os.pread(fd, 4096, 0))
    for fd in fds:
        os.close(fd)
    return pages, error
