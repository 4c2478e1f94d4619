"""Turns: one at a time for each key, and nothing is left of it, however it went."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs.turns import Turns
from tests.fakes import run


def test_one_at_a_time_for_each_key() -> None:
    turns = Turns[str]()
    inside = {"a": 0, "b": 0}
    most = 0

    async def visit(key: str) -> None:
        nonlocal most
        async with turns.of(key):
            inside[key] += 1
            most = max(most, sum(inside.values()))
            assert inside[key] == 1
            await trio.sleep(1)
            inside[key] -= 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(visit, "a")
                nursery.start_soon(visit, "b")
        assert trio.current_time() == 5
        assert most == 2
        assert not turns

    run(main)


def test_who_is_cancelled_before_or_while_he_waits_leaves_nothing() -> None:
    turns = Turns[str]()

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with turns.of("a"):
                raise AssertionError
        assert not turns
        async with trio.open_nursery() as nursery, turns.of("a"):
            nursery.start_soon(wait, scope := trio.CancelScope())
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert len(turns) == 1
        assert not turns

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            async with turns.of("a"):
                raise AssertionError

    run(main)


def test_who_leaves_late_does_not_take_the_turn_of_others() -> None:
    turns = Turns[str]()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(visit, number)
                nursery.start_soon(visit, -number)
        assert not turns

    async def visit(number: int) -> None:
        with trio.move_on_after(abs(number) * 0.1):
            async with turns.of("a"):
                assert len(turns) == 1
                await trio.sleep(0.05 * (number % 3))

    run(main)
