"""How far is fetched in front of a reader."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.extents import Extent, Geometry
from lazyfs.pace import KEPT, Meter, Pace
from lazyfs.readahead import (
    IDLE,
    LARGEST,
    LASTS,
    LATENCIES,
    NEAR,
    NEAR_AT_FIRST,
    SMALLEST,
    SOON,
    USUAL,
    Budget,
    Readahead,
)

KIB, MIB = 1024, 1024 * 1024
BLOCK = 256 * KIB
reads = st.lists(st.tuples(st.integers(0, 80 * MIB), st.integers(1, 2 * MIB)), max_size=40)
latencies = st.floats(0.0, 2.0)
paces = st.none() | st.builds(Pace, st.floats(1.0, 1e10), latencies)
fast = st.none() | st.builds(Pace, st.floats(2e8, 1e10), latencies)


class Reader:
    """Reads one blob, and notes what is fetched ahead of it."""

    def __init__(self, size: int = 1 << 40, budget: Budget | None = None, pace: Pace | None = None) -> None:
        self.geometry = Geometry(size, BLOCK)
        self.pace = pace
        self.now = 0.0
        self.part = 0  # bytes in a request of what was asked for last
        self.next = 0  # the byte after what `window` has read
        self._readahead = Readahead(self.geometry, budget or Budget())

    def read(self, offset: int, length: int, until: int | None = None) -> Extent:
        """Return the blocks to fetch ahead."""
        self._readahead.on_read(offset, length, until)
        return self.come(0)

    def come(self, due: int) -> Extent:
        """Return the blocks to fetch ahead, with so many bytes under way."""
        run, part = self._readahead.next(due, lambda: self.pace, self.now)
        self.part = part or self.part
        return run

    def read_on(self, length: int) -> None:
        """Read behind what `window` has read, while as much as should be is under way."""
        self._readahead.on_read(self.next, length)
        self.next += length

    def window(self, length: int, offset: int = 0) -> int:
        """Read so many bytes, and return how far ahead of the reader what was asked for ever was."""
        furthest = asked = 0
        for here in range(offset, offset + length, 128 * KIB):
            asked = max(asked, self.read(here, 128 * KIB).stop * BLOCK)
            furthest = max(furthest, asked - here - 128 * KIB)
        self.next = offset + length
        return furthest


@given(st.integers(0, 70 * MIB), reads, paces)
def test_never_beyond_the_end_nor_the_largest_window(
    size: int, reads: list[tuple[int, int]], pace: Pace | None
) -> None:
    reader = Reader(size, pace=pace)
    for offset, length in reads:
        ahead = reader.read(offset, length)
        assert 0 <= ahead.start <= ahead.stop <= reader.geometry.blocks
        assert len(ahead) <= LARGEST // BLOCK + 1
        assert not ahead or ahead.start >= (offset + length) // BLOCK  # in front, not behind


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3 * USUAL), st.sampled_from([64 * KIB, 100_000, 128 * KIB, MIB]), fast, st.randoms())
def test_a_sequential_reader_gets_everything_exactly_once(
    size: int, request: int, pace: Pace | None, rng: random.Random
) -> None:
    reader, asked = Reader(size, pace=pace), list[int]()
    offsets = [*range(0, size, request)]
    for here in range(0, len(offsets), 2):  # requests overtake each other, two at a time
        pair = offsets[here : here + 2]
        if request * 2 <= NEAR_AT_FIRST:
            rng.shuffle(pair)
        for offset in pair:
            asked += reader.read(offset, request).blocks()
    assert asked == sorted(set(asked))
    assert set(asked) >= set(range(reader.geometry.covering(0, 4 * request).stop, reader.geometry.blocks))


def test_the_window_doubles_as_it_is_used_up() -> None:
    reader, windows, previous = Reader(), list[int](), Extent(0, 0)
    for offset in range(0, 200 * MIB, 128 * KIB):
        ahead = reader.read(offset, 128 * KIB)
        if ahead:
            assert not previous or ahead.start == previous.stop  # seamless
            previous = ahead
            windows.append(ahead.stop * BLOCK - offset)
    assert windows[0] <= SMALLEST + BLOCK + 128 * KIB
    assert all(b <= 2 * a + 2 * BLOCK for a, b in pairwise(windows))
    assert windows[-1] > USUAL - BLOCK


@given(st.lists(st.integers(0, 1000), unique=True, max_size=60))
def test_a_random_reader_is_left_alone(places: list[int]) -> None:
    reader = Reader(pace=Pace(1e9, 0.1))
    assert not any(reader.read(place * 3 * NEAR, 4 * KIB) for place in places)


@pytest.mark.parametrize("streams", [1, 2, 8])
def test_streams_are_told_apart(streams: int) -> None:
    reader, ahead = Reader(), [0] * streams
    for step in range(64):
        for stream in range(streams):
            ahead[stream] += len(reader.read((stream << 30) + step * 128 * KIB, 128 * KIB))
    assert all(blocks * BLOCK >= 8 * MIB for blocks in ahead)


def test_reading_again_asks_for_nothing_again() -> None:
    reader = Reader()
    reader.read(0, 128 * KIB)
    assert reader.read(128 * KIB, 128 * KIB)
    assert not any(reader.read(offset, 128 * KIB) for offset in (0, 128 * KIB, 64 * KIB) * 3)


def test_who_skips_within_the_window_goes_on_with_the_stream() -> None:
    reader = Reader()
    asked = [index for offset in range(0, 64 * MIB, MIB) for index in reader.read(offset, MIB).blocks()]
    more = [index for offset in range(70 * MIB, 90 * MIB, MIB) for index in reader.read(offset, MIB).blocks()]
    assert asked[-1] * BLOCK > 70 * MIB
    assert more[0] == asked[-1] + 1


@pytest.mark.parametrize(
    ("rate", "latency"), [(1e9 / 8, 0.02), (1e9 / 8, 0.1), (1e8 / 8, 0.02), (4e9 / 8, 0.03), (5e8, 0.0001), (1e5, 0.02)]
)
def test_the_next_request_is_sent_while_the_last_one_still_comes(rate: float, latency: float) -> None:
    reader = Reader(pace=Pace(rate, latency))
    reader.window(300 * MIB)
    reader.read_on(LARGEST)  # all that was asked for, and more
    due, least = 0, int(rate * LATENCIES * latency)
    for _ in range(400):
        due = max(0, due - BLOCK // 2)  # comes in, and is read
        asked = len(reader.come(due)) * BLOCK
        assert not asked or reader.part <= asked <= max(least, rate * SOON) + reader.part + 2 * BLOCK
        due += asked
        assert due >= min(least, LARGEST // 2) - 2 * BLOCK, "the link is never idle"
        assert due <= max(least, rate * SOON) + reader.part + BLOCK
        reader.read_on(BLOCK // 2)
    assert reader.part <= max(rate * LASTS, BLOCK)


def test_all_windows_together_are_bounded() -> None:
    budget = Budget()
    readers = [Reader(budget=budget, pace=Pace(1e9, 0.1)) for _ in range(4)]
    for offset in range(0, 512 * MIB, MIB):
        windows = [reader.window(MIB, offset) for reader in readers]
    assert sum(windows) <= LARGEST + 4 * BLOCK
    readers[0].now = IDLE + 1  # the others have stopped
    readers[0].window(64 * MIB, 512 * MIB)
    assert LARGEST / 2 < readers[0].window(64 * MIB, 576 * MIB) <= LARGEST + BLOCK


def test_a_rate_is_that_of_all_who_receive_together() -> None:
    meter = Meter()
    meter.begin(10.0)
    meter.begin(10.5)
    meter.end(3 * MIB, 11.0)
    meter.end(MIB, 12.0)
    assert meter.rate == 2 * MIB
    for second in range(20):  # it has slowed down, after a long silence
        meter.begin(100.0 + second)
        meter.end(MIB, 101.0 + second)
    assert meter.rate == pytest.approx(MIB, rel=0.01), KEPT


def test_nothing_is_fetched_past_the_known_end_of_a_read() -> None:
    reader, end = Reader(), 100 * MIB + 16 * MIB
    reader.read(100 * MIB, 4 * KIB)  # by a buffer, of which nobody knows what it is for
    ahead = [reader.read(start, 4 * MIB, end) for start in range(100 * MIB, end, 4 * MIB)]
    assert any(ahead)
    assert max(run.stop for run in ahead) * BLOCK <= end
    assert reader.read(end - 4 * KIB, 4 * KIB).stop * BLOCK <= end


def test_who_reads_on_past_a_known_end_is_a_sequential_reader() -> None:
    reader, part = Reader(), 2 * MIB
    ahead = [reader.read(start, part, start + part) for start in range(0, 20 * MIB, part)]
    assert not ahead[0]
    assert ahead[1].stop * BLOCK > 2 * part
    assert max(run.stop for run in ahead) * BLOCK >= 20 * MIB + SMALLEST
