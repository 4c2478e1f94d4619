"""The members of an uncompressed tar, and where their content is in it.  Pure: it reads what it is given.

Header blocks are parsed by `tarfile.TarInfo.frombuf`. What makes one member of several headers is done here, since
`TarFile` takes damage in the middle for the end, believes any size, recurses, keeps everything, and makes floats of
times. Where archives may be read in two ways, they are read as Go's archive/tar does, which is what made nearly all
images and unpacks them: global extended headers are passed over, what has no content by its type has none, and one
block of zeros ends the archive.

*Source*: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format"; star(4).
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import Protocol

from lazyfs.errors import LayerError
from lazyfs.layers import bounds, pax, sparse
from lazyfs.layers.members import Member, Piece, Type
from lazyfs.layers.sparse import BLOCK

_TYPES = {
    tarfile.REGTYPE: Type.FILE,
    tarfile.AREGTYPE: Type.FILE,
    tarfile.CONTTYPE: Type.FILE,
    tarfile.GNUTYPE_SPARSE: Type.FILE,
    tarfile.DIRTYPE: Type.DIRECTORY,
    tarfile.SYMTYPE: Type.SYMLINK,
    tarfile.LNKTYPE: Type.LINK,
    tarfile.CHRTYPE: Type.CHARACTER,
    tarfile.BLKTYPE: Type.BLOCK,
    tarfile.FIFOTYPE: Type.FIFO,
}
_END = bytes(BLOCK)
_SKIPPED = 1024 * 1024


class Stream(Protocol):
    """What a tar is read from: a binary file, or what looks like one.

    `read` returns fewer bytes than asked for only where a raw file may, and none only at the end. Where `seekable` says
    yes, `seek` is used to pass over content, which is not read then.
    """

    def read(self, length: int, /) -> bytes:
        """Return the next bytes."""

    def seekable(self) -> bool:
        """Say whether `seek` may be called."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Go to an offset, and return it."""


def members(stream: Stream, *, most: int = bounds.MEMBERS_MAX) -> Iterator[Member]:
    """Yield the members of the tar that begins where `stream` is, at its offset 0; `most` is how many there may be.

    Where content is, is said as its offset in the stream.

    *Raises*: LayerError, for a tar that is damaged, cut short, or says what no tree can hold; what `stream` raises.
    """
    allowance = bounds.Allowance(most)
    reader = _Reader(stream)
    at = 0
    try:
        while (found := _Headers(reader).member()) is not None:
            yield allowance.take(found)
            at = reader.at
    except LayerError as exc:
        raise LayerError(f"tar, at byte {at}: {exc}") from exc


