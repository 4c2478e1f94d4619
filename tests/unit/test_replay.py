"""What a profile has fetched: all of it for who follows it, and little for who does not."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.extents import Extent, Geometry
from lazyfs.pace import Pace
from lazyfs.readahead import Budget
from lazyfs.replay import AT_FIRST, LARGEST, SMALLEST, UNKNOWN, Replay

MIB = 1 << 20
BLOCK = 256 * 1024
BLOCKS = 4000
GEOMETRY = Geometry(BLOCKS * BLOCK, BLOCK)
FAST = Pace(1e9, 0.001)

paces = st.none() | st.builds(Pace, st.floats(1e3, 1e10), st.floats(0, 2))


class Reader:
    """Reads a blob of which a profile has these blocks; whatever is launched has come in by the next read."""

    def __init__(self, blocks: Iterable[int], pace: Pace | None = FAST, budget: int = 64 * MIB) -> None:
        self.asked: dict[int, None] = {}
        self.fetched: list[int] = []
        self.runs: list[Extent] = []
        self.present = set[int]()
        self.pace = pace
        self.budget = Budget(budget)
        self.replay = Replay(GEOMETRY, list(blocks), self.asked, self.budget)

    def come(self, due: int = 0) -> list[Extent]:
        """Have something come in; return what is launched then."""
        missing = lambda run: [index for index in run.blocks() if index not in self.present]  # noqa: E731
        found = list(self.replay.next(due, lambda: self.pace, 0.0, missing))
        blocks = [index for run in found for index in run.blocks()]
        self.runs += found
        self.fetched += blocks
        self.present.update(blocks)
        return found

    def read(self, index: int) -> None:
        """Ask for a block."""
        if index not in self.asked:
            self.asked[index] = None
            self.replay.on_new(index)
        self.come()
        self.present.add(index)

    @property
    def unread(self) -> int:
        """Bytes that were fetched and not asked for."""
        return len(set(self.fetched) - self.asked.keys()) * BLOCK


@settings(deadline=None)
@given(st.lists(st.integers(0, BLOCKS - 1), unique=True, max_size=300), paces)
def test_who_follows_it_gets_all_of_it_once(blocks: list[int], pace: Pace | None) -> None:
    reader = Reader(blocks, pace)
    reader.come()
    for index in blocks:
        reader.read(index)
    assert len(reader.fetched) == len(set(reader.fetched)), "nothing is fetched twice"
    assert set(reader.fetched) <= set(blocks)
    assert not blocks or reader.fetched, "and it is in front"


@settings(deadline=None)
@given(
    st.lists(st.integers(0, BLOCKS - 1), unique=True, min_size=100, max_size=2000),
    st.lists(st.integers(0, BLOCKS - 1), max_size=300),
    paces,
    st.sampled_from([8 * MIB, 64 * MIB]),
)
def test_what_is_fetched_in_vain_is_bounded(blocks: list[int], reads: list[int], pace: Pace | None, most: int) -> None:
    reader = Reader(blocks, pace, most)
    for index in reads:
        reader.read(index)
        used = len(set(reader.fetched) & reader.asked.keys()) * BLOCK
        assert reader.unread <= min(AT_FIRST + used, most)


def test_who_reads_nothing_of_it_ends_it() -> None:
    reader = Reader(range(1000))
    for index in range(2000, 3000):
        reader.read(index)
    assert len(reader.fetched) * BLOCK == AT_FIRST


def test_what_a_reader_has_overtaken_is_left_out() -> None:
    reader = Reader(range(100), pace=None)
    for index in range(100):
        reader.asked[index] = None
    assert reader.come() == []


def test_what_is_there_is_left_out_and_what_touches_is_joined() -> None:
    reader = Reader([9, 3, 1, 8, 2, 7, 4], pace=None)
    reader.present.update((2, 7))
    assert reader.come() == [Extent(1, 2), Extent(3, 4), Extent(8, 10), Extent(4, 5)], "by fours, what a MiB holds"


def test_no_more_is_under_way_than_lasts() -> None:
    reader = Reader(range(1000), pace=None)
    assert sum(map(len, reader.come())) * BLOCK == UNKNOWN
    assert reader.come(due=UNKNOWN) == []
    slow = Reader(range(1000), Pace(12.5 * MIB, 0.02))
    assert 2 * SMALLEST <= sum(map(len, slow.come())) * BLOCK <= 4 * MIB
    assert slow.come(due=4 * MIB) == []


@pytest.mark.parametrize("block", [64 * 1024, 8 * MIB])
def test_requests_are_large_where_they_can_be(block: int) -> None:
    size = Geometry(1 << 34, block)
    blocks = [*range(64 * MIB // block)]
    random.Random(1).shuffle(blocks)
    replay = Replay(size, sorted(blocks), {}, Budget())
    found = list(replay.next(0, lambda: FAST, 0.0, lambda run: run.blocks()))
    assert found
    assert all(len(run) * block <= LARGEST for run in found)
    assert sum(len(run) for run in found) * block == max(AT_FIRST, block)
    assert len(found) <= 4


def test_it_has_a_share_of_what_is_fetched_ahead() -> None:
    budget = Budget(4 * MIB)
    budget.share("another", 0.0)
    replay = Replay(GEOMETRY, range(1000), {}, budget)
    assert sum(map(len, replay.next(0, lambda: FAST, 0.0, lambda run: run.blocks()))) * BLOCK == 2 * MIB
