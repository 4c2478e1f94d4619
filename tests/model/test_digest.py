"""A blob that is known by its digest: whoever reads, in whatever order, nobody reads a wrong one to its end."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest import mock

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs import records, verify
from lazyfs.blob import Blob
from lazyfs.errors import DigestMismatch
from lazyfs.extents import Extent
from lazyfs.versions import BlobId
from lazyfs.ways import REFUSED_FOR
from tests.fakes import FakeOrigin, Fault, run
from tests.model.world import BLOCK, World, content_of, world

BLOCKS = 4
SIZE = (BLOCKS - 1) * BLOCK + 1000
CONTENT = content_of(SIZE)
WRONG = CONTENT[: BLOCK + 7] + b"?" + CONTENT[BLOCK + 8 :]

Play = Callable[[World], Awaitable[None]]


def scenario(
    play: Play, path: Path, *, served: bytes, ranged: bool = True, counted: bool = True, seed: int = 0
) -> None:
    """Play with a blob whose digest is CONTENT's and whose origin serves `served`."""

    async def main() -> None:
        origin = FakeOrigin(served, ranged=ranged, counted=counted)
        async with world(path / "store", origin) as here:
            here.blob_id = BlobId("sha256-" + hashlib.sha256(CONTENT).hexdigest())
            await play(here)

    run(main, seed=seed)


def directories(here: World) -> list[str]:
    """What lies in the trash."""
    return sorted(entry.name for entry in (here.store.layout.path / "trash").iterdir())


async def read_all(here: World, blob: Blob, order: tuple[int, ...]) -> None:
    """Read all blocks, one after the other."""
    for index in order:
        await here.check(blob, index * BLOCK, BLOCK)


@pytest.mark.parametrize("order", list(itertools.permutations(range(BLOCKS))))
def test_a_right_blob_is_read_in_any_order(order: tuple[int, ...], tmp_path: Path) -> None:
    async def play(here: World) -> None:
        async with here.opened() as blob:
            await read_all(here, blob, order)
            await here.settle(blob)
            assert blob.file.present_bytes() == SIZE
        assert sum(len(extent) for extent in here.origin.asked) == SIZE - 1  # its first byte came with the metadata

    scenario(play, tmp_path, served=CONTENT)


@pytest.mark.parametrize("order", list(itertools.permutations(range(BLOCKS))))
def test_the_last_block_of_a_wrong_blob_is_never_given_out(order: tuple[int, ...], tmp_path: Path) -> None:
    async def play(here: World) -> None:
        async with here.opened() as blob:
            with pytest.raises(DigestMismatch, match="thrown away"):
                await read_all(here, blob, order)  # readahead may meet it before the last read
            with pytest.raises(DigestMismatch):  # nothing of it is given out any more
                await blob.read(order[0] * BLOCK, 1)
            await wait_all_tasks_blocked()
        assert len(directories(here)) == 1
        with pytest.raises(DigestMismatch, match="thrown away"):  # nor is it fetched anew from where it was wrong
            await here.read(0, SIZE)
        await trio.sleep(REFUSED_FOR)
        here.origin.swap(CONTENT)
        here.known = here.origin.known
        here.content = CONTENT
        await here.read(0, SIZE)
        here.store.tidy()
        assert directories(here) == []

    scenario(play, tmp_path, served=WRONG)


@pytest.mark.parametrize("seed", range(20))
def test_a_wrong_blob_is_thrown_away_also_when_its_reader_ends_the_process(seed: int, tmp_path: Path) -> None:
    """Whoever reads it next would meet it again, and that from an origin that is right by then."""

    async def play(here: World) -> None:
        with here.elsewhere() as other:
            here.commit(other, 1)
            other.note_sum(2, WRONG[:BLOCK])  # it was evicted
        await here.read(0, SIZE)

    with pytest.raises(BaseExceptionGroup):  # it cancels all that goes on
        scenario(play, tmp_path, served=CONTENT, seed=seed)
    assert len(list((tmp_path / "store" / "trash").iterdir())) == 1


def test_what_is_remembered_of_a_wrong_blob_is_little_and_not_for_ever(tmp_path: Path) -> None:
    async def play(here: World) -> None:
        for _ in range(2):  # it is found, and it is refused
            with pytest.raises(DigestMismatch):
                await here.read(0, SIZE)
        ((_, error),) = here.blobs._wrong.values()
        assert error.__traceback__ is None, "with the frames that it went through, and the blocks in them"
        await trio.sleep(REFUSED_FOR)
        here.blob_id = BlobId("sha256-" + "0" * 64)
        with pytest.raises(DigestMismatch):
            await here.read(0, SIZE)
        await wait_all_tasks_blocked()
        assert {blob_id for blob_id, _ in here.blobs._wrong} == {here.blob_id}

    scenario(play, tmp_path, served=WRONG)


