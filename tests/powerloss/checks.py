"""What must be true of a store after a power loss, whatever was lost."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

from lazyfs.errors import DigestMismatch, StoreError, first_reason
from lazyfs.records import BadRecord
from lazyfs.store import Store
from lazyfs.store.blobfile import BlobFile, look_into
from tests.powerloss.workload import BLOBS, BLOCK, BOUND, Served, opened

PAGE: Final = 4096


def faults(path: Path, marks: set[str], dice: random.Random) -> Iterator[str]:
    """Open what is left of the store, look at it, read all of it, and yield what is wrong."""
    try:
        store = Store.open(path, BLOCK)
    except StoreError as exc:
        yield f"the store is refused: {exc}"
        return
    with contextlib.closing(store):
        complete = {row.blob_id for row in store.catalogue.blobs() if row.complete}
        with contextlib.closing(sqlite3.connect(path / "catalogue.db")) as catalogue:
            if (said := catalogue.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                yield f"the catalogue: {said}"
        if "bound" in marks and store.quota.look().max_cache != BOUND:
            yield "the bound is forgotten"
        for name, served in BLOBS.items():
            for fault in _look_at(store, served, marked=served.blob_id in complete):
                yield f"{name}: {fault}"
        store.tidy()
        pages = PAGE * len(BLOBS)  # of which a blob's last one need not be full
        if (used := store.quota.look().used) < store.bytes_on_disk() - pages:
            yield f"{used} bytes are counted, and {store.bytes_on_disk()} are on the disk"
        if left := list((path / "trash").iterdir()):
            yield f"in the trash is {left}"
        for name, served in BLOBS.items():
            if dice.random() < 0.5 and (fault := _read(store, served)):
                yield f"{name}: {fault}"


def _look_at(store: Store, served: Served, *, marked: bool) -> Iterator[str]:
    """Look at a blob's blocks as they are, before anything mends them."""
    with (
        contextlib.suppress(FileNotFoundError, BadRecord),
        contextlib.closing(look_into(store.layout, served.blob_id)) as file,
    ):
        if (file.geometry.size, file.geometry.block_size) != (len(served.content), BLOCK):
            yield f"it has become one of {file.geometry}"
            return
        found = [_block(file, index) for index in range(file.geometry.blocks)]
        right = [served.block(index) for index in range(file.geometry.blocks)]
        for index, block in enumerate(found):
            wrong = served.wrong[index * BLOCK : (index + 1) * BLOCK]
            if block is not None and block != right[index] and not (wrong and block == wrong):
                yield f"block {index} reads as present and has wrong bytes"
        if None not in found and found != right:
            yield "it is whole and does not match its digest"
        if marked and None in found:
            yield f"it is marked complete, and block {found.index(None)} is missing"
        return
    if marked:
        yield "it is marked complete, and is not there"


def _block(file: BlobFile, index: int) -> bytes | None:
    block = file.read(index, wait=True)
    return None if block is None else bytes(block)


def _read(store: Store, served: Served) -> str:
    """Read a whole blob, as after any restart, and say what is wrong with it."""

    async def read() -> bytes:
        async with opened(store, served) as blob:
            return bytes(await blob.read(0, len(served.content)))

    for _ in range(2):  # what was wrong before is thrown away, once
        try:
            return "" if trio.run(read) == served.content else "wrong bytes were read"
        except BaseException as exc:
            reason = first_reason(exc)
            if reason is None:
                raise
            if not (served.wrong and isinstance(reason, DigestMismatch)):
                break
    return f"it cannot be read: {reason}"
