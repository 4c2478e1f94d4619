"""Manifests: lists of files in JSON Lines or TOML, one record a file.  Pure.

A record has `path`, and one of `url` and `symlink`; it may have `mirrors`, `size`, `digest` (`sha256:HEX`),
`mtime` (seconds, an RFC 3339 string or a TOML date-time) and `mode` (octal string). Beyond that:

- other keys are ignored, so that a manifest may carry its maker's notes and later versions of this format;
- null is the same as leaving the key out; any other value of a wrong type refuses its record, and only that;
- a path is taken literally: percent signs, backslashes and spaces are part of the name, and a name that is
  not UTF-8 is written with surrogate escapes (`"\\udce9"` is the byte E9);
- a URL may have spaces and non-ASCII characters behind its host; they are escaped, nothing else is changed;
- a `mode` with setuid, setgid or sticky bits is refused: on a nosuid mount it would promise what is not so;
- a symlink's `size`, `digest`, `mode` and `mirrors` mean nothing and are dropped;
- whether two records may have the same path is the tree's business, not decided here.
"""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn

from lazyfs import times
from lazyfs.entries import Entry, Kind, Refusal, unsafe
from lazyfs.errors import SourceError
from lazyfs.sizes import SIZE_MAX
from lazyfs.sources.links import Base, wire
from lazyfs.urls import is_http
from lazyfs.versions import is_digest

LINE_MAX = 1 << 20
"""Bytes in one line of a JSON Lines manifest."""

SYMLINK_MAX = 4095
"""Bytes in a symlink's target: PATH_MAX without its NUL (path_resolution(7))."""

_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.\-]+(?::[1-9][0-9]{0,3})?/[!-~]*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MODE = re.compile(r"(?:0o)?[0-7]{1,5}")


class _RecordError(Exception):
    """Why a record is refused; becomes a Refusal where the record's number is known."""


def parse_jsonl(lines: Iterable[bytes], base_url: str | None, first: int = 1) -> Iterator[Entry | Refusal]:
    """Yield an entry, or a refusal with its line number, for each line that is not blank; `first` is the first's.

    Lines are taken from `lines` one at a time, so no more than one is held; `base_url` is what relative URLs
    are joined to, None for a manifest that did not come from a URL. Nothing that a line holds raises.

    *Raises*: ValueError when `base_url` is no http(s) URL.
    *Source*: jsonlines.org; 1,000,000 lines of path, url and size take 4.1 s here, 2.0 s of them in json.
    """
    base = None if base_url is None else Base.of(base_url)
    for number, raw in enumerate(lines, first):
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if not line or line.isspace():
            continue
        found: Entry | Refusal
        try:
            found = _entry(_record(line), base)
        except _RecordError as bad:
            found = Refusal(f"line {number}", str(bad))
        yield found


