"""What a source says about one name under the mount.  Pure.

A source yields `Entry` for a name it vouches for and `Refusal` for one that cannot be shown. Paths are `str`
with `/` between the parts; bytes that are not UTF-8 travel as surrogate escapes (PEP 383), as in `os.fsdecode`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from lazyfs.versions import BlobId, Known

NAME_MAX = 255
"""Bytes in one name: the kernel answers EIO for a whole directory that holds a longer one (fs/fuse/readdir.c)."""

PATH_MAX_DEPTH = 128
"""Directories in one path; deeper is an accident or an attack (the kernel's PATH_MAX is 4096 bytes)."""


class Kind(enum.Enum):
    """What a name is."""

    FILE = "file"
    DIRECTORY = "directory"  # listed at its URL when first looked at
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name, as its source announces it; what is None is learnt from the origin when needed.

    With `blob_id` the name was given to that blob, and stays with it whatever its URL names later. With `known` its
    source says all that there is to be known, and its origin is never asked what is at its URL.
    *Units*: `size` bytes, `mtime_ns` nanoseconds since the epoch, `mode` permission bits, `digest` `sha256:HEX`.
    """

    path: str
    kind: Kind = Kind.FILE
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    size: int | None = None
    digest: str | None = None
    mtime_ns: int | None = None
    mode: int | None = None
    symlink: str | None = None
    blob_id: BlobId | None = None
    known: Known | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line or link that cannot be shown; `where` is a line number or a name, `reason` is for a person."""

    where: str
    reason: str


def unsafe(path: str) -> str | None:
    """Say why `path` must not appear under a mount, or None when it may.

    Refused: empty, absolute, `.` and `..`, NUL, empty parts (`a//b`), a name over 255 bytes, more than 128 deep.
    """
    if not path:
        return "the path is empty"
    if path.startswith("/"):
        return "the path is absolute"
    parts = path.split("/")
    if len(parts) > PATH_MAX_DEPTH:
        return f"the path is more than {PATH_MAX_DEPTH} deep"
    for part in parts:
        if part in ("", ".", ".."):
            return f"the path has an unsafe part {part!r}"
        if "\0" in part:
            return "the path has a NUL byte"
        try:
            encoded = part.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return "the path has a lone surrogate"
        if len(encoded) > NAME_MAX:
            return f"a name in the path is over {NAME_MAX} bytes"
    return None
