"""What a mount says that it has under way: all of it when that is little, and never much."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio

from lazyfs.errors import OriginBadAnswer, OriginUnreachable
from lazyfs.flight import Flight
from lazyfs.origin.client import OriginState
from lazyfs.origin.slots import Slots
from lazyfs.origin.tally import BOUNDS, Tally
from lazyfs.session import Session
from lazyfs.states import LINES, ORIGINS, OTHERS, lines, numbers, origins
from lazyfs.urgency import Urgency
from tests.fakes import run

URL = "http://user:S3cret@h/a/blob?token=S3cret"


def session(*found: OriginState, flights: tuple[Flight, ...] = ()) -> Session:
    """Return what is looked at of a session."""
    blob = SimpleNamespace(blob_id="url-0", known=SimpleNamespace(url=URL), flights=flights)
    there: dict[str, Any] = {
        "client": SimpleNamespace(origins=lambda: iter(found)),
        "blobs": SimpleNamespace(opened=[blob], slow=SimpleNamespace(slowest=list)),
        "vfs": SimpleNamespace(opened={}),
        "store": SimpleNamespace(evictor=SimpleNamespace(evicted=3)),
    }
    return cast("Session", SimpleNamespace(**there))


def origin(number: int, slots: Slots | None = None) -> OriginState:
    """Return an origin that sent as many bytes as its number says."""
    tally = Tally(received=number)
    tally.answered(206, 0.003)
    requests = slots.state if slots else list
    return OriginState(f"http://h{number}:80", tally, 1, 2, 16, number % 2 == 1, requests)


def test_a_tally_has_few_labels_whatever_comes() -> None:
    tally = Tally()
    for status in range(1200):
        tally.answered(status, status / 10)
    for reason in (OriginUnreachable("u", "r"), OriginBadAnswer("u", "r"), trio.Cancelled._create(), ValueError()):
        tally.unanswered(reason)
    assert {*tally.outcomes} == {
        "1xx", "2xx", "3xx", "4xx", "5xx", "other", "unreachable", "bad_answer", "cancelled",
    }  # fmt: skip
    assert tally.faults == {"unreachable": 1, "bad_answer": 1}
    assert sum(tally.begun) == 1200
    assert len(tally.begun) == len(BOUNDS) + 1
    assert tally.begun[-1] == 1200 - 301, "those that took more than 30 s"


def test_what_came_of_further_origins_is_added_up() -> None:
    found = origins(session(*map(origin, range(ORIGINS + 10))))
    assert [one.shown for one in found] == [*(f"http://h{number}:80" for number in range(ORIGINS)), OTHERS]
    others = found[-1]
    assert others.tally.received == sum(range(ORIGINS, ORIGINS + 10))
    assert others.tally.outcomes == {"2xx": 10}
    assert sum(others.tally.begun) == 10
    assert (others.under_way, others.waiting, others.limit, others.failing) == (10, 20, 160, True)
    described = numbers(session(*map(origin, range(ORIGINS + 10))))
    assert described["origins"][OTHERS]["requests"] == 10
    assert described["blocks_evicted"] == 3


def test_each_flight_and_each_request_is_a_line_without_secrets() -> None:
    async def main() -> None:
        slots = Slots()
        flight = Flight([3, 4, 5, 9])
        flight.land(4, b"x")
        flight.hold(Urgency.READAHEAD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flight.wait, 9)
            nursery.start_soon(flight.wait, 3)
            await slots.take(URL, lambda: Urgency.DEMAND)
            await trio.sleep(2.5)
            said = list(lines(session(origin(0, slots), flights=(flight,)), ["quota: slot 0"]))
            nursery.cancel_scope.cancel()
        assert said == [
            "flights: 1",
            "  url-0 (http://h/a/blob): blocks 3-5,9, 1 of them landed; for 2.5 s; "
            "wanted for demand and readahead; blocks 3,9 waited for",
            "locks: 1",
            "  quota: slot 0",
            "open files: 0",
            "origins: 1",
            "  http://h0:80: 1 slots of 16 taken, 2 requests wait for one",
            "requests: 1",
            "  http://h/a/blob: demand, for 2.5 s, the origin was heard 2.5 s ago",
        ]

    run(main)


def test_however_much_is_under_way_it_is_said_in_few_lines() -> None:
    async def main() -> None:
        flights = tuple(Flight(range(number, number + 99, 2)) for number in range(5000))
        slots = Slots()
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(slots.take, URL, lambda: Urgency.PREFETCH)
            await trio.testing.wait_all_tasks_blocked()
            said = list(lines(session(origin(0, slots), flights=flights), map(str, range(300))))
            nursery.cancel_scope.cancel()
        assert "flights: 5000" in said
        assert "  and 4900 more" in said
        assert "requests: 1000" in said
        assert len(said) <= 5 * (LINES + 2)
        assert max(map(len, said)) < 300

    run(main)
