"""eStargz: layers that are gzip, a member for each piece of a file, and that have a table of contents.  Pure.

What to read: the last `FOOTER` bytes, then what `toc_extent` says from them. Then `table` has the table, and `members`
what is in it. A layer whose table is elsewhere (an external TOC) is not taken for eStargz.

*Source*: containerd/stargz-snapshotter docs/estargz.md, estargz/gzip.go and estargz/estargz.go; google/crfs stargz for
the shorter footer.
"""

from __future__ import annotations

import io
import re

from lazyfs.errors import LayerError
from lazyfs.layers import bounds, expanding, tar, toc
from lazyfs.layers.members import Member, Packing
from lazyfs.layers.sparse import BLOCK

FOOTER = 51
"""Bytes at the end of a layer that say where its table is, if it has one."""
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
"""The annotation of a layer that has the digest of its table."""

_HEADER = rb"\x1f\x8b\x08\x04.{4}[\x00-\xff][\x00-\xff]"
_TRAILER = rb"\x01\x00\x00\xff\xff" + rb"\x00" * 8
_CURRENT = re.compile(_HEADER + rb"\x1a\x00SG\x16\x00([0-9a-f]{16})STARGZ" + _TRAILER, re.DOTALL)
_LEGACY = re.compile(_HEADER + rb"\x16\x00([0-9a-f]{16})STARGZ" + _TRAILER, re.DOTALL)
_TABLE = "stargz.index.json"


def toc_extent(tail: bytes, size: int) -> tuple[int, int] | None:
    """Return offset and length of the packed table in a layer of `size` bytes that ends in `tail`.

    None when the layer is no eStargz. *Units*: bytes; `tail` has `FOOTER` of them, or the whole layer.

    *Raises*: LayerError, when the table would not be in the layer.
    """
    for footer, length in ((_CURRENT, FOOTER), (_LEGACY, 47)):
        if match := footer.fullmatch(tail[-length:]):
            at = int(match[1], 16)
            if at >= size - length:
                raise LayerError("the eStargz footer names a table of contents that is not in the layer")
            return at, size - length - at
    return None


def table(packed: bytes, digest: str | None) -> bytes:
    """Return the table's JSON, checked against its digest if there is one.

    *Raises*: LayerError.
    """
    archive = expanding.expand(Packing.GZIP, packed, toc.TOC_MAX + 4 * BLOCK)
    first = next(tar.members(io.BytesIO(archive), most=1), None)
    if first is None or first.path != _TABLE or len(first.pieces) != 1:
        raise LayerError(f"there is no {_TABLE} where the eStargz footer says")
    piece = first.pieces[0]
    found = archive[piece.at : piece.at + piece.length]
    if digest is not None and expanding.digest(found) != digest:
        raise LayerError("the table of contents is not what its digest says")
    return found


def members(json: bytes, at: int, *, most: int = bounds.MEMBERS_MAX) -> list[Member]:
    """Return the members that a table says which starts, packed, at offset `at` of the layer.

    *Raises*: LayerError.
    """
    return toc.parse(json, Packing.GZIP, at, most=most)
