"""A reader is cancelled at every step there is; a second one, who waits for the same, gets right bytes.

Nothing is left behind, whichever step it was: `world` looks for flights, locks, descriptors and answers at its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs.extents import Extent
from lazyfs.shared import Shared
from tests.fakes import FakeOrigin, Fault, run, unavailable
from tests.model.world import BLOCK, World, content_of, world

SIZE = 5 * BLOCK + 1000
MOST_STEPS = 2000

Job = Callable[[], Awaitable[object]]


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` when any task has made so many steps since it was armed."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self._left = step
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def fill(here: World) -> None:
    """Open the blob and make it whole."""
    async with here.opened() as blob:
        await blob.fill()
        assert blob.file.present_bytes() == SIZE


async def cancelled_at(step: int, victim: Job, other: Job | None) -> bool:
    """Run both, the victim first, and cancel it at that step; False when it had ended before."""
    scope = trio.CancelScope()
    ended = False

    async def suffer() -> None:
        nonlocal ended
        with scope:
            await victim()
            ended = True

    instrument = CancelAtStep(step, scope)
    async with trio.open_nursery() as nursery:
        trio.lowlevel.add_instrument(instrument)
        nursery.start_soon(suffer)
        if other is not None:
            await trio.lowlevel.checkpoint()
            nursery.start_soon(other)
    trio.lowlevel.remove_instrument(instrument)
    return not ended


def at_every_step(path: Path, once: Callable[[Path, int], Awaitable[bool]]) -> None:
    """Call `once` with an empty store and step 1, 2, 3 … until the victim ends before its step."""
    for step in range(1, MOST_STEPS):
        still = True

        async def main(step: int = step) -> None:
            nonlocal still
            still = await once(path / str(step), step)

        run(main, seed=step)
        if not still:
            assert step > 8, "the victim hardly did anything"
            return
    raise AssertionError("it does not end")


ORIGINS: dict[str, Callable[[], FakeOrigin]] = {
    "ranged": lambda: FakeOrigin(content_of(SIZE)),
    "small pieces": lambda: FakeOrigin(content_of(SIZE), piece=20_000),
    "ranged, no length": lambda: FakeOrigin(content_of(SIZE), counted=False),
    "one pass": lambda: FakeOrigin(content_of(SIZE), ranged=False),
    "one pass, no length": lambda: FakeOrigin(content_of(SIZE), ranged=False, counted=False),
}


def faulty(*faults: Fault) -> FakeOrigin:
    origin = FakeOrigin(content_of(SIZE))
    origin.faults.extend(faults)
    return origin


ORIGINS |= {
    "range ignored once": lambda: faulty(Fault(whole=True)),
    "reset": lambda: faulty(Fault(reset_after=BLOCK + 7), unavailable()),
    "short": lambda: faulty(Fault(short=BLOCK + 7), Fault(short=7)),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_a_reader_is_cancelled(tmp_path: Path, name: str) -> None:
    async def once(path: Path, step: int) -> bool:
        async with world(path, ORIGINS[name]()) as here:
            other = partial(here.read, 2 * BLOCK + 5, BLOCK)
            return await cancelled_at(step, partial(here.read, BLOCK + 5, 3 * BLOCK), other)

    at_every_step(tmp_path, once)


@pytest.mark.parametrize("name", ORIGINS)
def test_the_only_reader_is_cancelled_and_the_blob_stays_open(tmp_path: Path, name: str) -> None:
    async def once(path: Path, step: int) -> bool:
        async with world(path, ORIGINS[name]()) as here, here.opened() as blob:
            was_cancelled = await cancelled_at(step, partial(here.check, blob, BLOCK + 5, 3 * BLOCK), None)
            await here.settle(blob)
            assert blob.file.present_bytes() >= here.counters.blocks_fetched * BLOCK - BLOCK + 1000  # all that landed
            return was_cancelled

    at_every_step(tmp_path, once)


@pytest.mark.parametrize("name", ["ranged", "one pass", "reset"])
def test_one_who_fills_is_cancelled(tmp_path: Path, name: str) -> None:
    async def once(path: Path, step: int) -> bool:
        async with world(path, ORIGINS[name]()) as here:
            return await cancelled_at(step, partial(fill, here), partial(here.read, 2 * BLOCK + 5, BLOCK))

    at_every_step(tmp_path, once)


@pytest.mark.parametrize("name", ["ranged", "one pass"])
def test_a_reader_is_cancelled_while_another_fills(tmp_path: Path, name: str) -> None:
    """Who fills a blob does not depend on the readers whose flights it finds under way."""

    async def once(path: Path, step: int) -> bool:
        async with world(path, ORIGINS[name]()) as here:
            return await cancelled_at(step, partial(here.read, 5, SIZE), partial(fill, here))

    at_every_step(tmp_path, once)


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "gives up"])
@pytest.mark.parametrize("name", ["ranged", "one pass", "one pass, no length"])
def test_a_reader_is_cancelled_while_another_process_has_a_block(tmp_path: Path, name: str, commits: bool) -> None:
    async def other_process(here: World, held: trio.Event) -> None:
        with here.elsewhere() as file:
            assert file.locks.try_blocks(Extent(2, 3))
            held.set()
            await trio.sleep(0.02)
            if commits:
                here.commit(file, 2)
                await trio.sleep(0.02)

    async def once(path: Path, step: int) -> bool:
        async with world(path, ORIGINS[name]()) as here, trio.open_nursery() as nursery:
            held = trio.Event()
            nursery.start_soon(other_process, here, held)
            await held.wait()
            other = partial(here.read, 2 * BLOCK + 5, BLOCK)
            return await cancelled_at(step, partial(here.read, BLOCK + 5, 3 * BLOCK), other)

    at_every_step(tmp_path, once)


def test_a_reader_of_a_damaged_block_is_cancelled(tmp_path: Path) -> None:
    async def once(path: Path, step: int) -> bool:
        async with world(path, ORIGINS["ranged"]()) as here:
            with here.elsewhere() as file:
                here.commit(file, 2)
                here.damage(2 * BLOCK + 99, 1)
            other = partial(here.read, 2 * BLOCK + 5, BLOCK)
            return await cancelled_at(step, partial(here.read, BLOCK + 5, 3 * BLOCK), other)

    at_every_step(tmp_path, once)


def test_one_who_shares_work_is_cancelled(tmp_path: Path) -> None:
    """`Shared`: the other gets the result, the work is done once unless it was nobody's for a while."""

    async def work(calls: list[int]) -> str:
        calls.append(len(calls))
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        return "result"

    async def once(_: Path, step: int) -> bool:
        async with trio.open_nursery() as nursery:
            shared, calls = Shared[str](nursery), list[int]()

            async def ask() -> None:
                assert await shared.do("key", partial(work, calls)) == "result"

            was_cancelled = await cancelled_at(step, ask, ask)
            await wait_all_tasks_blocked()
            assert len(calls) <= 2
            assert not nursery.child_tasks
            assert not shared._under_way
            return was_cancelled

    at_every_step(tmp_path, once)
