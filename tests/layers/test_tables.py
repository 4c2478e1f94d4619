"""Tables of contents: of layers as other tools write them, and such as nobody should."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from lazyfs.errors import LayerError
from lazyfs.layers import estargz, expanding, tar, toc, zstdchunked
from lazyfs.layers.members import Member, Packing, Piece, Type
from tests.layers import samples, writing
from tests.layers.reading import estargz_members, from_tar, zstd_chunked_members

LAYER = samples.tars()[0]
DIGEST = writing.digest(b"x")


def bare(members: list[Member]) -> list[Member]:
    """Return members without what only tars, or only tables, say of them: LIBARCHIVE's attributes are left behind."""
    plain = [replace(member, pieces=()) for member in members]
    return [replace(member, xattrs=()) if "caf" in member.path else member for member in plain]


def whole(member: Member, blob: bytes) -> bytes:
    return b"".join(expanding.content(piece, blob[piece.at : piece.at + piece.stored]) for piece in member.pieces)


def wanted() -> dict[str, bytes]:
    return {
        member.path: b"".join(LAYER[piece.at : piece.at + piece.length] for piece in member.pieces)
        for member in from_tar(LAYER)[0]
    }


def parse(*entries: Any, packing: Packing = Packing.GZIP, end: int = 1000, **options: Any) -> list[Member]:
    return toc.parse(json.dumps({"version": 1, "entries": entries}).encode(), packing, end, **options)


