"""What a status, its headers and what was asked for prove together.  Pure.

An origin's answer is believed only as far as it proves which bytes of which version its body holds: the status, the
Content-Range, the length and the validator must agree with each other and with what was asked. Everything else is a
failed attempt, and nothing of its body may be used.

    200  the whole blob, when the length is the pinned size and the validator the pinned one
    206  exactly the bytes that Content-Range names, which begin where we asked
    304  unchanged, in answer to If-None-Match
    412  changed, in answer to If-Match
    416  an empty blob (`bytes */0`), or a blob that has changed its size
    3xx  to be followed by hand; 4xx: a refusal; 408, 425, 429 and 5xx: a passing failure

*Source*: RFC 9110 §8.8 (validators), §13 (conditions), §14 (ranges), §15 (statuses).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lazyfs.extents import Extent
from lazyfs.sizes import SIZE_MAX
from lazyfs.versions import Version, etag_in, http_date_ns

_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d{1,19})-(\d{1,19})|(\*))/(\d{1,19}|\*)", re.IGNORECASE | re.ASCII)
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 508, 520, 521, 522, 523, 524})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Body:
    """The body holds `extent` of `version`.

    `counted` is whether the length was declared: without it the body proves itself only by ending where it should,
    so nothing of it may be used before its end.
    """

    extent: Extent
    version: Version
    counted: bool


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The version that was named in the condition is still the current one."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The origin has another version than the pinned one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Moved:
    """To be followed by hand; `location` is as sent."""

    location: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The origin said no and will say no again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Passing:
    """A failure that passes. *Units*: `retry_after` seconds from now, None when the origin did not say."""

    reason: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Bad:
    """The answer does not prove what it holds."""

    reason: str


Outcome = Body | Unchanged | Changed | Moved | Refused | Passing | Bad


def range_header(extent: Extent) -> str:
    """The Range header that asks for a non-empty run of bytes."""
    return f"bytes={extent.start}-{extent.stop - 1}"


def decide(
    asked: Extent, pinned: Version | None, status: int, headers: Mapping[str, str], now: float, size: int | None = None
) -> Outcome:
    """Decide what an answer proves.

    `asked` is the run of bytes in the Range header; `pinned` the version they must be of, None when any will do;
    `headers` has lower-case names, repeated ones joined with a comma; `size` is the blob's where somebody else said so,
    for an answer that does not. *Units*: `now` is seconds since the epoch.
    """
    size = pinned.size if pinned is not None else size
    if status == 206:
        return _partial(asked, pinned, headers, size)
    if status == 200:
        return _whole(pinned, headers, size)
    if status == 304:
        return Unchanged() if pinned is not None else Bad("304, but nothing was asked conditionally")
    if status == 412:
        if pinned is None:
            return Refused("HTTP 412, but nothing was asked conditionally")
        return Changed("the origin says that the version has changed (412)")
    if status == 416:
        return _unsatisfiable(pinned, headers)
    if status in _REDIRECTS:
        location = headers.get("location", "").strip()
        return Moved(location) if location else Bad(f"a redirect ({status}) without a Location")
    if status in _PASSING:
        return Passing(f"HTTP {status}", retry_after(headers.get("retry-after"), now))
    if 400 <= status < 600:
        return Refused(f"HTTP {status}")
    return Bad(f"an unexpected HTTP status {status}")


def retry_after(text: str | None, now: float) -> float | None:
    """Return a Retry-After header as seconds from `now`, not below 0; None for none and for nonsense."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    at = http_date_ns(text)
    return None if at is None else max(0.0, at / 1e9 - now)


