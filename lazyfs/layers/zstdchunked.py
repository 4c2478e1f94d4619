"""zstd:chunked: layers that are zstd, a frame for each piece of a file, and that have a table of contents.  Pure.

Where the table is, packed, is said by an annotation of the layer, and by its last bytes, too: the table, then what
rebuilds the tar exactly (tar-split, of no use here), then a footer, each in a frame that decoders skip. What to read:
what `toc_place` says from the annotations, else the last `FOOTER` bytes and what `footer_place` says from them. Then
`table` has the table, and `members` what is in it.

*Source*: containers/storage pkg/chunked/internal/minimal/compression.go and pkg/chunked/compressor/compressor.go;
containerd/stargz-snapshotter estargz/zstdchunked, whose footers are shorter, and have another byte in their magic.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import NamedTuple

from lazyfs.errors import LayerError
from lazyfs.layers import bounds, expanding, toc
from lazyfs.layers.members import Member, Packing

FOOTER = 72
"""Bytes at the end of a layer that say where its table is, if it has one."""
POSITION = "io.github.containers.zstd-chunked.manifest-position"
CHECKSUM = "io.github.containers.zstd-chunked.manifest-checksum"
"""Annotations of a layer: where its table is, and the digest of that as it is stored."""

_MAGIC = (b"GNUlInUx", b"GnUlInUx")
_FRAME = struct.Struct("<4sI")
_SKIPPABLE = b"\x50\x2a\x4d\x18"
_CRFS = 1  # the one kind of table there is
_POSITION = re.compile(r"([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19})")


class Place(NamedTuple):
    """Where a table is: `length` bytes at `offset` of the layer, which expand to `expanded`."""

    offset: int
    length: int
    expanded: int


def toc_place(annotations: Mapping[str, str], size: int) -> Place | None:
    """Return where a layer of `size` bytes has its table, by its annotations; None when they do not say.

    *Raises*: LayerError, when they cannot be right.
    """
    text = annotations.get(POSITION)
    if text is None:
        return None
    match = _POSITION.fullmatch(text)
    if match is None:
        raise LayerError(f"the annotation {POSITION} is {bounds.shown(text)}")
    offset, length, expanded, kind = map(int, match.groups())
    return _place(offset, length, expanded, kind, size)


def footer_place(tail: bytes, size: int) -> Place | None:
    """Return where a layer of `size` bytes that ends in `tail` has its table; None when it does not say.

    *Raises*: LayerError, when the footer cannot be right.
    """
    if tail[-8:] not in _MAGIC:
        return None
    for length in (64, 40):
        if tail[-length - 8 : -length] == _FRAME.pack(_SKIPPABLE, length):
            offset, packed, expanded, kind = struct.unpack_from("<4Q", tail, len(tail) - length)
            return _place(offset, packed, expanded, kind, size)
    return None


def _place(offset: int, length: int, expanded: int, kind: int, size: int) -> Place:
    if kind != _CRFS:
        raise LayerError(f"the table of contents is of the unknown kind {kind}")
    if not 0 < length <= size or offset > size - length:
        raise LayerError("the table of contents is not in the layer")
    if expanded > toc.TOC_MAX:
        raise LayerError(f"the table of contents has {expanded} bytes; at most {toc.TOC_MAX} are taken")
    return Place(offset, length, expanded)


def table(packed: bytes, place: Place, checksum: str | None) -> bytes:
    """Return the table's JSON; what is stored is checked against its digest if there is one.

    *Raises*: LayerError.
    """
    if checksum is not None and expanding.digest(packed) != checksum:
        raise LayerError("the table of contents is not what its digest says")
    found = expanding.expand(Packing.ZSTD, packed, place.expanded + 1)
    if len(found) != place.expanded:
        raise LayerError("the table of contents has another size than is said")
    return found


def members(json: bytes, place: Place, *, most: int = bounds.MEMBERS_MAX) -> list[Member]:
    """Return the members that a table says.

    *Raises*: LayerError.
    """
    return toc.parse(json, Packing.ZSTD, place.offset, most=most)