@pytest.mark.parametrize("served", [CONTENT, WRONG], ids=["right", "wrong"])
@pytest.mark.parametrize("ranged", [True, False])
@pytest.mark.parametrize("counted", [True, False])
def test_all_blocks_at_once(served: bytes, ranged: bool, counted: bool, tmp_path: Path) -> None:
    async def play(here: World) -> None:
        right: list[int] = []
        wrong: list[DigestMismatch] = []

        async def reader(index: int) -> None:
            try:
                await here.read(index * BLOCK, BLOCK)
                right.append(index)
            except DigestMismatch as exc:
                wrong.append(exc)

        async with trio.open_nursery() as nursery:
            for index in range(BLOCKS):
                nursery.start_soon(reader, index)
        assert (len(right) == BLOCKS) is (served == CONTENT)
        assert len(right) + len(wrong) == BLOCKS

    scenario(play, tmp_path, served=served, ranged=ranged, counted=counted)


def test_the_block_of_another_process_counts(tmp_path: Path) -> None:
    """Two processes, each with one of the last two blocks: the later of them verifies."""

    async def play(here: World) -> None:
        stall = trio.Event()
        async with here.opened() as blob:
            with here.elsewhere() as other:
                for index in (0, 1):
                    here.commit(other, index)
                here.origin.faults.append(Fault(stall=stall))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(expect_mismatch, blob.read, 3 * BLOCK, 1)
                    await wait_all_tasks_blocked()
                    assert not other.locks.try_blocks(Extent(3, 4))
                    here.commit(other, 2)
                    stall.set()
                assert other.read(0, wait=True) is not None  # it goes on with what it has
        assert len(directories(here)) == 1

    async def expect_mismatch(read: Callable[[int, int], Awaitable[object]], offset: int, length: int) -> None:
        with pytest.raises(DigestMismatch):
            await read(offset, length)

    scenario(play, tmp_path, served=WRONG)


def test_a_block_that_rots_before_the_last_one_comes_is_not_believed(tmp_path: Path) -> None:
    async def play(here: World) -> None:
        async with here.opened() as blob:
            for index in (0, 1, 2):
                await here.check(blob, index * BLOCK, BLOCK)
            here.damage(BLOCK, 1)
            with trio.move_on_after(5) as scope:
                await here.check(blob, 3 * BLOCK, 1)
            assert not scope.cancelled_caught
            await here.check(blob, 0, SIZE)

    scenario(play, tmp_path, served=CONTENT)


def evict(here: World, *blocks: int) -> None:
    """Evict blocks as the evictor does."""
    with here.elsewhere() as file:
        for index in blocks:
            file.evict(index, 0)


def test_a_wrong_block_that_is_evicted_and_comes_back_right_does_not_make_the_blob_right(tmp_path: Path) -> None:
    """Its reader has read on."""

    async def play(here: World) -> None:
        async with here.opened() as blob:
            await here.check(blob, BLOCK, BLOCK)  # the wrong one
            evict(here, 1)
            here.origin.content = here.content = CONTENT
            with pytest.raises(DigestMismatch, match="not what it was"):
                await here.check(blob, BLOCK, BLOCK)
            await wait_all_tasks_blocked()
        assert len(directories(here)) == 1

    scenario(play, tmp_path, served=WRONG)


def test_what_is_evicted_and_comes_back_costs_no_second_look_at_the_whole(tmp_path: Path) -> None:
    async def play(here: World) -> None:
        async with here.opened() as blob:
            await read_all(here, blob, tuple(range(BLOCKS)))
            evict(here, 2)
            with mock.patch.object(verify, "_digest_with", side_effect=AssertionError):
                await here.check(blob, 2 * BLOCK, BLOCK)
            assert blob.file.present_bytes() == SIZE

    scenario(play, tmp_path, served=CONTENT)


@pytest.mark.parametrize("place", [0, 3], ids=["of the whole", "of the block"])
def test_where_it_is_not_known_what_was_there_the_whole_is_looked_at(tmp_path: Path, place: int) -> None:
    async def play(here: World) -> None:
        async with here.opened() as blob:
            await read_all(here, blob, tuple(range(BLOCKS)))
            evict(here, 2)
            here.damage(place * records.SUM_SIZE + 5, 1, "sums")
            with mock.patch.object(verify, "_digest_with", wraps=verify._digest_with) as looked:
                await here.check(blob, 2 * BLOCK, BLOCK)
            assert looked.call_count == 1
            assert blob.file.present_bytes() == SIZE

    scenario(play, tmp_path, served=CONTENT)


def test_what_was_evicted_before_the_blob_was_ever_whole_does_not_spare_the_look(tmp_path: Path) -> None:
    async def play(here: World) -> None:
        async with here.opened() as blob:
            await here.check(blob, 0, BLOCK)
            evict(here, 0)
            with pytest.raises(DigestMismatch, match="its digest is"):
                await read_all(here, blob, (1, 2, 3, 0))
            await wait_all_tasks_blocked()

    scenario(play, tmp_path, served=WRONG)


def test_what_was_given_out_and_not_kept_is_always_the_same(tmp_path: Path) -> None:
    async def play(here: World) -> None:
        here.store.quota.set_bounds(1, None)  # nothing is kept
        async with here.opened() as blob:
            await here.check(blob, BLOCK, BLOCK)
            await here.check(blob, BLOCK, BLOCK)
            here.origin.content = here.content = CONTENT
            with pytest.raises(DigestMismatch, match="not what it was"):
                await here.check(blob, BLOCK, BLOCK)
            await wait_all_tasks_blocked()

    scenario(play, tmp_path, served=WRONG)
