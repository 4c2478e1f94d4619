"""How many requests an origin gets at a time, and in which order."""

from __future__ import annotations

import heapq

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs.origin.health import SAMPLES_LEAST
from lazyfs.origin.slots import GIVES_WAY, HOLDERS, STALLED, Limit, Slot, Slots
from lazyfs.urgency import Urgency
from tests.fakes import run


class Origin:
    """Serves so many requests at a time, each in so many seconds; the others queue. A simulation, no time passes."""

    def __init__(self, capacity: int, seconds: float) -> None:
        self.capacity = capacity
        self.seconds = seconds

    def load(self, limit: Limit, requests: int) -> float:
        """Keep as many requests under way as the limit allows; return the requests a second in the second half."""
        now, free_at = 0.0, [0.0] * self.capacity
        under_way: list[tuple[float, float]] = []  # when it ends, when it was sent
        half = 0.0
        for number in range(requests):
            while len(under_way) < int(limit.value):
                ends = max(now, heapq.heappop(free_at)) + self.seconds
                heapq.heappush(free_at, ends)
                heapq.heappush(under_way, (ends, now))
            count = len(under_way)
            now, sent = heapq.heappop(under_way)
            limit.answered(now - sent, count)
            if number == requests // 2:
                half = now
        return (requests - requests // 2) / (now - half)


@pytest.mark.parametrize("capacity", [1, 4, 20, 60])
@pytest.mark.parametrize("seconds", [0.001, 0.05, 2.0])
def test_the_limit_finds_what_the_origin_can_take(capacity: int, seconds: float) -> None:
    limit = Limit()
    rate = Origin(capacity, seconds).load(limit, 3000)
    assert rate >= 0.9 * capacity / seconds, "it serves less than it could"
    assert limit.value <= capacity * 2 + 12, "its queue is long"


def test_the_limit_follows_an_origin_that_becomes_slower() -> None:
    limit = Limit()
    Origin(50, 0.01).load(limit, 2000)
    many = limit.value
    Origin(2, 0.01).load(limit, 2000)
    assert limit.value < many / 2


def test_refusals_halve_the_limit_once_for_each_burst() -> None:
    limit = Limit()
    for now in (0.0, 0.1, 0.2, 0.9):
        limit.refused(now)
    assert limit.value == Limit.FIRST / 2
    for burst in range(1, 20):
        limit.refused(burst * 2.0)
    assert limit.value == Limit.LEAST


def test_what_is_not_used_does_not_grow() -> None:
    limit = Limit()
    for _ in range(1000):
        limit.answered(0.01, under_way=1)
    assert limit.value == Limit.FIRST


class Requests:
    """Tasks that take slots and keep them until they are told; `got` are their names in the order of their slots."""

    def __init__(self, slots: Slots, nursery: trio.Nursery) -> None:
        self.slots = slots
        self.got: list[str] = []
        self.held: dict[str, Slot] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self._nursery = nursery

    async def want(self, *names: str, urgency: Urgency = Urgency.DEMAND) -> None:
        """Begin to wait for slots, in this order."""
        for name in names:
            self._nursery.start_soon(self._take, name, urgency)
            await wait_all_tasks_blocked()

    async def _take(self, name: str, urgency: Urgency) -> None:
        with trio.CancelScope() as self.scopes[name]:
            self.held[name] = await self.slots.take(lambda: urgency)
            self.got.append(name)

    async def release(self, name: str) -> None:
        """Give one back, and let who gets it have it."""
        self.held.pop(name).release()
        await wait_all_tasks_blocked()


async def _requests(nursery: trio.Nursery, limit: float) -> Requests:
    slots = Slots()
    slots.limit.value = limit
    return Requests(slots, nursery)


def test_who_came_first_is_first_and_demand_before_readahead_before_prefetch() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            requests = await _requests(nursery, 1)
            await requests.want("first")
            await requests.want("prefetch", urgency=Urgency.PREFETCH)
            await requests.want("ahead 1", "ahead 2", urgency=Urgency.READAHEAD)
            await requests.want("second", "third")
            for name in ("first", "second", "third", "ahead 1", "ahead 2", "prefetch"):
                assert requests.got[-1] == name
                await requests.release(name)

    run(main)


def test_demand_does_not_wait_for_slots_that_background_work_holds() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            requests = await _requests(nursery, 2)
            await requests.want("ahead 1", "ahead 2", "ahead 3", urgency=Urgency.READAHEAD)
            assert requests.got == ["ahead 1", "ahead 2"]
            await requests.want("1", "2", "3")
            assert requests.got[2:] == ["1", "2"]
            await requests.release("1")
            assert requests.got[4:] == ["3"]
            for name in ("2", "3", "ahead 1"):
                assert "ahead 3" not in requests.got
                await requests.release(name)
            assert requests.got[5:] == ["ahead 3"]

    run(main)


def test_what_becomes_urgent_while_it_waits_goes_first() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            requests = await _requests(nursery, 1)
            urgency = [Urgency.READAHEAD]
            await requests.want("1", "2")

            async def ahead() -> None:
                requests.held["ahead"] = await requests.slots.take(lambda: urgency[0])
                requests.got.append("ahead")

            nursery.start_soon(ahead)
            await requests.want("other", urgency=Urgency.READAHEAD)
            urgency[0] = Urgency.DEMAND
            await requests.release("1")
            await requests.release("2")
            assert requests.got == ["1", "2", "ahead"]

    run(main)


def test_who_hears_nothing_does_not_count() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            requests = await _requests(nursery, 2)
            await requests.want("stalled", "lively", "next", "one more")
            for _ in range(9):
                await trio.sleep(STALLED / 8)
                requests.held["lively"].heard()
            assert requests.got == ["stalled", "lively", "next"]
            requests.held["stalled"].heard()  # it counts again, and what there is stays
            await trio.sleep(STALLED / 2)
            assert requests.got == ["stalled", "lively", "next"]

    run(main)


def test_where_all_answers_are_slow_silence_means_less() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            requests = await _requests(nursery, 1)
            for _ in range(SAMPLES_LEAST):
                requests.slots.latencies.note(STALLED)
            await requests.want("silent", "next")
            await trio.sleep(3 * STALLED)
            assert requests.got == ["silent"]
            await trio.sleep(2 * STALLED)
            assert requests.got == ["silent", "next"]

    run(main)


def test_background_work_does_not_pile_up_behind_what_is_stalled() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            requests = await _requests(nursery, 64)
            for number in range(HOLDERS // 64 + 2):
                await requests.want(*(f"{number} {n}" for n in range(64)), urgency=Urgency.PREFETCH)
                await trio.sleep(STALLED)
            assert len(requests.got) == HOLDERS
            await requests.want("demand")
            assert requests.got[-1] == "demand"
            nursery.cancel_scope.cancel()

    run(main)


def test_who_is_cancelled_leaves_the_slot_to_the_next() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            requests = await _requests(nursery, 1)
            await requests.want("1", "2", "3")
            requests.scopes["2"].cancel()
            await requests.release("1")
            assert requests.got == ["1", "3"]
            # In the very moment in which it is granted:
            await requests.want("4", "5")
            requests.scopes["4"].cancel()
            requests.held.pop("3").release()
            await wait_all_tasks_blocked()
            assert requests.got == ["1", "3", "5"]
            await requests.release("5")
            assert not requests.slots._held
            assert not requests.slots._waiting

    run(main)


def test_prefetch_lets_demand_go_first_for_a_while() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            requests = await _requests(nursery, 8)
            await requests.want("prefetch", urgency=Urgency.PREFETCH)
            await requests.want("ahead", urgency=Urgency.READAHEAD)
            slot = requests.held["prefetch"]

            async def waited(slot: Slot = slot) -> float:
                began = trio.current_time()
                await slot.give_way()
                return trio.current_time() - began

            assert await waited() == 0
            await requests.want("demand")
            assert GIVES_WAY <= await waited() < 2 * GIVES_WAY
            assert await waited(requests.held["ahead"]) == 0
            await requests.release("demand")
            assert await waited() == 0

    run(main)
