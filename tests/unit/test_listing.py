"""A listing is kept whole, however long it is."""

from __future__ import annotations

import json
import zlib

import pytest

from lazyfs.entries import Entry, Kind, Refusal
from lazyfs.sources.listing import AT_ONCE, pack, unpack

URL = "http://h/a/"


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE - 1])
def test_what_is_packed_comes_out_again(count: int) -> None:
    entries = [Entry(f"[{n}], {n}", Kind.FILE, f"http://else/{n}", size=n, mtime_ns=n or None) for n in range(count)]
    packed = pack([*entries, Refusal("x", "it is not kept")], URL)
    assert unpack(packed, URL) == entries
    assert len(json.loads(zlib.decompress(packed))) == count
