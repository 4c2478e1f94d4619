"""A blob in a real store, a fake origin behind it, and the question whether anything is left when all have left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs import records
from lazyfs.blob import Blob, Limits
from lazyfs.blobs import Blobs
from lazyfs.counters import Counters
from lazyfs.extents import Extent
from lazyfs.store import BlobFile, Store
from lazyfs.store.blobfile import open_blob
from lazyfs.versions import BlobId, blob_id_for
from tests.fakes import URL, FakeOrigin

BLOCK = records.MIN_BLOCK_SIZE


def content_of(size: int, seed: int = 1) -> bytes:
    """Return bytes of which no two blocks are alike."""
    return random.Random(seed).randbytes(size)


class World:
    """One process's view of a store with one blob; `elsewhere` is another's."""

    def __init__(self, path: Path, origin: FakeOrigin, nursery: trio.Nursery, limits: Limits) -> None:
        self.origin = origin
        self.store = Store.open(path, BLOCK)
        self.counters = Counters()
        self.blobs = Blobs(self.store, origin.client, self.counters, nursery, limits)
        self.content = origin.content
        self.known = origin.known
        self.blob_id: BlobId = blob_id_for(URL, origin.version, None)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Blob]:
        """Have the blob open."""
        blob = await self.blobs.open(self.blob_id, self.known)
        try:
            yield blob
        finally:
            self.blobs.close(blob)

    async def settle(self, blob: Blob) -> None:
        """Let all that is under way come to its end, and see that an open blob then has no flight and no lock."""
        await trio.sleep(1000)
        assert not blob._flights
        assert not blob._fetcher._locked
        assert locked(self.directory, blocks=True) is None

    async def read(self, offset: int, length: int) -> None:
        """Open, read, and see that the bytes are right."""
        async with self.opened() as blob:
            await self.check(blob, offset, length)

    async def check(self, blob: Blob, offset: int, length: int) -> None:
        """Read, and see that the bytes are right."""
        found = await blob.read(offset, length)
        assert bytes(found) == self.content[offset : offset + length], f"wrong bytes at {offset}, {length}"

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[BlobFile]:
        """Have the blob open as another process has it: on descriptors of its own."""
        with contextlib.closing(open_blob(self.store.layout, self.blob_id, len(self.content), BLOCK)) as file:
            yield file

    def commit(self, file: BlobFile, index: int) -> None:
        """Put a block into the store."""
        file.record(index, *file.write(index, self.content[index * BLOCK : (index + 1) * BLOCK]))

    def evict(self, file: BlobFile, index: int) -> None:
        """Take a block out of the store."""
        file.record(index, records.MISSING)
        self.damage(index * BLOCK, file.geometry.length(index))

    def damage(self, offset: int, length: int, name: str = "data") -> None:
        """Let bytes of the data, or of the map, rot."""
        with (self.directory / name).open("r+b") as file:
            file.seek(offset)
            rotten = bytes(byte ^ 1 for byte in file.read(length))
            file.seek(offset)
            file.write(rotten)

    @property
    def directory(self) -> Path:
        """The blob's directory."""
        return self.store.layout.path / "blobs" / self.blob_id.partition("-")[2][:2] / self.blob_id


@asynccontextmanager
async def world(path: Path, origin: FakeOrigin, *, memory: int = 0, read_timeout: float = 60.0) -> AsyncIterator[World]:
    """Make a world; at its end, when nobody has the blob open, see that nothing is left of what went on in it."""
    async with trio.open_nursery() as nursery:
        world = World(path, origin, nursery, Limits(read_timeout, memory))
        yield world
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks, "a flight goes on"
        assert not world.blobs._open, "a blob is open"
        assert not world.blobs._opening, "a blob is being opened"
        assert not origin.open, "an answer is open"
        world.store.behind.settle()  # it may be seeing whether the blob is complete
        assert open_files(world.directory) == []
        assert locked(world.directory) is None
        world.store.close()


def open_files(directory: Path) -> list[str]:
    """The files below a directory that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(name for name in found if name.startswith(f"{directory}/"))


def locked(directory: Path, *, blocks: bool = False) -> Extent | None:
    """Some run of bytes of a blob's lock file, or of its blocks', that is locked, as others see it; None for none."""
    flock = struct.Struct("hhqqi4x")
    try:
        with open(directory / "lock", "r+b") as file:
            question = flock.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1 << 61 if blocks else 0, 0)
            kind, _, start, length, _ = flock.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, question))
    except FileNotFoundError:
        return None
    return None if kind == fcntl.F_UNLCK else Extent(start, start + (length or sys.maxsize))
