"""The extended headers of a tar: records that say what its own fields cannot.  Pure.

A record is `LENGTH KEY=VALUE\\n`, LENGTH being that of the record. Values are bytes: an attribute's may be anything.
They are parsed here and not by `tarfile`, which makes floats of times and whose patterns, before Python 3.11.10, took
quadratic time over what a hostile layer says (CVE-2024-6232).

*Source*: POSIX.1-2017, pax, "pax Extended Header"; star(4) for `SCHILY.xattr.`; libarchive,
archive_write_set_format_pax.c, for `LIBARCHIVE.xattr.`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from lazyfs.errors import LayerError
from lazyfs.layers import bounds

Record = tuple[str, bytes]

_LENGTH = re.compile(rb"([1-9][0-9]{0,7}) ")
_TIME = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]*))?")
_NUMBER = re.compile(r"[0-9]{1,19}")


def records(header: bytes) -> list[Record]:
    """Return the records of an extended header, in order.

    *Raises*: LayerError, unless the whole of it is records.
    """
    found = []
    at = 0
    while at < len(header):
        match = _LENGTH.match(header, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(header) or header[end - 1] != 0x0A:
            raise LayerError("an extended header is not made of records")
        key, equals, value = header[match.end() : end - 1].partition(b"=")
        if not key or not equals or b"\0" in key:
            raise LayerError("a record of an extended header has no key")
        found.append((key.decode("utf-8", "surrogateescape"), value))
        at = end
    return found


def text(value: bytes) -> str:
    """Return a record's value as names are kept: bytes that are not UTF-8 as surrogate escapes."""
    return value.decode("utf-8", "surrogateescape")


def number(value: bytes, what: str) -> int:
    """Return a record's value that is a number of at least 0.

    *Raises*: LayerError.
    """
    if not _NUMBER.fullmatch(digits := text(value)):
        raise LayerError(f"an extended header's {what} is no number")
    return bounds.number(int(digits), what)


def time_ns(value: bytes) -> int:
    """Return a record's time, to the nanosecond; what is finer is cut off. *Units*: nanoseconds since the epoch.

    *Raises*: LayerError.
    """
    match = _TIME.fullmatch(text(value))
    if match is None:
        raise LayerError("an extended header's time is none")
    sign, seconds, fraction = match.groups()
    ns = int(seconds) * 10**9 + int((fraction or "")[:9].ljust(9, "0"))
    return bounds.time_ns(-ns if sign else ns)


def xattrs(found: Iterable[Record]) -> tuple[tuple[str, bytes], ...]:
    """Return the extended attributes that records say; where two ways of writing disagree, `SCHILY.xattr.` is right.

    *Raises*: LayerError.
    """
    plain, packed = {}, {}
    for key, value in found:
        if key.startswith("SCHILY.xattr."):
            plain[key[13:]] = value
        elif key.startswith("LIBARCHIVE.xattr."):
            packed[text(unquote_to_bytes(key[17:].encode("utf-8", "surrogateescape")))] = _unpacked(value)
    return bounds.xattrs(packed | plain) if plain or packed else ()


def _unpacked(value: bytes) -> bytes:
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4))  # libarchive leaves the padding out
    except binascii.Error as exc:
        raise LayerError("an extended attribute is not in base64") from exc
