"""Receiving in C (filling.h), where that was built: one call of it, and how far it has come."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

try:
    from lazyfs.native import receiver as _receiver
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = not os.environ.get("LAZYFS_RECEIVE_IN_PYTHON")  # for tests of what is done without it

Place = tuple[int, int, int]
"""Where blocks belong: a file, an offset in it, and for how many of them there is room."""

Receive = Callable[[list[bytearray], int, float, int, Place, bytearray], int]
"""A peer's, in C. It is called by `Reception.run`."""

MOST: Final = 64
"""Blocks in one call at the most."""

_CAME, _WHOLE, _PUT, _SPENT, _CHECKSUMS = range(5)  # struct progress


class Reception:
    """The filling of blocks, of the first of which `begun` bytes are in place. *Units*: bytes, seconds.

    All but `whole` is only of use once `run` has returned.
    """

    def __init__(self, blocks: Sequence[bytearray], begun: int) -> None:
        self._blocks = list(blocks[:MOST])
        self._begun = begun
        self._shared = bytearray(8 * (_CHECKSUMS + MOST))
        self._progress = memoryview(self._shared).cast("Q")
        self._progress[_CAME] = begun

    def run(self, receive: Receive, most: int, seconds: float, bell: int, place: Place) -> int:
        """Receive `most` bytes at the most for about so long, and return an errno: 0 at their end, or the peer's.

        `bell` is an eventfd that is rung for blocks that are whole, or -1. Blocks without Python's lock, on the peer,
        whose socket has to block and to time out, and on the disk.
        """
        return receive(self._blocks, most, seconds, bell, place, self._shared)

    @property
    def whole(self) -> int:
        """How many blocks are; may be asked from any thread at any time."""
        return self._progress[_WHOLE]

    @property
    def came(self) -> int:
        """How many bytes have come."""
        return self._progress[_CAME] - self._begun

    @property
    def checksums(self) -> list[int]:
        """Those of the blocks that were put in place: the first ones, and not all, where the disk did not take one."""
        return self._progress[_CHECKSUMS : _CHECKSUMS + self._progress[_PUT]].tolist()

    @property
    def spent(self) -> float:
        """How long it took to put them there."""
        return self._progress[_SPENT] / 1e9


def from_socket(socket: int) -> Receive | None:
    """Return what receives from a socket; None where it was not built."""
    return partial(_receiver.receive, socket) if AVAILABLE else None
