"""Flights: the rules F1 to F6, with a leader that does as it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs.errors import OriginUnreachable
from lazyfs.extents import Block
from lazyfs.flight import Flight, FlightEnded, FlightTable
from lazyfs.urgency import Urgency

FAILURE = OriginUnreachable("http://h/", "reset")


class Waiters:
    """Tasks that wait for blocks of a flight; `got` has what they got or raised, in order."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.got: list[Block | str] = []
        self._nursery = nursery

    async def start(self, flight: Flight, index: int) -> trio.CancelScope:
        """Start one and let it wait; cancel it by the scope."""
        scope = trio.CancelScope()
        self._nursery.start_soon(self._wait, flight, index, scope)
        await wait_all_tasks_blocked()
        return scope

    async def _wait(self, flight: Flight, index: int, scope: trio.CancelScope) -> None:
        with scope:
            try:
                self.got.append(await flight.wait(index))
            except (FlightEnded, OriginUnreachable) as exc:
                self.got.append(type(exc).__name__)


def with_waiters(test: Callable[[FlightTable, Flight, Waiters], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of one that gets a flight of the blocks 3, 4 and 5."""

    async def main() -> None:
        table = FlightTable()
        flight = table.launch([3, 4, 5])
        async with trio.open_nursery() as nursery:
            await test(table, flight, Waiters(nursery))

    return lambda: trio.run(main)


@with_waiters
async def test_f1_a_block_has_one_flight(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    other = table.launch([1])
    table.widen(other, range(8))
    assert [table.find(index) for index in (2, 3, 5, 7)] == [other, flight, flight, other]
    assert table.due == len(flight.blocks) + len(other.blocks)
    table.settle(flight, 4)
    assert table.find(4) is None
    table.widen(other, [4])
    table.end(flight, None)
    assert table.find(3) is None
    assert table.find(4) is other
    table.end(other, None)
    assert not table
    assert not table.due


@with_waiters
async def test_f2_a_block_is_had_when_it_has_landed(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    await waiters.start(flight, 4)
    await waiters.start(flight, 5)
    assert flight.awaited(4)
    flight.land(4, b"four")
    assert not flight.awaited(4)
    await wait_all_tasks_blocked()
    assert waiters.got == [b"four"]
    flight.land(5, b"five")


@with_waiters
async def test_f3_the_last_to_leave_cancels(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    scopes = [await waiters.start(flight, index) for index in (3, 3, 4)]
    hold = flight.hold(Urgency.READAHEAD)
    for scope in scopes:
        scope.cancel()
    await wait_all_tasks_blocked()
    assert (hold.active, flight.dying) == (True, False)
    hold.release()
    hold.release()
    assert (hold.active, flight.dying) == (False, True)
    assert waiters.got == []


@with_waiters
async def test_f3_who_leaves_fails_nobody(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    leaving = await waiters.start(flight, 3)
    await waiters.start(flight, 3)
    leaving.cancel()
    await wait_all_tasks_blocked()
    flight.land(3, b"three")
    await wait_all_tasks_blocked()
    assert waiters.got == [b"three"]


@with_waiters
async def test_f4_an_error_goes_to_those_who_wait_now(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    await waiters.start(flight, 3)
    await waiters.start(flight, 4)
    flight.land(4, b"four")
    table.end(flight, FAILURE)
    await wait_all_tasks_blocked()
    assert sorted(map(str, waiters.got)) == sorted([str(b"four"), "OriginUnreachable"])
    assert table.find(3) is None  # the next reader launches afresh
    with pytest.raises(OriginUnreachable):
        await flight.done()


@with_waiters
async def test_f4_an_end_without_an_error(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    await waiters.start(flight, 3)
    table.end(flight, None)
    await flight.done()
    await wait_all_tasks_blocked()
    assert waiters.got == ["FlightEnded"]
    assert not flight.dying  # nothing is left to cancel


@with_waiters
async def test_f5_a_landed_block_is_had_until_it_settles(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    flight.land(3, b"three")
    assert table.find(3) is flight
    assert await flight.wait(3) == b"three"
    table.settle(flight, 3)
    assert table.find(3) is None
    assert 3 not in flight.landed


@with_waiters
async def test_f6_the_table_knows_a_dying_flight(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    flight.hold(Urgency.READAHEAD).release()
    assert flight.dying
    assert table.find(3) is flight


@with_waiters
async def test_handed_over(table: FlightTable, flight: Flight, waiters: Waiters) -> None:
    """The waiters look again, and find the other flight."""
    await waiters.start(flight, 3)
    other = table.launch([9])
    table.hand_over(flight, other)
    assert table.find(3) is other
    assert other.blocks == {3, 4, 5, 9}
    table.end(flight, None)
    await wait_all_tasks_blocked()
    assert waiters.got == ["FlightEnded"]
    assert table.find(3) is other
