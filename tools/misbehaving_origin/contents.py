"""Blobs: what a name stands for, byte for byte, in each of its versions.

Tests import this module to know what they should have been given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from html import escape
from pathlib import Path
from urllib.parse import quote

PAGE = 4096
FIRST_MODIFIED = 1_700_000_000
"""The Last-Modified of a random blob's version 1, in seconds; each later version is a second younger."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Blob:
    """One version of some content.

    `read(start, stop)` gives exactly those bytes for any 0 <= start <= stop <= size.
    """

    size: int
    etag: str | None
    modified: int | None
    read: Callable[[int, int], bytes]
    media_type: str = "application/octet-stream"
    encoding: str | None = None

    @property
    def last_modified(self) -> str | None:
        """The Last-Modified header's value."""
        return None if self.modified is None else formatdate(self.modified, usegmt=True)


def parse_size(text: str) -> int:
    """Return the bytes that `text`, a number or one with K, M, G or T, stands for.  Raises ValueError."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if match is None:
        raise ValueError(f"not a size: {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def random_bytes(size: int, seed: str, start: int = 0, stop: int | None = None, version: int = 1) -> bytes:
    """Return bytes start..stop of `random-SIZE-SEED` in the given version, at a cost of just those bytes.

    Each page of 4 KiB is SHAKE-128 of seed, version and page number.
    """
    stop = size if stop is None else min(stop, size)
    if start >= stop:
        return b""
    first, last = start // PAGE, (stop - 1) // PAGE
    pages = (
        hashlib.shake_128(f"{seed}\0{version}\0{page}".encode("utf-8", "surrogateescape")).digest(PAGE)
        for page in range(first, last + 1)
    )
    return b"".join(pages)[start - first * PAGE : stop - first * PAGE]


def random_blob(size: int, seed: str, version: int = 1) -> Blob:
    """Return the blob whose bytes `random_bytes` gives."""
    name = hashlib.sha256(seed.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return Blob(
        size,
        f'"{name}-{size:x}-v{version}"',
        FIRST_MODIFIED + version - 1,
        lambda start, stop: random_bytes(size, seed, start, stop, version),
    )


def bytes_blob(content: bytes, media_type: str = "text/plain; charset=utf-8") -> Blob:
    """Return a blob of bytes at hand."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return Blob(len(content), etag, FIRST_MODIFIED, lambda start, stop: content[start:stop], media_type)


def file_blob(path: Path, version: int = 1, size: int | None = None) -> Blob:
    """Return a file's content; in versions above 1 each byte is XORed with version - 1.

    With a `size` it is cut there, or goes on with zeros (before the XOR).
    """
    status = path.stat()
    total = status.st_size if size is None else size
    flips = bytes(byte ^ (version - 1) & 0xFF for byte in range(256))

    def read(start: int, stop: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start).ljust(stop - start, b"\0").translate(flips)

    etag = f'"{status.st_mtime_ns:x}-{total:x}-v{version}"'
    return Blob(total, etag, int(status.st_mtime) + version - 1, read)


def listing(title: str, rows: list[tuple[str, int | None, int]]) -> Blob:
    """Return an nginx-like HTML index of rows (name, size or None for a directory, mtime in seconds)."""
    lines = [
        f"<html>\r\n<head><title>Index of {escape(title)}</title></head>\r\n<body>\r\n"
        f'<h1>Index of {escape(title)}</h1><hr><pre><a href="../">../</a>\r\n'
    ]
    for name, size, modified in rows:
        shown = name if size is not None else name + "/"
        label = shown if len(shown) <= 50 else shown[:47] + "..&gt;"
        date = formatdate(modified, usegmt=True)[5:22].replace(" ", "-", 2)
        padding = " " * max(51 - len(shown), 1)
        column = "-" if size is None else str(size)
        lines.append(f'<a href="{quote(shown)}">{escape(label)}</a>{padding}{date} {column:>19}\r\n')
    lines.append("</pre><hr></body>\r\n</html>\r\n")
    return bytes_blob("".join(lines).encode("utf-8", "surrogateescape"), "text/html")


def find(name: str, root: Path | None = None, version: int = 1, size: int | None = None) -> Blob | None:
    """Return the blob that `name`, percent-decoded, stands for, or None when there is none.

    `size` overrides the size that the name or the file says.
    """
    if match := re.fullmatch(r"random-(\d+[KMGT]?)-(.+)", name):
        return random_blob(parse_size(match[1]) if size is None else size, match[2], version)
    if match := re.fullmatch(r"index-(\d+)(?:-(\d+[KMGT]?))?/(f\d{6,})?", name):
        count, each = int(match[1]), parse_size(match[2] or "64K")
        if match[3] is None:
            return listing(name, [(f"f{number:06}", each, FIRST_MODIFIED) for number in range(count)])
        if int(match[3][1:]) >= count:
            return None
        return random_blob(each if size is None else size, match[3], version)
    return None if root is None else _find_in(root.resolve(), name, version, size)


def _find_in(root: Path, name: str, version: int, size: int | None) -> Blob | None:
    if "\0" in name:
        return None
    path = (root / name.lstrip("/")).resolve()
    if not path.is_relative_to(root):
        return None
    if path.is_file() and not name.endswith("/"):
        return file_blob(path, version, size)
    if path.is_dir() and (name.endswith("/") or not name):
        entries = sorted(entry for entry in path.iterdir() if entry.exists())
        rows = [
            (entry.name, None if entry.is_dir() else entry.stat().st_size, int(entry.stat().st_mtime))
            for entry in entries
        ]
        return listing("/" + name, rows)
    return None
