"""Boot profiles: written down and read again, added up, and refused when they are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs import profiles
from lazyfs.errors import ProfileRefused
from lazyfs.extents import Extent, Geometry
from lazyfs.profiles import LARGEST, MOST, UNIT, Profile, decode, encode, merged, of_blocks
from lazyfs.versions import BlobId, Version

ID = BlobId("sha256-" + "a" * 64)
OTHER = BlobId("url-" + "b" * 64)
SIZE = 100 * UNIT + 5
GEOMETRY = Geometry(SIZE, 2 * UNIT)

orders = st.lists(st.integers(0, GEOMETRY.blocks - 1), unique=True)


def of(blocks: list[int]) -> Profile:
    return of_blocks(ID, Version(SIZE, '"e"'), GEOMETRY, blocks)


@settings(deadline=None)
@given(orders)
def test_what_is_written_is_read(blocks: list[int]) -> None:
    profile = of(blocks)
    assert decode(encode(profile)) == profile
    assert profile.blocks(GEOMETRY) == blocks
    assert profile.bytes == sum(map(GEOMETRY.length, blocks))


@settings(deadline=None)
@given(orders, st.sampled_from([UNIT, 4 * UNIT, 128 * UNIT]))
def test_blocks_of_another_size_cover_the_same_bytes(blocks: list[int], block_size: int) -> None:
    other = Geometry(SIZE, block_size)
    found = of(blocks).blocks(other)
    assert len(found) == len(set(found))
    wanted = {index * GEOMETRY.block_size // block_size for index in blocks}
    assert wanted <= set(found) <= set(range(other.blocks))


@settings(deadline=None)
@given(orders, orders)
def test_what_is_added_comes_behind(first: list[int], then: list[int]) -> None:
    assert merged(of(first), of(then)).blocks(GEOMETRY) == list(dict.fromkeys(first + then))


def test_no_more_than_so_much_is_kept() -> None:
    size = (MOST + 10) * UNIT
    geometry, version = Geometry(size, UNIT), Version(size)
    late, early = (of_blocks(ID, version, geometry, run) for run in (range(20, MOST + 10), range(20)))
    found = merged(late, early)
    assert found.bytes == MOST * UNIT
    assert found.extents[-1] == Extent(0, 10 * UNIT)
    assert decode(encode(found)) == found


def test_a_profile_of_pieces_can_be_read() -> None:
    size = 2 * MOST * UNIT
    alone = of_blocks(ID, Version(size), Geometry(size, UNIT), range(2 * MOST - 2, 0, -2))
    assert len(encode(alone)) < LARGEST
    assert decode(encode(alone)) == alone


def test_it_is_known_by_its_id_or_by_a_strong_etag_and_the_size() -> None:
    profile = of([1])
    assert profile.is_of(ID, Version(SIZE))
    assert profile.is_of(OTHER, Version(SIZE, '"e"', "some day"))
    assert not profile.is_of(OTHER, Version(SIZE, 'W/"e"'))
    assert not profile.is_of(OTHER, Version(SIZE + 1, '"e"'))
    assert not profile.is_of(ID, Version(SIZE + 1))
    assert not of_blocks(ID, Version(SIZE), GEOMETRY, [1]).is_of(OTHER, Version(SIZE))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lazyfs": "manifest"}, "no profile"),
        ({"version": 2}, "has the version 2, and this lazyfs knows 1"),
        ({"version": None}, "version"),
        ({"blob": "../../etc"}, "of which blob"),
        ({"blob": ID[:-1]}, "of which blob"),
        ({"size": -1}, "of which blob"),
        ({"size": True}, "of which blob"),
        ({"size": 1e3}, "of which blob"),
        ({"size": 1 << 70}, "of which blob"),
        ({"etag": 5}, "damaged"),
        ({"extents": {}}, "damaged"),
        ({"extents": [[0, 0]]}, "that is none"),
        ({"extents": [[-1, 5]]}, "that is none"),
        ({"extents": [[1.5, 5]]}, "that is none"),
        ({"extents": [[0, 1, 2]]}, "that is none"),
        ({"extents": [5]}, "that is none"),
        ({"extents": [[0, SIZE + 1]]}, "not in the blob"),
        ({"extents": [[SIZE, 1]]}, "not in the blob"),
        ({"extents": [[0, SIZE]] * 200}, "names more than"),
    ],
)
def test_what_is_none_is_refused(change: dict[str, Any], reason: str) -> None:
    good = json.loads(encode(of([0, 1, 5])))
    with pytest.raises(ProfileRefused, match=reason) as refused:
        decode(json.dumps({**good, **change}).encode())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"\xff\xfe", b'{"lazyfs":', b"[" * 100_000, b"x" * (1 << 21)])
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(ProfileRefused):
        decode(content)


@settings(deadline=None)
@given(orders, st.data())
def test_a_byte_that_rots_is_refused_or_does_no_harm(blocks: list[int], data: st.DataObject) -> None:
    content = bytearray(encode(of(blocks)))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        profile = decode(bytes(content))
    except ProfileRefused:
        return
    assert all(0 <= extent.start < extent.stop <= profile.size for extent in profile.extents)
    assert profile.bytes <= profiles.MOST * UNIT
