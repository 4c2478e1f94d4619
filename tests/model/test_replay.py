"""The replacement policy on traces: beside LRU, and the store's own eviction beside the simulation of it."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from lazyfs import records
from lazyfs.records import MISSING
from lazyfs.store import Store, eviction
from lazyfs.versions import BlobId
from tools import replays

BLOCK = records.MIN_BLOCK_SIZE


def scans(rounds: int) -> list[int]:
    """Forty blocks that are read again and again, and between the rounds a pass over what is never read again."""
    dice, trace = random.Random(1), list[int]()
    for number in range(rounds):
        trace += [dice.randrange(40) for _ in range(150)]
        trace += range(1000 * (number + 1), 1000 * (number + 1) + 200)
    return trace


def test_a_pass_over_much_flushes_nothing_that_is_used_again_and_again() -> None:
    trace = scans(20)
    possible = len(trace) - 20 * 200 - 40
    assert replays.two_queues(trace, 60) > 0.88 * possible
    assert replays.lru(trace, 60) < 0.8 * possible


def test_on_the_recorded_trace_it_fetches_less_than_lru() -> None:
    trace = replays.load(replays.TRACE)
    different = len(set(trace))
    for share in (0.1, 0.2, 0.3, 0.75):
        room = int(share * different)
        assert len(trace) - replays.two_queues(trace, room) < 0.9 * (len(trace) - replays.lru(trace, room))


def test_the_store_evicts_as_the_simulation_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, trace = 60, scans(6)
    monkeypatch.setattr(eviction, "MORE", room * BLOCK + 1)
    hits = 0
    with closing(Store.open(tmp_path / "store", BLOCK)) as store:
        store.quota.set_bounds(room * BLOCK, 0)
        store.tidy()
        with closing(store.open_blob(BlobId("url-" + "1" * 64), "http://a/b", 10_000 * BLOCK)) as file:
            for block in trace:
                if file.read(block, wait=True) is not None:
                    hits += 1
                    store.note_uses(file, [block])
                    continue
                checksum = store.write(file, block, [bytes(BLOCK)])[0]
                assert checksum != MISSING
                file.record(block, checksum)
    assert hits == pytest.approx(replays.two_queues(trace, room), rel=0.05)
