"""Tables of contents in JSON, as eStargz and zstd:chunked layers have them, and the members that they say.  Pure.

Both come from stargz and differ in where a piece ends, in their pieces of zeros, and in `innerOffset`. A file is an
entry of the type `reg`, which is its first piece at the same time, and entries of the type `chunk` for the others. Go's
writers put U+FFFD where a name is not UTF-8; ours in the tests put surrogate escapes, which are read back.

*Source*: containerd/stargz-snapshotter docs/estargz.md and estargz/types.go; containers/storage
pkg/chunked/internal/minimal/compression.go.
"""

from __future__ import annotations

import binascii
import dataclasses
import json
import re
from bisect import bisect_right
from typing import Any, NamedTuple

from lazyfs import times
from lazyfs.errors import LayerError
from lazyfs.layers import bounds
from lazyfs.layers.growth import uncollected
from lazyfs.layers.members import Member, Packing, Piece, Type
from lazyfs.layers.sparse import zeros

TOC_MAX = 150 * 1024 * 1024
"""Bytes of JSON, as in containers/storage."""
LANDMARKS = frozenset({".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"})
"""Members that an eStargz layer has for its own ends, and that are no part of the tree."""

_TYPES = {
    "reg": Type.FILE,
    "dir": Type.DIRECTORY,
    "symlink": Type.SYMLINK,
    "hardlink": Type.LINK,
    "char": Type.CHARACTER,
    "block": Type.BLOCK,
    "fifo": Type.FIFO,
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse(text: bytes, packing: Packing, end: int, *, most: int = bounds.MEMBERS_MAX) -> list[Member]:
    """Return the members that a table of contents says; `end` is the offset in the blob where their content ends.

    *Raises*: LayerError.
    """
    if len(text) > TOC_MAX:
        raise LayerError(f"the table of contents has {len(text)} bytes; at most {TOC_MAX} are taken")
    with uncollected():
        return _parse(text, _Table(packing, end, most))


def _parse(text: bytes, table: _Table) -> list[Member]:
    try:
        # Each entry is taken when its object ends, and None stays in its place: only one of them is a dict at a time.
        outer = json.loads(text, object_hook=table.take)
    except (ValueError, RecursionError) as exc:
        raise LayerError(f"the table of contents is not JSON: {exc}") from exc
    entries = outer.get("entries") if isinstance(outer, dict) and outer.get("version") == 1 else None
    if not isinstance(entries, list) or any(entry is not None for entry in entries):
        raise LayerError("the table of contents is not one of version 1")
    return table.members()


class _Table:
    """The members so far. A piece ends where the next one starts, so pieces are made when all are known."""

    def __init__(self, packing: Packing, end: int, most: int) -> None:
        self._packing, self._end = packing, end
        self._allowance = bounds.Allowance(most)
        self._objects_left = 4 * most  # entries for pieces and objects of attributes included
        self._found: list[tuple[Member, list[_Part]]] = []
        self._ends: set[int] = {end}

    def take(self, found: dict[str, Any]) -> dict[str, Any] | None:
        """Take an entry; an object that is none is returned as it is."""
        self._objects_left -= 1
        if self._objects_left < 0:
            raise LayerError("the table of contents has too many entries")
        if "type" not in found:
            return found
        entry = _Entry(found)
        try:
            self._take(entry)
        except LayerError as exc:
            raise LayerError(f"the table of contents, {bounds.shown(entry.text('name'))}: {exc}") from exc
        return None

    def _take(self, entry: _Entry) -> None:
        kind = entry.text("type")
        if kind != "chunk":
            self._found.append((self._allowance.take(entry.member(kind)), []))
        elif not self._found or self._found[-1][0].type is not Type.FILE:
            raise LayerError("a piece of no file")
        member, parts = self._found[-1]
        if member.size == 0:
            return
        part = entry.part(member.size)
        if part.at + part.packed > self._end:
            raise LayerError("a piece of it leaves the layer")
        self._ends.add(part.at)
        if part.packed:
            self._ends.add(part.at + part.packed)
        parts.append(part)

    def members(self) -> list[Member]:
        """Return the members, with their pieces.

        *Raises*: LayerError, when the pieces of one are not all of it, one after the other.
        """
        ends = sorted(self._ends)
        found = []
        for member, parts in self._found:
            if member.path in LANDMARKS:
                continue
            done = 0
            pieces = []
            for part in sorted(parts, key=lambda part: part.offset):
                if part.offset != done:
                    break
                done += part.length
                pieces.append(self._piece(part, ends))
            if done != member.size or len(pieces) != len(parts):
                raise LayerError(f"the table of contents, {bounds.shown(member.path)}: its pieces do not make it up")
            found.append(dataclasses.replace(member, pieces=tuple(pieces)) if pieces else member)
        return found

    def _piece(self, part: _Part, ends: list[int]) -> Piece:
        if part.zeros:
            return zeros(part.offset, part.length)
        end = bisect_right(ends, part.at)
        if end == len(ends):
            raise LayerError("the table of contents has a piece where the layer has ended")
        return Piece(part.offset, part.length, part.at, ends[end] - part.at, self._packing, part.skip, part.digest)


class _Part(NamedTuple):
    """A piece as its entry says it; `packed` is how much is stored, or 0 where that is not said."""

    offset: int
    length: int
    at: int
    packed: int
    skip: int
    zeros: bool
    digest: str | None


class _Entry:
    """An object of the table, each value of which may be anything."""

    __slots__ = ("_found",)

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def text(self, key: str) -> str:
        """Return a text; none is an empty one."""
        value = self._found.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise LayerError(f"its {key} is no text")
        return value

    def number(self, key: str) -> int:
        """Return a number of at least 0; none is 0."""
        value = self._found.get(key)
        if value is None:
            return 0
        if type(value) is not int:
            raise LayerError(f"its {key} is no number")
        return bounds.number(value, key)

    def member(self, kind: str) -> Member:
        """Return what it says of a name, without pieces."""
        found = _TYPES.get(kind)
        if found is None:
            raise LayerError(f"it is of the unknown type {bounds.shown(kind)}")
        target = ""
        device = (0, 0)
        if found is Type.SYMLINK:
            target = bounds.symlink_target(self.text("linkName"))
        elif found is Type.LINK:
            target = bounds.link_path(self.text("linkName"))
        elif found in (Type.CHARACTER, Type.BLOCK):
            device = bounds.device(self.number("devMajor"), self.number("devMinor"))
        return Member(
            path=bounds.path_of(self.text("name")),
            type=found,
            mode=self.number("mode") & 0o7777,
            uid=bounds.owner(self.number("uid"), "owner"),
            gid=bounds.owner(self.number("gid"), "group"),
            mtime_ns=self._time(),
            size=self.number("size") if found is Type.FILE else 0,
            target=target,
            device=device,
            xattrs=self._xattrs(),
        )

    def _time(self) -> int:
        text = self.text("modtime")
        ns = times.rfc3339_ns(text) if text else 0
        if ns is None:
            raise LayerError(f"its time {bounds.shown(text)} is none")
        return ns

    def _xattrs(self) -> tuple[tuple[str, bytes], ...]:
        found = self._found.get("xattrs")
        if not found:
            return ()
        if not isinstance(found, dict):
            raise LayerError("its attributes are no object")
        try:
            return bounds.xattrs({name: binascii.a2b_base64(value, strict_mode=True) for name, value in found.items()})
        except (binascii.Error, TypeError, ValueError) as exc:
            raise LayerError(f"an attribute of it is not in base64: {exc}") from exc

    def part(self, size: int) -> _Part:
        """Return the piece that it stands for, of a file of `size` bytes."""
        offset = self.number("chunkOffset")
        length = self.number("chunkSize") or size - offset
        if offset >= size or length > size - offset:
            raise LayerError("a piece of it leaves the file")
        at, end = self.number("offset"), self.number("endOffset")
        digest = self.text("chunkDigest") or (self.text("digest") if length == size else "")
        if digest and not _DIGEST.fullmatch(digest):
            raise LayerError(f"its digest {bounds.shown(digest)} is no SHA-256")
        is_zeros = self.text("chunkType") == "zeros"
        return _Part(offset, length, at, max(end - at, 0), self.number("innerOffset"), is_zeros, digest or None)
