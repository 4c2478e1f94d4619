"""More blobs open than a process may have descriptors for: those that nobody reads rest, and nobody notices."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from lazyfs.awake import Awake
from lazyfs.blob import Blob
from lazyfs.errors import StoreError, TooManyOpen, errno_for
from lazyfs.store import layout as layouts
from lazyfs.versions import BlobId, blob_id_for
from tests.fakes import FakeOrigin, run
from tests.model.world import BLOCK, World, content_of, open_files, world

SIZE = 3 * BLOCK + 100
LIMIT = 64


def blob_id(number: int) -> BlobId:
    return blob_id_for(f"http://h/{number}", FakeOrigin(content_of(SIZE)).version, None)


async def several(here: World, count: int) -> list[Blob]:
    return [await here.blobs.open(blob_id(number), here.known) for number in range(count)]


def files(here: World) -> list[str]:
    return open_files(here.store.layout.path / "blobs")


def play(path: Path, main: object) -> None:
    async def whole() -> None:
        async with world(path, FakeOrigin(content_of(SIZE))) as here:
            here.blobs.awake = Awake(LIMIT)
            await main(here)  # type: ignore[operator]
            await trio.sleep(10)
            assert not here.blobs.awake

    run(whole)


def test_all_are_read_again_and_again(tmp_path: Path) -> None:
    async def main(here: World) -> None:
        awake = here.blobs.awake
        blobs = await several(here, awake.most_open)
        for offset in (0, 2 * BLOCK, BLOCK - 1):
            for blob in blobs:
                await here.check(blob, offset, 50)
                while blob._busy:  # who fetched the block has still to close the flight
                    await trio.sleep(0.001)
                assert len(files(here)) <= LIMIT
        await trio.sleep(10)
        assert len(files(here)) == 4 * awake.most_awake + len(blobs) - awake.most_awake
        for blob in blobs:
            here.blobs.close(blob)

    play(tmp_path, main)


def test_those_that_are_read_at_once_are_all_awake(tmp_path: Path) -> None:
    async def main(here: World) -> None:
        blobs = await several(here, here.blobs.awake.most_open)
        async with trio.open_nursery() as nursery:
            for blob in blobs:
                for offset in range(0, SIZE, BLOCK):
                    nursery.start_soon(here.check, blob, offset, 100)
        await trio.sleep(10)
        async with trio.open_nursery() as nursery:
            for blob in blobs:
                nursery.start_soon(blob.fill)
        for blob in blobs:
            assert await blob.count() == SIZE
            here.blobs.close(blob)

    play(tmp_path, main)


def test_one_too_many(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main(here: World) -> None:
        most = here.blobs.awake.most_open
        blobs = await several(here, most)
        for number in (most, most + 1):
            with pytest.raises(
                TooManyOpen, match=f"{most} blobs are open.*than {LIMIT} descriptors: close some"
            ) as caught:
                await here.blobs.open(blob_id(number), here.known)
            assert errno_for(caught.value) == errno.ENFILE
        again = await here.blobs.open(blob_id(0), here.known)
        assert again is blobs[0], "what is open already takes no more"
        here.blobs.close(again)
        here.blobs.close(blobs.pop())
        blobs.append(await here.blobs.open(blob_id(most), here.known))
        await here.check(blobs[-1], 0, SIZE)
        assert [record.levelname for record in caplog.records] == ["ERROR"], "it is said once"
        for blob in blobs:
            here.blobs.close(blob)

    play(tmp_path, main)


def test_no_descriptor_is_left_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(here: World) -> None:
        def fail(*_: object, **__: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(layouts, "open_directory", fail)
            patched.setattr(os, "memfd_create", fail)
            with pytest.raises(TooManyOpen):
                await here.blobs.open(here.blob_id, here.known)
        await here.read(0, SIZE)

    play(tmp_path, main)


def test_one_that_another_process_throws_away_while_it_rests(tmp_path: Path) -> None:
    async def main(here: World) -> None:
        unread, read = await several(here, 2)
        await here.check(read, 0, 10)
        await trio.sleep(10)
        for blob in (unread, read):
            assert blob.rest()
            blob.set_aside(here.store.layout)
            with pytest.raises(StoreError, match="thrown away by another process"):
                await blob.read(0, 10)
        assert here.blobs.worth_another_try(unread)
        assert not here.blobs.worth_another_try(read), "it has given out bytes"
        for blob in (unread, read):
            anew = await here.blobs.open(blob.blob_id, here.known)
            assert anew is not blob
            await here.check(anew, 0, SIZE)
            here.blobs.close(blob)
            here.blobs.close(anew)

    play(tmp_path, main)
