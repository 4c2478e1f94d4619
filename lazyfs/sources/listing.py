"""How a directory's listing is kept in the catalogue: compressed JSON, without queries.  Pure.

    listing := zlib(JSON [[path, kind, url, size, mtime_ns], ...])

`url` is None where it is the listing's own URL with the name behind it, which is nearly always.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from typing import Final

from lazyfs.entries import Entry, Kind, Refusal
from lazyfs.sources.links import encoded

AT_ONCE: Final = 2000
"""Rows that are encoded in one go."""


def pack(found: Iterable[Entry | Refusal], url: str) -> bytes:
    """Encode the entries of the listing at `url`."""
    rows = [
        [
            entry.path,
            entry.kind.value,
            None if entry.url == _child(url, entry) else entry.url,
            entry.size,
            entry.mtime_ns,
        ]
        for entry in found
        if isinstance(entry, Entry)
    ]
    # In pieces, because no other thread runs while one is encoded: 100,000 rows at once would stop them for 70 ms.
    pieces = (json.dumps(rows[start : start + AT_ONCE])[1:-1] for start in range(0, len(rows), AT_ONCE))
    return zlib.compress(f"[{', '.join(pieces)}]".encode(), 1)


def unpack(kept: bytes, url: str) -> list[Entry | Refusal]:
    """Decode what `pack` made."""
    found: list[Entry | Refusal] = []
    for path, kind, own_url, size, mtime_ns in json.loads(zlib.decompress(kept)):
        entry = Entry(path, Kind(kind), own_url, size=size, mtime_ns=mtime_ns)
        found.append(entry if own_url else Entry(path, entry.kind, _child(url, entry), size=size, mtime_ns=mtime_ns))
    return found


def _child(url: str, entry: Entry) -> str:
    return url.partition("?")[0] + encoded(entry.path) + ("/" if entry.kind is Kind.DIRECTORY else "")
