"""Flights: one fetch under way for a run of blocks, and the readers that wait for parts of it.

A flight has a leader (the task that fetches) and any number of waiters. Its rules, each with its place below:

 F1  A block has at most one flight in a process; the table knows it until the leader has let go of it (`FlightTable`).
 F2  A waiter gets its block when that has landed, not when the flight ends (`land`).
 F3  A flight is cancelled when its last interest leaves, and only then: a cancelled waiter fails nobody (`_leave`).
 F4  An error goes to those who wait at that moment; the next reader starts afresh (`end`).
 F5  A landed block can be had from the flight until it is in the store: between the two it is nowhere else (`landed`).
 F6  A flight whose last interest has left takes no new one: newcomers wait for its end and look again, because the
     locks it holds are this process's, and would not keep a second flight out (`dying`, `ended`).

An interest is a waiter or a `Hold` (readahead's, or an open file's in a one-pass fetch). All state changes without an
await; only `wait` waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from lazyfs.extents import Block
from lazyfs.stages import Stages, Why
from lazyfs.urgency import Urgency


class _Arrival:
    """One awaited block: set once, with the block or, without one, because the flight has ended."""

    __slots__ = ("block", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.block: Block | None = None


@dataclass(frozen=True, slots=True)
class FlightState:
    """A flight at one moment. *Units*: `age` seconds."""

    blocks: tuple[int, ...]  # not yet settled, in order
    landed: int  # how many of these are here already
    awaited: tuple[int, ...]  # in order
    wanted_for: tuple[Urgency, ...]  # the most urgent first; a reader may have several interests, so not how many
    age: float
    dying: bool


class FlightEnded(Exception):
    """The flight ended without this block and without an error: look again."""


class Flight:
    """One fetch under way. The leader runs inside `scope`, and calls `land`, `settle` and at last `end`."""

    def __init__(self, blocks: Iterable[int]) -> None:
        self.blocks = set(blocks)  # not yet settled
        self.landed: dict[int, Block] = {}  # F5: landed, but not yet settled; a subset of `blocks`
        self.committed: deque[tuple[int, Block]] = deque()  # by a worker thread, and not yet settled; as `landed`
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self._arrivals: dict[int, _Arrival] = {}
        self._interests = [0] * len(Urgency)
        self._error: Exception | None = None
        self._began = trio.current_time()
        self.stages = Stages(self._began)

    @property
    def dying(self) -> bool:
        """Whether the last interest has left (F6)."""
        return self.scope.cancel_called

    def land(self, index: int, block: Block) -> None:
        """Give a block to those who wait for it (F2), and keep it until `settle`."""
        self.landed[index] = block
        arrival = self._arrivals.pop(index, None)
        if arrival is not None:
            arrival.block = block
            arrival.event.set()

    def at(self, why: Why, fault: str = "") -> None:
        """Note what those who wait for it wait for from here on."""
        self.stages.enter(why, trio.current_time(), fault)

    def awaited(self, index: int) -> bool:
        """Say whether somebody waits for a block."""
        return index in self._arrivals

    async def wait(self, index: int) -> Block:
        """Wait until a block has landed and return it; one of the flight's blocks.

        *Raises*: FlightEnded, when the leader gave up without an error; what the leader failed with.
        *Cancellation*: at any time; the last one to leave cancels the flight (F3).
        """
        if index in self.landed:
            return self.landed[index]
        arrival = self._arrivals.setdefault(index, _Arrival())
        with self.interest():
            await arrival.event.wait()
        if arrival.block is None:
            await self.done()
            raise FlightEnded
        return arrival.block

    async def done(self) -> None:
        """Wait for the flight's end, without an interest in it. *Raises*: what the leader failed with."""
        await self.ended.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)

    @contextmanager
    def interest(self) -> Iterator[None]:
        """Count as a reason to go on, while inside."""
        hold = self.hold(Urgency.DEMAND)
        try:
            yield
        finally:
            hold.release()

    def hold(self, urgency: Urgency) -> Hold:
        """Take an interest that is not a waiter's; not in a dying flight."""
        self._interests[urgency] += 1
        return Hold(self, urgency)

    def urgency(self) -> Urgency:
        """Return the most urgent of the interests there are now."""
        return next((urgency for urgency in Urgency if self._interests[urgency]), Urgency.PREFETCH)

    def state(self) -> FlightState:
        """Return what it is at."""
        return FlightState(
            tuple(sorted(self.blocks)),
            len(self.landed),
            tuple(sorted(self._arrivals)),
            tuple(urgency for urgency in Urgency if self._interests[urgency]),
            trio.current_time() - self._began,
            self.dying,
        )

    def _leave(self, urgency: Urgency) -> None:
        self._interests[urgency] -= 1
        if not any(self._interests) and not self.ended.is_set():
            self.scope.cancel()

    def end(self, error: Exception | None) -> None:
        """Wake everybody who still waits, with the error if there is one (F4)."""
        self._error = error
        self.ended.set()
        for arrival in self._arrivals.values():
            arrival.event.set()
        self._arrivals.clear()


class Hold:
    """An interest in a flight; released once, later calls do nothing."""

    __slots__ = ("_urgency", "flight")

    def __init__(self, flight: Flight, urgency: Urgency) -> None:
        self.flight: Flight | None = flight
        self._urgency = urgency

    @property
    def active(self) -> bool:
        """Whether it still counts."""
        return self.flight is not None and not self.flight.ended.is_set()

    def release(self) -> None:
        """Give the interest up."""
        flight, self.flight = self.flight, None
        if flight is not None:
            flight._leave(self._urgency)


class FlightTable:
    """The flights of one blob, by block (F1)."""

    def __init__(self) -> None:
        self._by_block: dict[int, Flight] = {}
        self._under_way: set[Flight] = set()

    def __len__(self) -> int:
        return len(self._by_block)

    def find(self, index: int) -> Flight | None:
        """Return the flight that has this block, dying or not."""
        return self._by_block.get(index)

    def launch(self, blocks: Iterable[int]) -> Flight:
        """Return a new flight for blocks that have none."""
        flight = Flight(blocks)
        self._under_way.add(flight)
        self._by_block.update(dict.fromkeys(flight.blocks, flight))
        return flight

    def widen(self, flight: Flight, blocks: Iterable[int]) -> None:
        """Add those of `blocks` that have no flight to this one."""
        added = [index for index in blocks if index not in self._by_block]
        flight.blocks.update(added)
        self._by_block.update(dict.fromkeys(added, flight))

    def hand_over(self, flight: Flight, other: Flight) -> None:
        """Give all blocks of a flight to another, which goes by them; their waiters look again."""
        other.blocks.update(flight.blocks)
        self._by_block.update(dict.fromkeys(flight.blocks, other))
        flight.blocks.clear()

    def settle(self, flight: Flight, index: int) -> None:
        """Drop a block that is in the store now, or will not be."""
        flight.landed.pop(index, None)
        flight.blocks.discard(index)
        del self._by_block[index]

    def end(self, flight: Flight, error: Exception | None) -> None:
        """Drop what is left of a flight and wake its waiters; nothing of it is locked any more."""
        for index in tuple(flight.blocks):
            self.settle(flight, index)
        self._under_way.discard(flight)
        flight.end(error)

    @property
    def under_way(self) -> Collection[Flight]:
        """The flights, in no order."""
        return self._under_way

    @property
    def due(self) -> int:
        """How many blocks have not landed yet."""
        return sum(len(flight.blocks) - len(flight.landed) for flight in self._under_way)
