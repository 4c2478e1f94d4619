"""Which blocks are evicted first: 2Q, whose history is a file.  Pure.

A block that was read once is *cold*, one that was wanted again after a while is *hot*. Cold blocks leave in the order
in which they came, as soon as they have more than `COLD_SHARE` of the room; otherwise the hot one leaves whose last use
is longest ago. So one pass over a large image goes through the cold quarter and flushes nothing that is used again and
again.

Time is the store's clock: the bytes of blob data that were ever reserved in it. A block's *use* (one word, kept in its
blob's `uses`) holds the clock of when it came, or, of a hot one, of its last use, or, of a cold one that is gone, of
when it went: that is 2Q's ghost queue, and costs 8 bytes a block. What comes back within `GHOST_SHARE` of the room is
hot.

    comes, never here or too long ago ──> cold ──wanted when older than the cold share──> hot ──wanted──> hot, now
                                          │                                                ^
                                          └──goes──> remembered ──comes back soon──────────┘

A block that is wanted again soon after it came stays cold: that is one reader's many small reads, not a second use.

*Source*: Johnson and Shasha, "2Q: a low overhead high performance buffer management replacement algorithm", VLDB 1994;
`tools/replay` shows it beside LRU.
"""

from __future__ import annotations

from typing import Final

COLD_SHARE: Final = 0.25
"""Of the room, for blocks that were used once: Kin of the paper."""

GHOST_SHARE: Final = 0.5
"""Of the room, for how long a block is remembered that has gone: Kout of the paper."""

NEVER: Final = 0


def is_hot(use: int) -> bool:
    """Say whether a block was wanted again after a while."""
    return use & 1 == 1


def on_arrival(use: int, clock: int, room: int) -> int:
    """Return the use of a block that comes into the store. *Units*: `clock` and `room` bytes."""
    return _use(clock, hot=use != NEVER and _age(use, clock) <= GHOST_SHARE * room)


def on_use(use: int, clock: int, room: int) -> int:
    """Return the use of a block in the store that somebody reads. *Units*: `clock` and `room` bytes."""
    if use == NEVER:
        return _use(clock, hot=False)
    if is_hot(use) or _age(use, clock) > COLD_SHARE * room:
        return _use(clock, hot=True)
    return use


def on_eviction(use: int, clock: int) -> int:
    """Return the use of a block that goes: only of a cold one is it remembered when it went. *Units*: bytes."""
    return use if is_hot(use) else _use(clock, hot=False)


def evict_cold(cold: int, hot: int, room: int) -> bool:
    """Say which queue the next victim comes from. *Units*: bytes that each of them has."""
    return hot == 0 or cold > COLD_SHARE * room


def _use(clock: int, *, hot: bool) -> int:
    return max(clock, 1) << 1 | hot


def _age(use: int, clock: int) -> int:
    """Return how long ago a use was; one of the future comes from a damaged file and is as old as can be."""
    since = clock - (use >> 1)
    return since if since >= 0 else clock