class _Reader:
    """A stream, read by blocks. `at` is the offset of the next one."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._size = None
        self.at = 0
        if stream.seekable():
            self._size = stream.seek(0, os.SEEK_END)
            stream.seek(0)

    def read(self, length: int) -> bytes:
        """Return this many bytes, or as many as there are before the end."""
        found = self._stream.read(length)
        while len(found) < length and (more := self._stream.read(length - len(found))):
            found += more
        self.at += len(found)
        return found

    def blocks(self, length: int) -> bytes:
        """Return this many bytes, and pass over what fills their last block."""
        found = self.read(_whole(length))
        if len(found) < _whole(length):
            raise LayerError("it ends in the middle of a member")
        return found[:length]

    def block(self) -> bytes:
        """Return a block."""
        return self.blocks(BLOCK)

    def skip(self, length: int) -> None:
        """Pass over content. That in the last block of an archive need not be whole."""
        end = self.at + length
        if self._size is None:
            while self.at < end:
                if not self.read(min(end - self.at, _SKIPPED)):
                    raise LayerError("it ends in the middle of a member")
            self.read(_whole(length) - length)
        elif end > self._size:
            raise LayerError("a member's content leaves it")
        else:
            self.at = self._stream.seek(min(self.at + _whole(length), self._size))


def _whole(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


class _Headers:
    """The headers of one member: as many extended ones as there are, then its own."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._records: list[pax.Record] = []
        self._said: dict[str, bytes] = {}
        self._name: str | None = None
        self._target: str | None = None

    def member(self) -> Member | None:
        """Read them, pass over the content, and return the member; None at the end."""
        extended = 0
        while block := self._reader.read(BLOCK):
            if block == _END:
                break
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as exc:
                raise LayerError(f"no header of a tar: {exc}") from exc
            if info.type in _TYPES:
                try:
                    return self._member(info, block)
                except LayerError as exc:
                    raise LayerError(f"{bounds.shown(self._name or info.name)}: {exc}") from exc
            extended += BLOCK + bounds.number(info.size, "size of an extended header")
            if extended > bounds.HEADER_MAX:
                raise LayerError("extended headers are too long")
            self._extend(info.type, self._reader.blocks(info.size))
        if extended:
            raise LayerError("it ends after an extended header")
        return None

    def _extend(self, kind: bytes, content: bytes) -> None:
        if kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            self._records = pax.records(content)
            self._said = {key: value for key, value in self._records if value}  # an empty one takes back what was said
        elif kind == tarfile.GNUTYPE_LONGNAME:
            self._name = pax.text(content.split(b"\0")[0])
        elif kind == tarfile.GNUTYPE_LONGLINK:
            self._target = pax.text(content.split(b"\0")[0])
        elif kind != tarfile.XGLTYPE:
            raise LayerError(f"a member is of the unknown type {kind!r}")

    def _member(self, info: tarfile.TarInfo, block: bytes) -> Member:
        said = self._said
        if self._name is None:
            name = said.get("GNU.sparse.name") if self._sparse_form() is not None else None
            name = name or said.get("path")
            self._name = pax.text(name) if name else _ustar_name(info, block)
        kind = _TYPES[info.type]
        if info.type == tarfile.AREGTYPE and self._name.endswith("/"):
            kind = Type.DIRECTORY  # as before POSIX
        size, pieces = self._content(info, block) if kind is Type.FILE else (0, ())
        return Member(
            path=bounds.path_of(self._name),
            type=kind,
            mode=info.mode & 0o7777,
            uid=bounds.owner(pax.number(said["uid"], "owner") if "uid" in said else info.uid, "owner"),
            gid=bounds.owner(pax.number(said["gid"], "group") if "gid" in said else info.gid, "group"),
            mtime_ns=pax.time_ns(said["mtime"]) if "mtime" in said else bounds.time_ns(int(info.mtime) * 10**9),
            size=size,
            target=self._link(info, kind),
            device=_device(info) if kind in (Type.CHARACTER, Type.BLOCK) else (0, 0),
            xattrs=pax.xattrs(self._records),
            pieces=pieces,
        )

    def _link(self, info: tarfile.TarInfo, kind: Type) -> str:
        if kind not in (Type.LINK, Type.SYMLINK):
            return ""
        target = self._target
        if target is None:
            target = pax.text(self._said["linkpath"]) if "linkpath" in self._said else info.linkname
        return bounds.link_path(target) if kind is Type.LINK else bounds.symlink_target(target)

    def _content(self, info: tarfile.TarInfo, block: bytes) -> tuple[int, tuple[Piece, ...]]:
        """Pass over a file's content; return the file's size and where its bytes are."""
        said, reader = self._said, self._reader
        stored = pax.number(said["size"], "size") if "size" in said else bounds.number(info.size, "size")
        runs: sparse.Runs | None = None
        size = stored
        if info.type == tarfile.GNUTYPE_SPARSE:
            runs, size = sparse.old(block, reader.block)
        elif self._sparse_form() == 1:
            before = reader.at
            runs = sparse.in_front(reader.block)
            stored -= reader.at - before
        elif self._sparse_form() == 0:
            runs = sparse.in_records(self._records)
        at = reader.at
        reader.skip(bounds.number(stored, "size"))
        if runs is None:
            return stored, (Piece(0, stored, at, stored),) if stored else ()
        for key in ("GNU.sparse.realsize", "GNU.sparse.size"):
            if key in said:
                size = pax.number(said[key], "size")
        return size, sparse.pieces(runs, size, at, stored)

    def _sparse_form(self) -> int | None:
        """Return the major number of the form in which PAX says a sparse file, if it does."""
        version = self._said.get("GNU.sparse.major"), self._said.get("GNU.sparse.minor")
        if version == (b"1", b"0"):
            return 1
        if version in ((b"0", b"0"), (b"0", b"1")):
            return 0
        maps = version == (None, None) and any(key in self._said for key in ("GNU.sparse.map", "GNU.sparse.offset"))
        return 0 if maps else None


def _ustar_name(info: tarfile.TarInfo, block: bytes) -> str:
    """Return the name that a header itself says. What POSIX has as its prefix, others use for other things."""
    if block[257:265] == b"ustar  \0":  # GNU: times, and the map of a sparse file
        prefix = b""
    elif block[508:512] == b"tar\0":  # star: a shorter one, then times
        prefix = block[345:476]
    else:
        return info.name
    name = block[:100].split(b"\0")[0]
    prefix = prefix.split(b"\0")[0]
    return pax.text(prefix + b"/" + name if prefix else name)


def _device(info: tarfile.TarInfo) -> tuple[int, int]:
    return bounds.device(info.devmajor, info.devminor)
