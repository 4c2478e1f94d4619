"""Runs of a blob with a fake origin: what is recorded, and what becomes of a replay when its reader leaves."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs import profiles
from lazyfs.extents import Extent, Geometry
from lazyfs.store.profiled import find
from tests.fakes import FakeOrigin, Fault, run, unavailable
from tests.model.world import BLOCK, World, content_of, world

BLOCKS = 100
SIZE = BLOCKS * BLOCK
GEOMETRY = Geometry(SIZE, BLOCK)


def played(main: Callable[[World], Awaitable[None]], *, ranged: bool = True, memory: int = 1 << 20) -> None:
    """Play a test in a world that records."""

    async def play() -> None:
        with tempfile.TemporaryDirectory() as directory:
            origin = FakeOrigin(content_of(SIZE), ranged=ranged)
            async with world(Path(directory) / "store", origin, memory=memory) as here:
                here.blobs.record()
                await main(here)

    run(play)


async def read(here: World, *blocks: int) -> None:
    """Read some blocks, in one run."""
    async with here.opened() as blob:
        for index in blocks:
            await here.check(blob, index * BLOCK, 10)


async def recorded(here: World) -> list[int]:
    """Return the blocks that the catalogue's profile has."""
    await wait_all_tasks_blocked()
    assert here.store.behind.settle()
    profile = find(here.store.catalogue, here.blob_id, here.origin.version)
    return [] if profile is None else profile.blocks(GEOMETRY)


def given(here: World, *blocks: int) -> None:
    """Have a profile of these blocks in the catalogue."""
    profile = profiles.of_blocks(here.blob_id, here.origin.version, GEOMETRY, blocks)
    here.store.catalogue.remember_profile(profile.blob_id, profile.size, profile.etag, profiles.encode(profile))


def test_runs_are_added_up() -> None:
    async def main(here: World) -> None:
        await read(here, 7, 3, 7, 5)
        assert await recorded(here) == [7, 3, 5]
        await read(here, 5, 60, 3)
        assert await recorded(here) == [7, 3, 5, 60]

    played(main)


def test_a_run_is_written_down_while_it_goes_on_and_for_so_long_only() -> None:
    async def main(here: World) -> None:
        async with here.opened() as blob:
            await here.check(blob, 7 * BLOCK, 10)
            await trio.sleep(10)
            assert await recorded(here) == [7]
            await trio.sleep(600)
            await here.check(blob, 70 * BLOCK, 10)
        assert await recorded(here) == [7]

    played(main)


def test_what_the_profile_has_comes_before_it_is_read_once() -> None:
    async def main(here: World) -> None:
        order = random.Random(1).sample(range(BLOCKS), 50)
        given(here, *order)
        async with here.opened() as blob:
            await here.check(blob, order[0] * BLOCK, 10)
            await here.settle(blob)
            assert await blob.count() == 50 * BLOCK
            asked = len(here.origin.asked)
            for index in order:
                await here.check(blob, index * BLOCK, 10)
            assert len(here.origin.asked) == asked
        assert here.origin.sent <= 50 * BLOCK

    played(main)


def test_a_reader_that_leaves_ends_it() -> None:
    async def main(here: World) -> None:
        given(here, *range(0, BLOCKS, 2))
        here.origin.faults.append(Fault())
        here.origin.usually(Fault(silent=trio.Event()))
        async with here.opened() as blob:
            await here.check(blob, 0, 10)
            await trio.sleep(1)
            assert here.blobs.opened
            assert blob.flights
        await wait_all_tasks_blocked()
        assert not here.blobs.opened
        assert here.origin.sent <= BLOCK

    played(main)


def test_one_that_fails_fails_no_reader() -> None:
    async def main(here: World) -> None:
        given(here, *range(0, BLOCKS, 2))
        here.origin.faults.extend([Fault(), *[unavailable(1000.0)] * 200])
        async with here.opened() as blob:
            await here.check(blob, 0, 10)
            await trio.sleep(1)
            here.origin.faults.clear()
            with trio.fail_after(10):
                await here.check(blob, 51 * BLOCK, 10)

    played(main)


def test_nothing_is_replayed_of_what_comes_in_one_pass() -> None:
    async def main(here: World) -> None:
        given(here, 50, 60)
        async with here.opened() as blob:
            await here.check(blob, 0, 10)
            await here.settle(blob)
        assert here.origin.asked == [Extent(0, SIZE)]

    played(main, ranged=False)


def test_a_small_blob_and_one_that_is_whole_have_no_runs() -> None:
    async def main(here: World) -> None:
        async with here.opened() as blob:
            await blob.fill()
        await read(here, 5)
        assert await recorded(here) == []

    played(main)


def test_rubbish_in_the_catalogue_is_no_profile() -> None:
    async def main(here: World) -> None:
        here.store.catalogue.remember_profile(here.blob_id, SIZE, None, b"rubbish")
        await read(here, 5)
        assert await recorded(here) == [5]

    played(main)
