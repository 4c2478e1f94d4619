"""Which open blobs have their files open: those that were used last, as far as a process may have descriptors.

    limit ──┬─ kept for sockets, the catalogue, and what else there is
            ├─ half of the rest: blobs that are awake, with five descriptors each
            └─ the other half: blobs that rest, with one each (store/files.py)

A blob that is being used does not rest: where very many are at once, more are awake than should be.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from lazyfs.store.files import MOST

KEPT: Final = 1024
"""Descriptors that blobs leave to others, at the most; an eighth of few."""

TRIED: Final = 8
"""Blobs that are asked to rest when there is one too many awake."""


class Sleeper(Protocol):
    """What can rest."""

    def rest(self) -> bool:
        """Close what can be opened again, unless it is in use; say whether that was done."""


class Awake:
    """Has those rest that were used least of late. `most_open` is how many there may be, awake or not.

    *Units*: `limit` descriptors, of the whole process.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        room = limit - min(KEPT, limit // 8)
        self.most_awake = max(1, room // (2 * MOST))
        self.most_open = room - (MOST - 1) * self.most_awake
        self._awake: OrderedDict[Sleeper, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._awake)

    def use(self, blob: Sleeper) -> None:
        """Note that one is awake and used now."""
        self._awake[blob] = None
        self._awake.move_to_end(blob)
        if len(self._awake) > self.most_awake:
            self._let_one_rest()

    def forget(self, blob: Sleeper) -> None:
        """Note that one was closed."""
        self._awake.pop(blob, None)

    def _let_one_rest(self) -> None:
        for _ in range(TRIED):
            blob = next(iter(self._awake))
            if blob.rest():
                del self._awake[blob]
                return
            self._awake.move_to_end(blob)
