"""Lists of buffers that are filled one after the other.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def advance(rest: list[memoryview], count: int) -> None:
    """Take the first `count` bytes, which are filled now, off what is left to fill."""
    while rest and count >= len(rest[0]):
        count -= len(rest.pop(0))
    if count:
        rest[0] = rest[0][count:]


def cut(buffers: Iterable[memoryview], most: int) -> Iterator[memoryview]:
    """Yield the first `most` bytes of some buffers."""
    for buffer in buffers:
        if not most:
            return
        yield buffer[:most]
        most -= min(most, len(buffer))


def put(buffers: Iterable[memoryview], content: bytes | memoryview) -> int:
    """Copy bytes to the start of some buffers, and return how many there was room for."""
    left = memoryview(content)
    for buffer in cut(buffers, len(left)):
        buffer[:] = left[: len(buffer)]
        left = left[len(buffer) :]
    return len(content) - len(left)
