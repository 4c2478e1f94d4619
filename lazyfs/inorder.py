"""The names of a directory in the order in which `readdir` gives them: that of their cookies.

A listing goes on behind a cookie, also in another daemon, so the order depends on the names alone. It is kept with the
directory until its names change: to put 100,000 in order takes 0.1 s, and is done piece by piece, so that nothing else
waits for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import trio

from lazyfs.tree import Directory, Node, cookie

AT_ONCE: Final = 2000
"""Names that are put in order without a pause: some 2 ms."""


async def in_order(directory: Directory) -> Sequence[Node]:
    """Return the visible names of a directory, as they are now; nobody changes the list."""
    if directory.in_order is not None:
        return directory.in_order
    changes = directory.changes
    nodes = [node for node in directory.children.values() if node.visible]
    ordered = sorted(nodes, key=_cookie) if len(nodes) <= AT_ONCE else await _sorted(nodes)
    if directory.changes == changes:
        directory.in_order = ordered
    return ordered


def behind(nodes: Sequence[Node], last: int) -> range:
    """Return the places of those nodes, of some in order, whose cookies come after one."""
    return range(bisect_right(nodes, last, key=_cookie), len(nodes))


async def _sorted(nodes: Sequence[Node]) -> list[Node]:
    """Sort many: into some hundreds of parts by the first bits of their cookies, then each part."""
    bits = (len(nodes) // AT_ONCE).bit_length() + 2
    parts: list[list[Node]] = [[] for _ in range(1 << bits)]
    for start in range(0, len(nodes), AT_ONCE):
        for node in nodes[start : start + AT_ONCE]:
            parts[cookie(node.name) >> (62 - bits)].append(node)
        await trio.lowlevel.checkpoint()
    ordered: list[Node] = []
    for part in parts:
        ordered += sorted(part, key=_cookie)
        await trio.lowlevel.checkpoint()
    return ordered


def _cookie(node: Node) -> int:
    return cookie(node.name)
