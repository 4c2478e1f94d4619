"""The read algorithm in scenarios, each made by hand: what it asks of the origin, and what it leaves in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs.blob import FAILED_FOR
from lazyfs.errors import (
    BlobChanged,
    DeadlineExceeded,
    OriginBadAnswer,
    OriginOffline,
    OriginRefused,
    OriginUnreachable,
    StoreError,
)
from lazyfs.extents import Extent
from lazyfs.fetch import PASS_AGAIN, PASS_TRIES
from lazyfs.store import BlobFile
from lazyfs.urgency import Urgency
from tests.fakes import NOT_FOUND, FakeOrigin, Fault, run, unavailable
from tests.model.world import BLOCK, World, content_of, world

SIZE = 5 * BLOCK + 1000
BLOCKS = 6


def scenario(
    *, ranged: bool = True, counted: bool = True, memory: int = 0
) -> Callable[[Callable[[World], Awaitable[None]]], Callable[[Path], None]]:
    """Make a test of a scenario in a world with an empty store and a blob of five blocks and a bit."""

    def made(play: Callable[[World], Awaitable[None]]) -> Callable[[Path], None]:
        async def main(path: Path) -> None:
            origin = FakeOrigin(content_of(SIZE), ranged=ranged, counted=counted)
            async with world(path / "store", origin, memory=memory) as here:
                await play(here)

        def test(tmp_path: Path) -> None:
            run(main, tmp_path)

        test.__doc__ = play.__doc__
        return test

    return made


@scenario()
async def test_a_read_asks_for_its_blocks_once(here: World) -> None:
    async with here.opened() as blob:
        await here.check(blob, 2 * BLOCK + 5, BLOCK)
        await here.check(blob, 2 * BLOCK, 2 * BLOCK)
    assert here.origin.asked == [Extent(2 * BLOCK, 4 * BLOCK)]
    assert here.counters.blocks_fetched == 2


@scenario()
async def test_the_first_byte_is_not_asked_for_again(here: World) -> None:
    await here.read(0, 10)
    assert here.origin.asked == [Extent(1, BLOCK)]


@scenario()
async def test_at_and_beyond_the_end(here: World) -> None:
    async with here.opened() as blob:
        for offset in (SIZE - 1, SIZE, SIZE + 1, 1 << 40):
            await here.check(blob, offset, 3)
    assert here.origin.asked == [Extent(5 * BLOCK, SIZE)]


@scenario()
async def test_nothing_is_kept_of_a_blob_that_could_not_be_opened(here: World) -> None:
    other = dataclasses.replace(here.known, version=dataclasses.replace(here.known.version, size=SIZE + 1))
    async with here.opened():
        with pytest.raises(OriginBadAnswer):
            await here.blobs.open(here.blob_id, other)
    assert not here.blobs._opening


@scenario(memory=BLOCK)
async def test_many_readers_of_one_block(here: World) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(here.read, 2 * BLOCK, 4096)
    assert here.origin.asked == [Extent(2 * BLOCK, 3 * BLOCK)]


@scenario(ranged=False)
async def test_one_pass_is_enough_for_everybody(here: World) -> None:
    async with here.opened() as blob, trio.open_nursery() as nursery:
        for index in (4, 2, 0, 5):
            nursery.start_soon(here.check, blob, index * BLOCK, 10)
    assert here.origin.asked == [Extent(0, SIZE)]
    assert here.counters.blocks_fetched == BLOCKS


@scenario()
async def test_a_pass_takes_the_other_parts_of_its_flight_along(here: World) -> None:
    """A flight with a gap, since another process was faster with one block, and an origin that ignores ranges."""
    here.origin.faults.extend([Fault(whole=True)] * 3)
    async with here.opened() as blob:
        hold = blob._take_off(range(BLOCKS)).hold(Urgency.READAHEAD)
        with here.elsewhere() as other:
            here.commit(other, 2)
        await here.check(blob, 0, SIZE)
        await wait_all_tasks_blocked()
        hold.release()
    assert here.origin.asked == [Extent(1, 2 * BLOCK)]


@scenario(ranged=False)
async def test_another_process_passes(here: World) -> None:
    """Of two processes that both learn that ranges are ignored, one passes; the other takes what it leaves."""
    async with here.opened() as blob:
        with here.elsewhere() as other:
            assert other.locks.try_pass()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.check, blob, 2 * BLOCK, 10)
                await trio.sleep(5)
                assert other.locks.try_blocks(Extent(0, BLOCKS)) == Extent(0, BLOCKS)
                here.commit(other, 2)
        assert here.origin.asked == []
        await here.check(blob, 3 * BLOCK, 10)  # that process has ended in the middle of its pass
    assert here.origin.asked == [Extent(0, SIZE)]


@scenario()
async def test_a_pass_goes_on_without_its_first_reader_until_the_blob_is_closed(here: World) -> None:
    stall = trio.Event()
    here.origin.faults.append(Fault(whole=True, stall=stall))
    async with here.opened() as blob:
        with trio.move_on_after(1):
            await here.check(blob, BLOCK, 10)
        await wait_all_tasks_blocked()
        assert here.origin.open == 1
        stall.set()
        await wait_all_tasks_blocked()
        assert blob.file.present_bytes() == SIZE


@scenario()
async def test_who_stays_keeps_the_flight_of_who_leaves(here: World) -> None:
    """The second reader wants all of what the first one asked for, and waits for its first block just now."""
    stall = trio.Event()
    here.origin.faults.append(Fault(stall=stall))
    async with here.opened() as blob, trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            nursery.start_soon(partial(trio.sleep, 0.5))
            nursery.start_soon(partial(_later, 0.5, partial(here.check, blob, BLOCK, 4 * BLOCK)))
            await here.check(blob, BLOCK, 4 * BLOCK)
        stall.set()
    assert here.origin.asked == [Extent(BLOCK, 5 * BLOCK)]


async def _later(seconds: float, job: Callable[[], Awaitable[None]]) -> None:
    await trio.sleep(seconds)
    await job()


@scenario()
async def test_what_has_landed_is_committed_though_its_reader_has_left(here: World) -> None:
    async with here.opened() as blob:
        await here.check(blob, 3 * BLOCK, 10)
    await wait_all_tasks_blocked()
    with here.elsewhere() as other:
        assert other.present_bytes() == BLOCK


@scenario()
async def test_damage_looks_like_a_missing_block(here: World) -> None:
    await here.read(BLOCK, 3 * BLOCK)
    await wait_all_tasks_blocked()
    here.damage(2 * BLOCK + 7, 1)
    await here.read(BLOCK, 3 * BLOCK)
    assert here.counters.blocks_corrupt >= 1
    assert here.origin.asked[1:] == [Extent(2 * BLOCK, 3 * BLOCK)]
    here.origin.offline = True
    await here.read(BLOCK, 3 * BLOCK)


@scenario()
async def test_damage_that_another_process_repairs_is_counted_once(here: World) -> None:
    with here.elsewhere() as other:
        here.commit(other, 2)
        here.damage(2 * BLOCK, 1)
        assert other.locks.try_blocks(Extent(2, 3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.read, 2 * BLOCK, 10)
            await trio.sleep(1)
            here.commit(other, 2)
            other.locks.release_blocks(Extent(2, 3))
    assert here.origin.asked == []
    assert here.counters.blocks_corrupt <= 2


@scenario()
async def test_an_evicted_block_is_fetched_again(here: World) -> None:
    async with here.opened() as blob:
        await blob.fill()
        await wait_all_tasks_blocked()
        with here.elsewhere() as other:
            for index in (1, 2, 3):
                here.evict(other, index)
        asked = len(here.origin.asked)
        await here.check(blob, 2 * BLOCK, 10)
        await here.check(blob, BLOCK, 3 * BLOCK)
        await wait_all_tasks_blocked()
        assert len(here.origin.asked) - asked == 3
        assert blob.file.present_bytes() == SIZE
    here.store.behind.settle()
    assert [row.complete for row in here.store.catalogue.blobs()] == [True]


@scenario()
async def test_a_blob_with_evicted_blocks_is_not_called_whole(here: World) -> None:
    async with here.opened() as blob:
        await blob.fill()
        await wait_all_tasks_blocked()
        with here.elsewhere() as other:
            for index in (1, 2, 3):
                here.evict(other, index)
        await here.check(blob, 2 * BLOCK, 10)
        await wait_all_tasks_blocked()
        assert not blob._complete


@scenario()
async def test_another_process_commits_what_we_wait_for(here: World) -> None:
    with here.elsewhere() as other:
        assert other.locks.try_blocks(Extent(0, BLOCKS))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.read, 0, SIZE)
            for index in range(BLOCKS):
                await trio.sleep(1)
                here.commit(other, index)
                other.locks.release_blocks(Extent(index, index + 1))
    assert here.origin.asked == []
    assert here.counters.blocks_awaited >= BLOCKS - 1


@scenario()
async def test_another_process_dies_in_the_middle(here: World) -> None:
    async with trio.open_nursery() as nursery:
        with here.elsewhere() as other:
            assert other.locks.try_blocks(Extent(0, BLOCKS))
            nursery.start_soon(here.read, 0, SIZE)
            await trio.sleep(1)
            here.commit(other, 0)
            await trio.sleep(1)
        before = trio.current_time()
    assert trio.current_time() - before < 0.05
    assert here.origin.asked == [Extent(BLOCK, SIZE)]


@scenario()
async def test_a_read_ends_at_its_deadline_and_fails_at_once_for_a_while(here: World) -> None:
    """The kernel asks for the pages of a failed request one by one."""
    stall = trio.Event()
    here.origin.faults.append(Fault(stall=stall))
    async with here.opened() as blob:
        for seconds in (60, 0, 0):
            before = trio.current_time()
            with pytest.raises(DeadlineExceeded):
                await here.check(blob, 2 * BLOCK, 10)
            assert trio.current_time() - before == pytest.approx(seconds)
        await trio.sleep(5)
        await here.check(blob, 2 * BLOCK, 10)
    assert len(here.origin.asked) == 2


@scenario()
async def test_retry_after_is_obeyed_but_not_for_hours(here: World) -> None:
    here.origin.faults.extend([unavailable(10), unavailable(3600)])
    async with here.opened() as blob:
        before = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await here.check(blob, 0, 10)
        await trio.sleep(5)
        await here.check(blob, 0, 10)
        assert 10 < trio.current_time() - before < 130


@scenario()
async def test_the_pauses_grow_until_something_comes(here: World) -> None:
    here.origin.faults.extend([unavailable()] * 5)
    async with here.opened() as blob:
        before = trio.current_time()
        await here.check(blob, BLOCK, 10)
        assert 1.5 < trio.current_time() - before < 3.2
    here.origin.faults.extend(Fault(reset_after=BLOCK + 1) for _ in range(3))
    async with here.opened() as blob:
        before = trio.current_time()
        await here.check(blob, 2 * BLOCK, 4 * BLOCK)
        assert trio.current_time() - before < 0.31
    assert here.origin.asked[-4:] == [Extent(index * BLOCK, SIZE) for index in (2, 3, 4, 5)]


@scenario()
async def test_an_answer_without_a_whole_block_is_a_failure(here: World) -> None:
    """It may be right, but whoever sends such answers must not be asked again and again without a pause."""
    here.origin.faults.extend([Fault(short=BLOCK - 1)] * 1000)
    async with here.opened() as blob:
        with pytest.raises(DeadlineExceeded):
            await here.check(blob, BLOCK, 10)
    assert len(here.origin.asked) < 30


@scenario(ranged=False)
async def test_what_is_found_damaged_while_a_pass_goes_by_is_no_lack_of_progress(here: World) -> None:
    """The pass takes the one block that it was begun for, and is handed another that it has left behind."""
    async with here.opened() as blob:
        await here.check(blob, 0, SIZE)
        await here.settle(blob)
        here.damage(0, SIZE)
        for index in reversed(range(BLOCKS)):
            await here.check(blob, index * BLOCK, 10)
        await here.settle(blob)
    assert here.counters.retries == 0


@scenario(ranged=False)
async def test_passes_that_went_well_do_not_count_against_one_that_breaks(here: World) -> None:
    async with here.opened() as blob:
        for _ in range(PASS_TRIES):
            await here.check(blob, 0, 10)
            await here.settle(blob)
            here.damage(0, BLOCK)
        here.origin.faults.append(Fault(whole=True, reset_after=BLOCK - 1))
        await here.check(blob, 0, 10)


@scenario(ranged=False)
async def test_a_pass_without_a_new_block_is_not_begun_for_ever(here: World) -> None:
    """Each costs the origin the whole blob. What brings a block, if only one, is worth another try."""
    broken = Fault(whole=True, reset_after=BLOCK - 1)
    here.origin.faults.extend([broken] * (PASS_TRIES - 1) + [Fault(whole=True, reset_after=BLOCK)])
    here.origin.faults.extend([broken] * PASS_TRIES)
    async with here.opened() as blob:
        with pytest.raises(OriginUnreachable):
            await here.check(blob, 2 * BLOCK, 10)
        assert len(here.origin.asked) == 2 * PASS_TRIES
        before = trio.current_time()
        await here.check(blob, 0, BLOCK)
        assert trio.current_time() == before
        await trio.sleep(FAILED_FOR)
        before = trio.current_time()
        with pytest.raises(OriginUnreachable):
            await here.check(blob, 2 * BLOCK, 10)
        assert trio.current_time() == before, "it is not waited for, either"
        await trio.sleep(PASS_AGAIN)
        await here.check(blob, 2 * BLOCK, 10)
    assert len(here.origin.asked) == 2 * PASS_TRIES + 1


@scenario()
async def test_a_process_that_is_stopped_with_a_block_keeps_nobody_from_the_others(here: World) -> None:
    """Neither those of the same read, nor those of the same flight that lie before and behind it."""
    async with here.opened() as blob:
        with here.elsewhere() as other:
            for index in (1, 3):
                assert other.locks.try_blocks(Extent(index, index + 1))
            hold = blob._take_off(range(1, BLOCKS)).hold(Urgency.READAHEAD)
            for index in (2, 4, 5):
                before = trio.current_time()
                await here.check(blob, index * BLOCK, 10)
                assert trio.current_time() - before < 0.1
            hold.release()
        await here.check(blob, BLOCK, 4 * BLOCK)


@pytest.mark.parametrize("kind", [OriginRefused, BlobChanged])
def test_a_refusal_is_not_asked_again(tmp_path: Path, kind: type[Exception]) -> None:
    @scenario()
    async def test(here: World) -> None:
        if kind is BlobChanged:
            here.origin.swap(content_of(SIZE, seed=2))
        else:
            here.origin.faults.append(NOT_FOUND)
        async with here.opened() as blob:
            with pytest.raises(kind):
                await here.check(blob, 0, 10)
        assert len(here.origin.asked) == 1

    test(tmp_path)


@scenario()
async def test_offline(here: World) -> None:
    await here.read(BLOCK, 10)
    here.origin.offline = True
    async with here.opened() as blob:
        await here.check(blob, BLOCK, BLOCK)
        with pytest.raises(OriginOffline):
            await here.check(blob, BLOCK, BLOCK + 1)
        with pytest.raises(OriginOffline):
            await blob.fill()


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "uncounted"])
def test_a_full_disk(tmp_path: Path, counted: bool) -> None:
    """Readers have their bytes all the same; who wants the blob in the store is told."""

    @scenario(counted=counted)
    async def test(here: World) -> None:
        async with here.opened() as blob:
            await here.check(blob, BLOCK, 2 * BLOCK)
            with pytest.raises(StoreError, match="No space left on device"):
                await blob.fill()

    with mock.patch.object(BlobFile, "write", side_effect=OSError(28, "No space left on device")):
        test(tmp_path)


@scenario()
async def test_a_failing_disk_is_not_the_end_of_the_mount(here: World) -> None:
    async with here.opened() as blob:
        with mock.patch("os.pread", side_effect=OSError(5, "Input/output error")):
            await here.check(blob, BLOCK, 10)
            with pytest.raises(StoreError, match="cannot be read back"):
                await blob.fill()
        await here.check(blob, BLOCK, 10)


@scenario(counted=False)
async def test_nothing_of_a_body_without_a_length_is_used_before_its_end(here: World) -> None:
    here.origin.faults.extend([Fault(reset_after=2 * BLOCK + 5), NOT_FOUND])
    async with here.opened() as blob:
        with pytest.raises(OriginRefused):
            await here.check(blob, BLOCK, 3 * BLOCK)
        assert blob.file.present_bytes() == 0
        await trio.sleep(5)
        await here.check(blob, BLOCK, 3 * BLOCK)


@scenario()
async def test_sequential_reading_moves_each_byte_once(here: World) -> None:
    async with here.opened() as blob:
        for offset in range(0, SIZE, 10_000):
            await here.check(blob, offset, 10_000)
    assert here.origin.sent == SIZE - 1  # the first came with the look-up
    assert sum(map(len, here.origin.asked)) == SIZE - 1


@scenario()
async def test_an_origin_that_gives_a_block_at_a_time_is_asked_for_several_at_once(here: World) -> None:
    """As a cache does that keeps slices: one request after the other would take a round trip for each."""
    here.origin.usually(Fault(short=BLOCK))
    most = 0
    async with here.opened() as blob:
        await here.check(blob, 0, 2 * BLOCK)  # whereby it is learnt
        async with trio.open_nursery() as nursery:
            nursery.start_soon(blob.fill)
            while blob.file.present_bytes() < SIZE:
                most = max(most, here.origin.open)
                await trio.lowlevel.checkpoint()
    assert most > 1
