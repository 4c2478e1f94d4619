"""Reads past a store that does not take what was fetched: each block is asked for once while memory has it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from lazyfs.store import Store
from tests.fakes import FakeOrigin, run
from tests.model.world import BLOCK, World, content_of, world

SIZE = 8 * BLOCK


def fail(store: Store) -> None:
    store.trouble.failed(OSError(errno.EIO, os.strerror(errno.EIO)), for_certain=True)


def test_what_is_in_memory_is_not_fetched_for_each_read(tmp_path: Path) -> None:
    async def main() -> None:
        origin = FakeOrigin(content_of(SIZE))
        async with world(tmp_path / "store", origin, memory=SIZE) as here:
            fail(here.store)
            async with here.opened() as blob:
                for index in (6, 1, 4):
                    await here.check(blob, index * BLOCK, BLOCK)
                await here.check(blob, 0, SIZE)
                await here.settle(blob)
            assert origin.sent == SIZE - 1, "the first byte came with the name"
            assert here.counters.blocks_bypassed == SIZE // BLOCK

    run(main)


def test_a_blob_that_could_not_be_opened_is_kept_once_it_can_be(tmp_path: Path) -> None:
    async def main() -> None:
        origin = FakeOrigin(content_of(SIZE))
        async with world(tmp_path / "store", origin) as here:
            shelf = here.directory.parent
            shelf.write_text("in the way")
            async with here.opened() as blob:
                await here.check(blob, 0, SIZE)
                assert not blob.stored
                shelf.unlink()
                async with here.opened() as again:
                    assert again.stored
                    await here.check(again, 0, SIZE)
                    await here.check(blob, 0, BLOCK)
                    await here.settle(again)
            assert present(here) == SIZE

    run(main)


def present(here: World) -> int:
    with contextlib.closing(here.store.open_blob(here.blob_id, "http://h/", SIZE)) as file:
        return file.present_bytes()