def refusal(*entries: Any, **options: Any) -> str:
    with pytest.raises(LayerError) as caught:
        parse(*entries, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


FORMS: dict[str, tuple[Callable[[], writing.Written], Callable[[writing.Written], list[Member]]]] = {
    "eStargz": (lambda: writing.estargz(LAYER, chunk=512), estargz_members),
    "in one piece each": (lambda: writing.estargz(LAYER, chunk=1 << 20), estargz_members),
    "shared members": (lambda: writing.estargz(LAYER, chunk=512, shared=2000), estargz_members),
    "stargz": (lambda: writing.estargz(LAYER, legacy=True), estargz_members),
    "zstd:chunked": (lambda: writing.zstd_chunked(LAYER, chunk=512), zstd_chunked_members),
    "by its footer": (lambda: writing.zstd_chunked(LAYER), lambda written: zstd_chunked_members(written, False)),
    "by a short footer": (
        lambda: writing.zstd_chunked(LAYER, short_footer=True),
        lambda written: zstd_chunked_members(written, False),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_members_are_those_of_the_tar(form: str) -> None:
    write, read = FORMS[form]
    written = write()
    found = read(written)
    assert bare(found) == bare(from_tar(LAYER)[0])
    assert {member.path: whole(member, written.blob) for member in found} == wanted()


def test_pieces_of_zeros_are_stored_nowhere() -> None:
    [large] = [m for m in zstd_chunked_members(writing.zstd_chunked(LAYER, chunk=512)) if m.path == "large"]
    assert [piece.packing for piece in large.pieces] == [Packing.ZEROS] * 5 + [Packing.ZSTD] * 4
    assert {piece.stored for piece in large.pieces[:5]} == {0}


@pytest.mark.parametrize("form", FORMS)
def test_a_piece_that_was_changed_is_refused(form: str) -> None:
    write, read = FORMS[form]
    written = write()
    piece = next(piece for member in read(written) for piece in member.pieces)
    stored = written.blob[piece.at : piece.at + piece.stored]
    with pytest.raises(LayerError):
        expanding.content(piece, stored[:9])
    with pytest.raises(LayerError, match="digest"):
        expanding.content(replace(piece, digest=DIGEST), stored)
    for at in range(len(stored)):  # some bits of a header mean nothing
        with suppress(LayerError):
            damaged = stored[:at] + bytes([stored[at] ^ 4]) + stored[at + 1 :]
            assert writing.digest(expanding.content(piece, damaged)) == piece.digest


def test_layers_that_have_no_table() -> None:
    for blob in (b"", b"x", gzip.compress(LAYER), LAYER, writing.zstd_chunked(LAYER).blob):
        assert estargz.toc_extent(blob[-estargz.FOOTER :], len(blob)) is None
    for blob in (b"", b"x", LAYER, writing.estargz(LAYER).blob, b"\0" * 64 + b"GNUlInUx"):
        assert zstdchunked.footer_place(blob[-zstdchunked.FOOTER :], len(blob)) is None
    assert zstdchunked.toc_place({}, 100) is None


def test_footers_that_lead_out_of_the_layer() -> None:
    blob = writing.estargz(LAYER).blob
    with pytest.raises(LayerError, match="not in the layer"):
        estargz.toc_extent(blob[-estargz.FOOTER :], 100)
    blob = writing.zstd_chunked(LAYER).blob
    with pytest.raises(LayerError, match="not in the layer"):
        zstdchunked.footer_place(blob[-zstdchunked.FOOTER :], 100)
    for text in ("", "1:2:3", "1:2:3:4", "1:2:3:1:", "-1:2:3:1", "0:101:3:1", "100:1:3:1", "0:0:3:1", f"0:9:{2**40}:1"):
        with pytest.raises(LayerError):
            zstdchunked.toc_place({zstdchunked.POSITION: text}, 100)


def test_tables_that_are_not_what_their_digest_says() -> None:
    written = writing.estargz(LAYER)
    at, length = estargz.toc_extent(written.blob[-51:], len(written.blob)) or (0, 0)
    packed = written.blob[at : at + length]
    assert estargz.table(packed, None) == estargz.table(packed, writing.digest(written.table)) == written.table
    with pytest.raises(LayerError, match="digest"):
        estargz.table(packed, DIGEST)
    with pytest.raises(LayerError, match=r"no stargz\.index\.json"):
        estargz.table(gzip.compress(LAYER), None)
    written = writing.zstd_chunked(LAYER)
    place = zstdchunked.toc_place(written.annotations, len(written.blob))
    assert place is not None
    packed = written.blob[place.offset : place.offset + place.length]
    with pytest.raises(LayerError, match="digest"):
        zstdchunked.table(packed, place, DIGEST)
    for size in (len(written.table) - 1, len(written.table) + 1):
        with pytest.raises(LayerError, match="another size"):
            zstdchunked.table(packed, place._replace(expanded=size), None)


def test_landmarks_are_left_out() -> None:
    marks = [
        {"name": name, "type": "reg"}
        for name in (".prefetch.landmark", ".no.prefetch.landmark", "a/.prefetch.landmark")
    ]
    assert [member.path for member in parse(*marks)] == ["a/.prefetch.landmark"]


def test_every_key() -> None:
    entry = {
        "name": "./dir/dev",
        "type": "char",
        "mode": 0o20644,
        "uid": 5,
        "gid": 6,
        "modtime": "2024-05-01T12:00:00.000000001+02:00",
        "devMajor": 1,
        "devMinor": 3,
        "xattrs": {"user.b": "", "user.a": "AP8="},
        "userName": "root",
        "NumLink": 3,
    }
    when, xattrs = 1714557600 * 10**9 + 1, (("user.a", b"\0\xff"), ("user.b", b""))
    assert parse(entry) == [Member("dir/dev", Type.CHARACTER, 0o644, 5, 6, when, 0, "", (1, 3), xattrs)]


def test_pieces_end_where_the_next_begins() -> None:
    def reg(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "type": "reg", "size": 10, **more}

    chunk = {"type": "chunk", "name": "b", "chunkOffset": 4, "chunkSize": 0, "offset": 300, "chunkDigest": DIGEST}
    assert [member.pieces for member in parse(
        reg("a", offset=100, digest=DIGEST),
        reg("b", offset=200, chunkSize=4, digest=DIGEST),
        chunk,
        reg("c", offset=300, innerOffset=6),
    )] == [
        (Piece(0, 10, 100, 100, Packing.GZIP, 0, DIGEST),),
        (Piece(0, 4, 200, 100, Packing.GZIP), Piece(4, 6, 300, 700, Packing.GZIP, 0, DIGEST)),
        (Piece(0, 10, 300, 700, Packing.GZIP, 6),),
    ]  # fmt: skip
    [member] = parse(reg("a", offset=100, endOffset=150), packing=Packing.ZSTD)
    assert member.pieces == (Piece(0, 10, 100, 50, Packing.ZSTD),)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "unknown type"),
        ({"type": "chunk"}, "a piece of no file"),
        ({"name": "../a"}, "leads out"),
        ({"name": 1}, "no text"),
        ({"name": "\ud800"}, "no text that a name could be"),
        ({"name": "", "type": "reg"}, "root"),
        ({"type": "symlink"}, "leads nowhere"),
        ({"type": "hardlink", "linkName": ".."}, "leads out"),
        ({"type": "reg", "size": 1, "offset": 1000}, "has ended"),
        ({"type": "reg", "size": 1, "offset": 2000}, "leaves the layer"),
        ({"type": "reg", "size": 1, "offset": 10, "endOffset": 1001}, "leaves the layer"),
        ({"type": "reg", "size": 2, "chunkSize": 1}, "do not make it up"),
        ({"type": "reg", "size": 2, "chunkSize": 3}, "leaves the file"),
        ({"type": "reg", "size": 2, "chunkOffset": 1}, "do not make it up"),
        ({"type": "reg", "size": -1}, "out of range"),
        ({"type": "reg", "size": 1.5}, "no number"),
        ({"type": "reg", "size": True}, "no number"),
        ({"type": "reg", "size": 10**30}, "out of range"),
        ({"type": "reg", "size": 1, "chunkDigest": "md5:x"}, "no SHA-256"),
        ({"uid": 2**32 - 1}, "out of range"),
        ({"modtime": "yesterday"}, "is none"),
        ({"xattrs": {"user.a": "?"}}, "base64"),
        ({"xattrs": {"user.a": 1}}, "base64"),
        ({"xattrs": []}, ""),
        ({"xattrs": [1]}, "no object"),
    ],
)
def test_entries_that_nobody_should_write(entry: dict[str, Any], reason: str) -> None:
    if reason:
        full = ({"name": "a", "type": "dir"} if entry else {"name": "a", "type": ""}) | entry
        assert reason in refusal(full)
    else:
        parse({"name": "a", "type": "dir"} | entry)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"9" * 5000,
        b"[" * 100_000,
        b'{"version": 2, "entries": []}',
        b'{"version": 1, "entries": {}}',
        b'{"version": 1, "entries": [1]}',
        b'{"version": 1, "entries": [{"type": []}]}',
    ],
)
def test_what_is_no_table(text: bytes) -> None:
    with pytest.raises(LayerError) as caught:
        toc.parse(text, Packing.GZIP, 100)
    assert str(caught.value).isprintable()


def test_bounds() -> None:
    entries = [{"name": str(n), "type": "dir"} for n in range(10)]
    assert len(parse(*entries, most=10)) == 10
    assert "more than 9 members" in refusal(*entries, most=9)
    assert "too many entries" in refusal(*({} for _ in range(41)), most=10)


@pytest.mark.parametrize("packing", [Packing.GZIP, Packing.ZSTD])
def test_nothing_expands_to_more_than_is_asked_for(packing: Packing) -> None:
    packed = gzip.compress(bytes(1 << 24)) if packing is Packing.GZIP else expanding.compress(bytes(1 << 24))
    assert expanding.expand(packing, packed, 1000) == bytes(1000)
    assert expanding.expand(packing, packed * 2, 1 << 30) == bytes(1 << 25)
    empty = gzip.compress(b"") if packing is Packing.GZIP else expanding.compress(b"")
    assert expanding.expand(packing, empty * 20_000 + packed, 10) == bytes(10)


def test_a_layer_is_a_tar_all_the_same() -> None:
    found = [member.path for member in tar.members(io.BytesIO(gzip.decompress(writing.estargz(LAYER).blob)))]
    assert found[0] == ".no.prefetch.landmark"
    assert found[-1] == "stargz.index.json"
