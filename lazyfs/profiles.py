"""Boot profiles: which parts of a blob a run asks for, in which order, and how that is written down.  Pure.

A profile is a JSON object, in the catalogue as in a file that goes from host to host:

    {"lazyfs": "profile", "version": 1, "blob": "sha256-…", "size": 2361393152, "etag": "\\"65f1-8cc0\\"",
     "extents": [[0, 262144], [1048576, 524288]]}

`extents` are offset and length in bytes, in the order in which they were first asked for, so that hosts may have blocks
of different sizes. `blob` is its id in a store: its digest, or a hash of URL, validator and size; `etag` is there when
the origin gives a strong one, so that a mirror's blob is known, too. It is a hint and is trusted in nothing: at worst a
wrong one has bytes fetched that nobody reads, and of that replay.py has the bound.

Inside it is a run of *units*, numbered parts of the size of the smallest blocks that there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from lazyfs import records
from lazyfs.errors import ProfileRefused
from lazyfs.extents import Extent, Geometry, runs
from lazyfs.versions import BlobId, Version, is_blob_id

VERSION: Final = 1

UNIT: Final = records.MIN_BLOCK_SIZE

MOST: Final = (1 << 30) // UNIT
"""Units in a profile: what comes later than the first GiB of a run is no boot."""

LARGEST: Final = 1 << 20
"""Bytes of a profile that is read: one with MOST units, each by itself, has half of that."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is asked for of a blob, first things first. *Units*: bytes; the extents are not empty, and inside of it."""

    blob_id: BlobId
    size: int
    etag: str | None  # a strong one
    extents: tuple[Extent, ...]

    def is_of(self, blob_id: BlobId, version: Version) -> bool:
        """Say whether it is of this blob, under this id or another."""
        return self.size == version.size and (
            self.blob_id == blob_id or (self.etag is not None and self.etag == version.strong_etag)
        )

    def blocks(self, geometry: Geometry) -> list[int]:
        """Return the blocks that it names, each once, in order."""
        found = (geometry.covering(extent.start, len(extent)).blocks() for extent in self.extents)
        return list(dict.fromkeys(index for run in found for index in run))

    @property
    def bytes(self) -> int:
        """The sum of its extents."""
        return sum(map(len, self.extents))


def of_blocks(blob_id: BlobId, version: Version, geometry: Geometry, blocks: Iterable[int]) -> Profile:
    """Return the profile of a run that has asked for these blocks, in this order."""
    extents = tuple(geometry.bytes_of(run) for run in runs(blocks, geometry.blocks))
    return Profile(blob_id, geometry.size, version.strong_etag, extents)


def merged(first: Profile, then: Profile) -> Profile:
    """Return what one has, and then what only the other has, up to MOST units; both are of one blob, the first's id."""
    units = dict.fromkeys((*_units(first), *_units(then)))
    joined = runs(list(units)[:MOST], MOST)
    extents = tuple(Extent(run.start * UNIT, min(run.stop * UNIT, first.size)) for run in joined)
    return Profile(first.blob_id, first.size, first.etag, extents)


def _units(profile: Profile) -> list[int]:
    return profile.blocks(Geometry(profile.size, UNIT))


def encode(profile: Profile) -> bytes:
    """Write a profile down, in one line."""
    extents = [[extent.start, len(extent)] for extent in profile.extents]
    of = {"blob": profile.blob_id, "size": profile.size, "etag": profile.etag}
    written = {"lazyfs": "profile", "version": VERSION, **of, "extents": extents}
    return json.dumps(written, separators=(",", ":")).encode() + b"\n"


def decode(content: bytes) -> Profile:
    """Read a profile. *Raises*: ProfileRefused, which says why it is none."""
    if len(content) > LARGEST:
        raise ProfileRefused(f"it is larger than {LARGEST} bytes")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise ProfileRefused("it is not JSON; export it again") from None
    if not isinstance(found, dict) or found.get("lazyfs") != "profile":
        raise ProfileRefused("it is no profile of lazyfs")
    if found.get("version") != VERSION:
        raise ProfileRefused(f"it has the version {str(found.get('version'))[:20]}, and this lazyfs knows {VERSION}")
    blob_id, size, etag = found.get("blob"), found.get("size", -1), found.get("etag")
    if not isinstance(blob_id, str) or not is_blob_id(blob_id) or not _is_count(size):
        raise ProfileRefused("it does not say of which blob it is")
    if not (etag is None or isinstance(etag, str)) or not isinstance(found.get("extents"), list):
        raise ProfileRefused("it is damaged")
    extents = tuple(_extent(each, size) for each in found["extents"])
    if sum(map(len, extents)) > MOST * UNIT:
        raise ProfileRefused(f"it names more than {MOST * UNIT} bytes")
    return Profile(BlobId(blob_id), size, etag, extents)


def _extent(each: Any, size: int) -> Extent:
    if not (isinstance(each, list) and len(each) == 2 and all(map(_is_count, each)) and each[1]):
        raise ProfileRefused("it has an extent that is none")
    if sum(each) > size:
        raise ProfileRefused("it has an extent that is not in the blob")
    return Extent(each[0], sum(each))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
