"""Reads layers in each form as a mount would: what to read next, then the members."""

from __future__ import annotations

import io

from lazyfs.layers import estargz, tar, zstdchunked
from lazyfs.layers.members import Member
from tests.layers import writing


def from_tar(layer: bytes) -> tuple[list[Member], bytes]:
    """Return the members of a tar, and the blob that their pieces are in."""
    return list(tar.members(io.BytesIO(layer))), layer


def from_estargz(layer: bytes) -> tuple[list[Member], bytes]:
    """The same, of an eStargz layer made of the tar."""
    written = writing.estargz(layer)
    return estargz_members(written), written.blob


def from_shared(layer: bytes) -> tuple[list[Member], bytes]:
    """The same, of one whose pieces share gzip members."""
    written = writing.estargz(layer, shared=10_000)
    return estargz_members(written), written.blob


def from_zstd_chunked(layer: bytes) -> tuple[list[Member], bytes]:
    """The same, of a zstd:chunked layer made of the tar."""
    written = writing.zstd_chunked(layer)
    return zstd_chunked_members(written), written.blob


def estargz_members(written: writing.Written) -> list[Member]:
    """Return the members of an eStargz layer."""
    blob = written.blob
    extent = estargz.toc_extent(blob[-estargz.FOOTER :], len(blob))
    assert extent is not None
    at, length = extent
    table = estargz.table(blob[at : at + length], written.annotations.get(estargz.TOC_DIGEST))
    return estargz.members(table, at)


def zstd_chunked_members(written: writing.Written, annotated: bool = True) -> list[Member]:
    """Return the members of a zstd:chunked layer, by its annotations or by its footer."""
    blob = written.blob
    if annotated:
        place = zstdchunked.toc_place(written.annotations, len(blob))
    else:
        place = zstdchunked.footer_place(blob[-zstdchunked.FOOTER :], len(blob))
    assert place is not None
    packed = blob[place.offset : place.offset + place.length]
    return zstdchunked.members(zstdchunked.table(packed, place, written.annotations.get(zstdchunked.CHECKSUM)), place)
