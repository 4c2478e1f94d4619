"""How far is fetched in front of a reader."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.extents import Extent, Geometry
from lazyfs.readahead import LARGEST, NEAR, NEAR_AT_FIRST, SMALLEST, Readahead

KIB, MIB = 1024, 1024 * 1024
BLOCK = 256 * KIB
reads = st.lists(st.tuples(st.integers(0, 80 * MIB), st.integers(1, 2 * MIB)), max_size=40)


@given(st.integers(0, 70 * MIB), reads)
def test_never_beyond_the_end_nor_the_largest_window(size: int, reads: list[tuple[int, int]]) -> None:
    geometry = Geometry(size, BLOCK)
    readahead = Readahead(geometry)
    for offset, length in reads:
        ahead = readahead.on_read(offset, length)
        assert 0 <= ahead.start <= ahead.stop <= geometry.blocks
        assert len(ahead) <= LARGEST // BLOCK + 1
        assert not ahead or ahead.start >= (offset + length) // BLOCK  # in front, not behind


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3 * LARGEST), st.sampled_from([64 * KIB, 100_000, 128 * KIB, MIB]), st.randoms())
def test_a_sequential_reader_gets_everything_exactly_once(size: int, request: int, rng: random.Random) -> None:
    geometry = Geometry(size, BLOCK)
    readahead, asked = Readahead(geometry), list[int]()
    offsets = [*range(0, size, request)]
    for here in range(0, len(offsets), 2):  # requests overtake each other, two at a time
        pair = offsets[here : here + 2]
        if request * 2 <= NEAR_AT_FIRST:
            rng.shuffle(pair)
        for offset in pair:
            asked += readahead.on_read(offset, request).blocks()
    assert asked == sorted(set(asked))
    assert set(asked) >= set(range(geometry.covering(0, 4 * request).stop, geometry.blocks))


def test_the_window_doubles_as_it_is_used_up() -> None:
    readahead, windows, previous = Readahead(Geometry(1 << 40, BLOCK)), list[int](), Extent(0, 0)
    for offset in range(0, 200 * MIB, 128 * KIB):
        ahead = readahead.on_read(offset, 128 * KIB)
        if ahead:
            assert not previous or ahead.start == previous.stop  # seamless
            previous = ahead
            windows.append(ahead.stop * BLOCK - offset)
    assert windows[0] <= SMALLEST + BLOCK + 128 * KIB
    assert all(b <= 2 * a + 2 * BLOCK for a, b in pairwise(windows))
    assert windows[-1] > LARGEST - BLOCK


@given(st.lists(st.integers(0, 1000), unique=True, max_size=60))
def test_a_random_reader_is_left_alone(places: list[int]) -> None:
    readahead = Readahead(Geometry(1 << 40, BLOCK))
    assert not any(readahead.on_read(place * 3 * NEAR, 4 * KIB) for place in places)


@pytest.mark.parametrize("streams", [1, 2, 8])
def test_streams_are_told_apart(streams: int) -> None:
    readahead, ahead = Readahead(Geometry(1 << 40, BLOCK)), [0] * streams
    for step in range(64):
        for stream in range(streams):
            ahead[stream] += len(readahead.on_read((stream << 30) + step * 128 * KIB, 128 * KIB))
    assert all(blocks * BLOCK >= 8 * MIB for blocks in ahead)


def test_reading_again_asks_for_nothing_again() -> None:
    readahead = Readahead(Geometry(1 << 30, BLOCK))
    readahead.on_read(0, 128 * KIB)
    assert readahead.on_read(128 * KIB, 128 * KIB)
    assert not any(readahead.on_read(offset, 128 * KIB) for offset in (0, 128 * KIB, 64 * KIB) * 3)