def _partial(asked: Extent, pinned: Version | None, headers: Mapping[str, str], size: int | None) -> Outcome:
    if reason := encoded(headers):
        return Bad(reason)
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None or match[3]:
        return Bad("206 without a Content-Range that names its bytes")
    start, stop = int(match[1]), int(match[2]) + 1
    if start != asked.start or not start < stop <= asked.stop:
        return Bad(f"206 with bytes {start}-{stop - 1}, asked for {asked.start}-{asked.stop - 1}")
    size = int(match[4]) if match[4] != "*" else size
    if size is None:
        return Bad("206 that does not say how large the blob is (give its size in a manifest)")
    if size > SIZE_MAX:
        return Bad(f"206 of a blob of {size} bytes, more than any file has")
    if stop > size:
        return Bad(f"206 with bytes up to {stop - 1} of a blob of {size}")
    length = _length(headers)
    if length is not None and length != stop - start:
        return Bad(f"206 with a length of {length} for {stop - start} bytes")
    return _of_version(Extent(start, stop), size, pinned, headers, counted=length is not None)


def _whole(pinned: Version | None, headers: Mapping[str, str], size: int | None) -> Outcome:
    if reason := encoded(headers):
        return Bad(reason)
    if "content-range" in headers:
        return Bad("200 with a Content-Range")
    length = _length(headers)
    if length is not None and length > SIZE_MAX:
        return Bad(f"200 with {length} bytes, more than any file has")
    size = length if length is not None else size
    if size is None:
        return Bad("200 that does not say how large the blob is (give its size in a manifest)")
    return _of_version(Extent(0, size), size, pinned, headers, counted=length is not None)


def _unsatisfiable(pinned: Version | None, headers: Mapping[str, str]) -> Outcome:
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None or not match[3] or match[4] == "*":
        return Bad("416 that does not say how large the blob is")
    size = int(match[4])
    if pinned is not None and size != pinned.size:
        return Changed(f"the size was {pinned.size} and is {size}")
    if size > 0:
        return Bad(f"416 for bytes inside a blob of {size}")
    # The body of a 416 is an error page, of which no byte is the blob's: the empty extent needs none.
    return Body(Extent(0, 0), pinned or _version(0, headers), counted=True)


def _of_version(
    extent: Extent, size: int, pinned: Version | None, headers: Mapping[str, str], *, counted: bool
) -> Outcome:
    """Compare what an answer says of its version with the pinned one."""
    found = _version(size, headers)
    if pinned is None:
        return Body(extent, found, counted)
    if found.size != pinned.size:
        return Changed(f"the size was {pinned.size} and is {found.size}")
    if pinned.etag and found.etag:
        if pinned.etag != found.etag:
            return Changed(f"the ETag was {pinned.etag} and is {found.etag}")
        if pinned.strong_etag:
            return Body(extent, pinned, counted)
    if pinned.last_modified and found.last_modified:
        if pinned.last_modified != found.last_modified:
            return Changed(f"Last-Modified was {pinned.last_modified!r} and is {found.last_modified!r}")
        return Body(extent, pinned, counted)
    if pinned.strong_etag or pinned.last_modified or (pinned.etag and not found.etag):
        return Bad("an answer that does not say of which version it is")
    return Body(extent, pinned, counted)


def _version(size: int, headers: Mapping[str, str]) -> Version:
    return Version(size, etag_in(headers), headers.get("last-modified"))


def encoded(headers: Mapping[str, str]) -> str | None:
    """Say why the body is not the blob's own bytes, or None when it is."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        return f"a body that is encoded ({coding}) although identity was asked for; have the server send it as it is"
    transfer = headers.get("transfer-encoding", "").strip().lower()
    if transfer not in ("", "identity", "chunked"):
        return f"a body with the transfer coding {transfer}"
    if headers.get("content-type", "").strip().lower().startswith("multipart/byteranges"):
        return "a multipart body for a single range"
    return None


def _length(headers: Mapping[str, str]) -> int | None:
    """The declared length of the body; None without one, and where chunking overrides it (RFC 9112 §6.3)."""
    text = headers.get("content-length", "").strip()
    if "transfer-encoding" in headers or not text.isdecimal() or not text.isascii() or len(text) > 19:
        return None
    return int(text)
