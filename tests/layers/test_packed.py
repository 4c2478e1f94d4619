"""Members as bytes and back: the same members, or one line."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.errors import LayerError
from lazyfs.layers import expanding, packed
from lazyfs.layers.members import Member, Packing, Piece, Type
from tests.layers import samples
from tests.layers.reading import from_estargz, from_tar, from_zstd_chunked

words = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=20)
names = words.filter(lambda word: word not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
u32, u64 = st.integers(0, 2**32 - 2), st.integers(0, 2**63 - 1)


@st.composite
def members(draw: Any) -> Member:
    kind = draw(st.sampled_from(Type))
    target = draw(paths) if kind in (Type.LINK, Type.SYMLINK) else ""
    lengths = draw(st.lists(st.integers(1, 2**40), max_size=3)) if kind is Type.FILE else []
    pieces, at = [], 0
    for length in lengths:
        digest = draw(st.sampled_from([None, "sha256:" + "0a" * 32, "sha256:" + "f" * 64]))
        pieces.append(Piece(at, length, draw(u64), draw(u64), draw(st.sampled_from(Packing)), draw(u64), digest))
        at += length
    xattrs = tuple(draw(st.dictionaries(words, st.binary(max_size=50), max_size=3)).items())
    mtime_ns = draw(st.integers(-(2**63), 2**63 - 1))
    mode, device = draw(st.integers(0, 0o7777)), (draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1)))
    return Member(draw(paths), kind, mode, draw(u32), draw(u32), mtime_ns, at, target, device, xattrs, tuple(pieces))


@settings(deadline=None)
@given(st.lists(members(), max_size=10))
def test_there_and_back(found: list[Member]) -> None:
    assert packed.unpack(packed.pack(found)) == found


@pytest.mark.parametrize("form", [from_tar, from_estargz, from_zstd_chunked])
def test_a_layer_there_and_back(form: Any) -> None:
    found, _ = form(samples.tars()[0])
    assert packed.unpack(memoryview(packed.pack(found))) == found


def test_every_damaged_byte_is_refused() -> None:
    content = packed.pack(from_estargz(samples.tars()[0])[0])
    for at in range(len(content)):
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]):
            with pytest.raises(LayerError) as caught:
                packed.unpack(damaged)
            assert str(caught.value).isprintable()
    with pytest.raises(LayerError, match="another version"):
        packed.unpack(content[:8] + struct.pack("<I", packed.VERSION + 1) + content[12:])


@pytest.mark.parametrize(
    "member",
    [
        Member("../a", Type.FILE),
        Member("/a", Type.FILE),
        Member("a/", Type.FILE),
        Member("", Type.FILE),
        Member("a", Type.LINK, target="../b"),
        Member("a", Type.SYMLINK),
        Member("a", Type.FILE, 0o10000),
        Member("a", Type.FILE, size=1),
        Member("a", Type.FILE, size=2, pieces=(Piece(0, 1, 0, 1), Piece(0, 1, 0, 1))),
        Member("a", Type.FILE, xattrs=(("user.x", b"v" * 65537),)),
    ],
)
def test_what_no_layer_says_is_not_taken_from_the_store_either(member: Member) -> None:
    with pytest.raises(LayerError):
        packed.unpack(packed.pack([member]))


def test_what_expands_to_more_than_it_says() -> None:
    body = struct.pack("<Q", 100) + expanding.compress(bytes(1 << 20))
    with pytest.raises(LayerError):
        packed.unpack(b"lazyfsLT" + struct.pack("<I", packed.VERSION) + xxhash.xxh3_64_digest(body) + body)
