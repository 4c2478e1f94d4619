"""What a layer says about one name, and where the bytes of a file are in it.  Pure.

*Source*: the tar format of POSIX.1-2001 (pax); OCI image-spec v1.1, layer.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Type(enum.Enum):
    """What a name is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    LINK = "link"  # a hard link to an earlier name: another name of the same file
    CHARACTER = "character device"
    BLOCK = "block device"
    FIFO = "fifo"


class Packing(enum.Enum):
    """How a piece of content lies in the layer's blob."""

    PLAIN = "plain"  # in the layer's uncompressed stream, which for a plain tar is the blob itself
    GZIP = "gzip"  # one or more gzip members of its own (eStargz)
    ZSTD = "zstd"  # one or more zstd frames of its own (zstd:chunked)
    ZEROS = "zeros"  # nowhere: it is all zeros


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of a file's content, [`offset`, `offset` + `length`) of the file.

    Its bytes are `stored` bytes at `at` of the blob (packed), or `length` bytes at `at` of the uncompressed stream.
    `skip` bytes come before it in what the packed bytes expand to. `digest` is `sha256:HEX` of the piece's own bytes.
    *Units*: bytes.
    """

    offset: int
    length: int
    at: int
    stored: int
    packing: Packing = Packing.PLAIN
    skip: int = 0
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One name of a layer. `path` has no slash at its ends and no `.` or `..`; the layer's root is the empty path.

    Paths, targets and names of attributes are `str`, bytes that are not UTF-8 as surrogate escapes (PEP 383).
    `mode` is the permission bits with setuid, setgid and sticky, no type. `target` is where a symbolic link leads, as
    it is written, or the path of the file of which a hard link is another name. `pieces` make up all of a file's
    content, one after the other. A whiteout is a member as others are: `merge` knows it by its name.
    *Units*: `size` bytes; `mtime_ns` nanoseconds since the epoch; `device` major and minor number.
    """

    path: str
    type: Type
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    pieces: tuple[Piece, ...] = ()
