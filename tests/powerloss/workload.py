"""The run that is recorded: one process makes a store, fills blobs, evicts, removes, closes it and opens it again.

`workload.py STORE SEED FAULT`: it marks what it has come to, for the checks, and FAULT, unless empty, is planted first.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from lazyfs import records
from lazyfs.blob import Blob, Limits
from lazyfs.blobs import Blobs
from lazyfs.counters import Counters
from lazyfs.errors import DigestMismatch
from lazyfs.extents import Extent
from lazyfs.store import Store
from lazyfs.store.removal import remove
from lazyfs.verify import record_verified
from lazyfs.versions import BlobId, Known, blob_id_for
from tests.fakes import URL, FakeOrigin
from tests.powerloss import planting

BLOCK: Final = records.MIN_BLOCK_SIZE
BOUND: Final = 24 * BLOCK


@dataclass(frozen=True)
class Served:
    """A blob of the run, and what there may be of it in the store besides."""

    content: bytes
    digest: bool = False
    ranged: bool = True
    wrong: bytes = b""  # what an origin sent that did not match the digest

    @property
    def blob_id(self) -> BlobId:
        """Under which the store has it."""
        digest = f"sha256:{hashlib.sha256(self.content).hexdigest()}" if self.digest else None
        return blob_id_for(URL, FakeOrigin(self.content).version, digest)

    def origin(self) -> FakeOrigin:
        """One that has it."""
        return FakeOrigin(self.content, ranged=self.ranged)

    def block(self, index: int) -> bytes:
        """The right bytes of a block."""
        return self.content[index * BLOCK : (index + 1) * BLOCK]


def _served(seed: int, blocks: int, *, digest: bool = False, ranged: bool = True, wrong: int | None = None) -> Served:
    content = random.Random(seed).randbytes(blocks * BLOCK - 4321)
    other = b"" if wrong is None else content[: wrong * BLOCK] + b"?" * 9 + content[wrong * BLOCK + 9 :]
    return Served(content, digest, ranged, other)


BLOBS: Final = {
    "plain": _served(1, 12),
    "digest": _served(2, 7, digest=True),
    "one pass": _served(3, 9, ranged=False),
    "wrong": _served(4, 5, digest=True, wrong=2),
    "mixed": _served(5, 4, digest=True, wrong=1),
}


def mark(name: str) -> None:
    """Let the record say that the run has come here."""
    ctypes.CDLL(None).recorded_mark(name.encode())


@asynccontextmanager
async def opened(store: Store, served: Served, content: bytes = b"") -> AsyncIterator[Blob]:
    """Have a blob open, from an origin that has it, or has other bytes under its name."""
    origin = FakeOrigin(content) if content else served.origin()
    async with trio.open_nursery() as nursery:
        blobs = Blobs(store, origin.client, Counters(), nursery, Limits(memory=0))
        blob = await blobs.open(served.blob_id, origin.known)
        try:
            yield blob
        finally:
            blobs.close(blob)


async def fill(store: Store, name: str, dice: random.Random) -> None:
    """Read a blob here and there, then fetch all of it."""
    served = BLOBS[name]
    async with opened(store, served) as blob:
        for _ in range(3):
            offset = dice.randrange(len(served.content))
            assert bytes(await blob.read(offset, 5000)) == served.content[offset : offset + 5000]
        await blob.fill()


async def meet_a_wrong_one(store: Store) -> None:
    """Fetch a blob that is not its digest's: it is thrown away."""
    served = BLOBS["wrong"]
    with contextlib.suppress(DigestMismatch, BaseExceptionGroup):
        async with opened(store, served, served.wrong) as blob:
            await blob.fill()


def mix(store: Store) -> None:
    """Take a wrong block in, find it damaged, and make the blob whole with right ones."""
    served = BLOBS["mixed"]
    with contextlib.closing(store.open_blob(served.blob_id, URL, len(served.content))) as file:
        file.locks.try_blocks(Extent(0, 4))
        for index in (0, 1, 2):
            block = served.wrong[index * BLOCK :][:BLOCK]
            file.record(index, *file.write(index, block))
        file.forget(1)
        for index in (1, 3):
            block = served.block(index)
            (checksum,) = file.write(index, block)
            record_verified(file, index, block, checksum, served.blob_id.partition("-")[2], URL)


def run(path: Path, seed: int) -> None:
    """Do it all; the seed says in which order."""
    dice = random.Random(seed)
    store = Store.open(path, BLOCK)
    mark("made")
    store.quota.set_bounds(BOUND, None)
    mark("bound")
    for number in range(2):
        names = ["plain", "digest", "one pass", "wrong"]
        dice.shuffle(names)
        store.catalogue.remember(Known(f"{URL}/{name}/{number}", BLOBS[name].origin().version) for name in names)
        store.catalogue.remember_listing(f"{URL}/", repr(names).encode())
        trio.run(meet_a_wrong_one, store)
        for name in names:
            trio.run(fill, store, name, dice)
        mix(store)
        store.tidy()
        store.behind.settle()
        for name in (names[-1], "mixed"):  # the first of them has just been marked complete
            remove(store.layout, store.catalogue, BLOBS[name].blob_id)
        trio.run(fill, store, dice.choice(names), dice)
        store.close()
        store = Store.open(path, BLOCK)
    store.close()


if __name__ == "__main__":
    with planting.planted(planting.IN_RUN, sys.argv[3]):
        run(Path(sys.argv[1]), int(sys.argv[2]))
