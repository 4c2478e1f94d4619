"""Files of headers, read again when they have changed: a token that somebody rotates is taken up with no restart."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lazyfs.errors import UsageError
from lazyfs.origin.headerlines import parse_header_lines

_SETTLED: Final = 2.0
"""Seconds after which a change that follows gives a file another date, whatever its file system's clock ticks by."""

_Headers = tuple[tuple[str, str], ...]
_Stamp = tuple[int, int, int, int]


def read_header_file(path: Path) -> _Headers:
    """Return the headers in a file of any kind. *Raises*: UsageError, which names the file and line."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from None
    return parse_header_lines(content, str(path))


class HeaderFiles:
    """The headers in some files, as they are now. Their paths are absolute: a daemon has another working directory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._read: dict[Path, tuple[_Stamp, _Headers]] = {}

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers, in order; costs one stat() for each file that has not changed. *Raises*: UsageError."""
        return [header for path in self._paths for header in self._headers(path)]

    def _headers(self, path: Path) -> _Headers:
        try:
            found = path.stat()
        except OSError as exc:
            raise UsageError(f"{path} cannot be read: {exc.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is not a regular file, and only those can be read again")
        stamp = _stamp(found)
        known, headers = self._read.get(path, (None, ()))
        if known != stamp:
            headers = read_header_file(path)  # not before its stamp was taken: a change since then is seen next time
            if found.st_mtime < time.time() - _SETTLED:
                self._read[path] = stamp, headers
        return headers


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
