"""Which files are offered to the C library's threads, and what becomes of what they tell, without any thread."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import trio
import trio.testing

from lazyfs import shortcut
from lazyfs.blob import Blob
from lazyfs.counters import Counters
from lazyfs.extents import Extent, Geometry
from lazyfs.native import Library, Told
from lazyfs.shortcut import Shortcut

KIB = 1024


class FakeLibrary:
    """Has as much room as the real one, and tells what a test says."""

    def __init__(self) -> None:
        self.offered: list[int] = []
        self.waiting: list[Told] = []
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)

    def begin_shortcut(self) -> int:
        return self.bell

    def end_shortcut(self) -> None:
        self.offered.clear()
        os.close(self.bell)

    def offer(self, handle: int, *_place: int) -> bool:
        assert len(self.offered) < shortcut.MOST
        self.offered.append(handle)
        return True

    def withdraw(self, handle: int) -> None:
        self.offered.remove(handle)

    def told(self) -> list[Told]:
        with suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        found, self.waiting = self.waiting, []
        return found

    async def tell(self, handle: int, offset: int, size: int, *, answered: bool) -> None:
        self.waiting.append(Told(7, handle, offset, size, answered))
        os.eventfd_write(self.bell, 1)
        await trio.testing.wait_all_tasks_blocked()


class FakeBlob:
    """What of an open blob is looked at."""

    def __init__(self) -> None:
        self.geometry = Geometry(1000 * KIB, 256 * KIB)
        self.file = SimpleNamespace(files=SimpleNamespace(data=0, map=0))
        self.mismatch: Exception | None = None
        self.closed = False
        self.hits: list[Extent] = []

    def note_hits(self, run: Extent) -> None:
        self.hits.append(run)


class World:
    def __init__(self) -> None:
        self.library = FakeLibrary()
        self.counters = Counters()
        self.answered: list[tuple[int, ...]] = []
        self.shortcut = Shortcut(cast("Library", self.library), self.counters, self.answer)

    async def answer(self, *read: int) -> None:
        self.answered.append(read)

    def offer(self, handle: int) -> FakeBlob:
        blob = FakeBlob()
        self.shortcut.offer(handle, cast("Blob", blob))
        return blob


@asynccontextmanager
async def serving() -> AsyncIterator[World]:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.shortcut.serve)
        await trio.testing.wait_all_tasks_blocked()
        yield world
        nursery.cancel_scope.cancel()


def test_what_is_answered_is_counted_and_what_is_not_is_answered_here() -> None:
    async def main() -> None:
        async with serving() as world:
            blob = world.offer(5)
            await world.library.tell(5, 0, 512 * KIB, answered=True)
            await world.library.tell(5, 768 * KIB, 512 * KIB, answered=True)
            await world.library.tell(5, 512 * KIB, 256 * KIB, answered=False)
            assert blob.hits == [Extent(0, 2), Extent(3, 4)]
            counted = world.counters.as_dict()
            assert (counted["reads"], counted["shortcut_reads"], counted["read_bytes"]) == (2, 2, (512 + 232) * KIB)
            assert world.answered == [(7, 5, 512 * KIB, 256 * KIB)]

    trio.run(main)


def test_a_read_that_was_not_heard_of_yet_is_counted_at_the_close() -> None:
    async def main() -> None:
        async with serving() as world:
            blob = world.offer(5)
            world.library.waiting.append(Told(7, 5, 0, 256 * KIB, 1))
            world.shortcut.withdraw(5)
            assert blob.hits == [Extent(0, 1)]
            assert world.library.offered == []

    trio.run(main)


def test_the_file_that_was_read_longest_ago_makes_room() -> None:
    async def main() -> None:
        async with serving() as world:
            for handle in range(1, shortcut.MOST + 1):
                world.offer(handle)
            await world.library.tell(1, 0, 256 * KIB, answered=True)
            world.offer(100)
            assert set(world.library.offered) == {1, *range(3, shortcut.MOST + 1), 100}

    trio.run(main)


def test_a_blob_that_proves_wrong_is_read_no_more() -> None:
    async def main() -> None:
        async with serving() as world:
            blob = world.offer(5)
            blob.mismatch = ValueError()
            await world.library.tell(5, 0, 256 * KIB, answered=True)
            assert world.library.offered == []
            blob = FakeBlob()
            blob.mismatch = ValueError()
            world.shortcut.offer(6, cast("Any", blob))
            assert world.library.offered == []

    trio.run(main)


def test_nothing_is_noted_of_a_blob_that_was_closed_since_another_was_opened_in_its_place() -> None:
    async def main() -> None:
        async with serving() as world:
            blob = world.offer(5)
            blob.closed = True
            await world.library.tell(5, 0, 256 * KIB, answered=True)
            assert blob.hits == []
            assert world.library.offered == []

    trio.run(main)


def test_nothing_is_offered_before_or_after_or_without_the_library() -> None:
    async def main() -> None:
        async with serving() as world:
            pass
        world.offer(5)
        assert world.library.offered == []
        without = Shortcut(None, Counters(), world.answer)
        await without.serve()
        without.offer(5, cast("Any", FakeBlob()))
        without.withdraw(5)

    trio.run(main)
