"""A bound on the rate at which an origin's bytes are taken.  Pure: time is passed in.

What is taken is taken in pieces, each paid for before: so however many connections there are, together they keep to it.
"""

from __future__ import annotations

import math
from typing import Final

PIECE_FOR: Final = 0.125
"""Seconds that a piece is worth."""

LEAST: Final = 4096
"""Bytes of a piece at the least."""


class Throttle:
    """*Units*: `rate` bytes a second; times in seconds."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.piece = max(LEAST, int(rate * PIECE_FOR))
        self._paid_until = -math.inf

    def wait(self, now: float) -> float:
        """Return for how long nothing more may be taken."""
        return max(0.0, self._paid_until - now)

    def take(self, now: float) -> int:
        """Pay for a piece, and return how many bytes it is."""
        self._paid_until = max(self._paid_until, now) + self.piece / self.rate
        return self.piece

    def give_back(self, count: int) -> None:
        """Take back what of a piece did not come."""
        self._paid_until -= count / self.rate