def parse_toml(text: str, base_url: str | None) -> Iterator[Entry | Refusal]:
    """Yield an entry, or a refusal with its number among the tables, for each `[[file]]` table.

    *Raises*: SourceError, when advanced, if `text` is not TOML or has no array `file`; ValueError when
    `base_url` is no http(s) URL.
    *Source*: toml.io, v1.0.0.
    """
    base = None if base_url is None else Base.of(base_url)
    try:
        document = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as exc:
        raise SourceError(f"the manifest is not TOML: {' '.join(str(exc).split())[:200]}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of brackets
        raise SourceError("the manifest is not TOML that can be read: a value is too long or too deep") from None
    tables = document.get("file") if document else []  # an empty manifest is one of no files
    if not isinstance(tables, list):
        raise SourceError("the manifest has no [[file]] tables; write one for each file, with path and url")
    for number, table in enumerate(tables, 1):
        found: Entry | Refusal
        try:
            found = _entry(table, base)
        except _RecordError as bad:
            found = Refusal(f"file {number}", str(bad))
        yield found


def _no_constant(name: str) -> NoReturn:
    raise _RecordError(f"not JSON: {name}")  # NaN and Infinity, which Python's reader would take


_decode_json = json.JSONDecoder(parse_constant=_no_constant).decode


def _record(line: bytes) -> Any:
    if len(line) > LINE_MAX:
        raise _RecordError(f"the line is over {LINE_MAX} bytes")
    try:
        return _decode_json(line.decode())
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except json.JSONDecodeError as exc:
        reason = f"not JSON: {exc.msg} at column {exc.colno}"
    except ValueError:
        reason = "not JSON that can be read: a number has too many digits"
    except RecursionError:
        reason = "not JSON that can be read: nested too deep"
    raise _RecordError(reason)


def _entry(record: Any, base: Base | None) -> Entry:
    """Make the entry of one record: the hot path, so what is absent costs one look-up and no call."""
    if not isinstance(record, dict):
        raise _RecordError("the record is not an object")
    get = record.get
    path = get("path")
    if type(path) is not str:
        raise _RecordError("it has no path" if path is None else "the path is not a string")
    reason = unsafe(path)
    if reason is not None:
        raise _RecordError(reason)
    size = get("size")
    # type(), not isinstance(): in Python true is an int, in a manifest it is a mistake.
    if size is not None and (type(size) is not int or not 0 <= size <= SIZE_MAX):
        raise _RecordError("the size is not an integer from 0 to 2**63-1")
    digest, mtime, mode, symlink = get("digest"), get("mtime"), get("mode"), get("symlink")
    mtime_ns = None if mtime is None else _mtime_ns(mtime)
    bits = None if mode is None else _mode(mode)
    if digest is not None:
        if type(digest) is not str or not is_digest(digest):
            raise _RecordError("the digest is not sha256: and 64 hexadecimal digits")
        digest = digest.lower()
    url, mirrors = get("url"), get("mirrors")
    if symlink is not None:
        if url is not None:
            raise _RecordError("it has both url and symlink")
        return Entry(path, Kind.SYMLINK, mtime_ns=mtime_ns, symlink=_target(symlink))
    if url is None:
        raise _RecordError("it has neither url nor symlink")
    if mirrors is None:
        mirrors = ()
    elif isinstance(mirrors, list):
        mirrors = tuple(_url(mirror, base, "a mirror") for mirror in mirrors)
    else:
        raise _RecordError("mirrors is not a list")
    return Entry(path, Kind.FILE, _url(url, base, "the url"), mirrors, size, digest, mtime_ns, bits)


def _url(text: object, base: Base | None, what: str) -> str:
    # No message here quotes the URL: it may be a signed one, and refusals are logged.
    if type(text) is not str:
        raise _RecordError(f"{what} is not a string")
    if _PLAIN_URL.fullmatch(text):
        return text
    if _CONTROL.search(text):
        raise _RecordError(f"{what} has a control character")
    try:
        if not _SCHEME.match(text):
            if base is None:
                raise _RecordError(f"{what} is relative, and the manifest has no URL of its own")
            text = base.join(text)
            if _PLAIN_URL.fullmatch(text):
                return text
        if not is_http(text):
            raise _RecordError(f"{what} is not an http or https URL")
        return wire(text)
    except ValueError:
        raise _RecordError(f"{what} cannot be read") from None


def _mtime_ns(value: object) -> int:
    ns = None
    if type(value) is int or type(value) is float:
        ns = times.seconds_ns(value)
    elif type(value) is str:
        ns = times.rfc3339_ns(value)
    elif isinstance(value, datetime):
        ns = times.datetime_ns(value)
    if ns is None:
        raise _RecordError("the mtime is neither seconds nor an RFC 3339 time, or is too far off")
    return ns


def _mode(value: object) -> int:
    if type(value) is not str or not _MODE.fullmatch(value):
        raise _RecordError('the mode is not an octal string such as "0644"')
    mode = int(value, 8)
    if mode > 0o777:
        raise _RecordError("the mode has more than permission bits (0777); the mount is nosuid")
    return mode


def _target(value: object) -> str:
    if type(value) is not str or not value or "\0" in value:
        raise _RecordError("the symlink's target is not a string, is empty, or has a NUL")
    try:
        length = len(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise _RecordError("the symlink's target has a lone surrogate") from None
    if length > SYMLINK_MAX:
        raise _RecordError(f"the symlink's target is over {SYMLINK_MAX} bytes")
    return value
