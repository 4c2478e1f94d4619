"""Runs of blocks, and the arithmetic between bytes and blocks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.extents import Extent, Geometry, runs

geometries = st.builds(Geometry, st.integers(0, 10_000), st.integers(1, 512))


@pytest.mark.parametrize(("start", "stop"), [(-1, 0), (2, 1), (-2, -1)])
def test_what_is_no_extent(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="not an extent"):
        Extent(start, stop)


def test_an_empty_extent_holds_nothing() -> None:
    assert not Extent(3, 3)
    assert 3 not in Extent(3, 3)
    assert "3" not in Extent(0, 9)
    assert list(Extent(3, 5).blocks()) == [3, 4]


@given(geometries, st.integers(0, 11_000), st.integers(0, 11_000))
def test_the_blocks_that_cover_a_read(geometry: Geometry, offset: int, length: int) -> None:
    read = range(offset, min(offset + length, geometry.size))
    assert list(geometry.covering(offset, length).blocks()) == sorted({at // geometry.block_size for at in read})


@given(geometries)
def test_the_blocks_tile_the_blob(geometry: Geometry) -> None:
    extents = [geometry.bytes_of(Extent(index, index + 1)) for index in range(geometry.blocks)]
    assert [at for extent in extents for at in extent.blocks()] == list(range(geometry.size))
    assert [len(extent) for extent in extents] == [geometry.length(index) for index in range(geometry.blocks)]
    assert all(extents)


@given(st.sets(st.integers(0, 200)), st.integers(1, 20))
def test_runs_are_maximal(indexes: set[int], longest: int) -> None:
    found = list(runs(sorted(indexes), longest))
    assert [index for run in found for index in run.blocks()] == sorted(indexes)
    assert all(1 <= len(run) <= longest for run in found)
    assert all(a.stop < b.start or len(a) == longest for a, b in itertools.pairwise(found))
