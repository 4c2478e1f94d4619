"""How long to wait before an origin is asked again.  Pure but for the dice."""

from __future__ import annotations

import random
from typing import Final

FIRST: Final = 0.1
LARGEST: Final = 5.0

OBEYED: Final = 60.0
"""Seconds of a Retry-After that are obeyed at the most: who waits longer has no reader left."""


class Backoff:
    """Exponential back-off with jitter.

    *Source*: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("equal jitter").
    """

    def __init__(self) -> None:
        self.tries = 0

    def after_failure(self, retry_after: float | None) -> float:
        """Return the seconds to wait after one more failure; the origin's own wish counts as the least."""
        self.tries += 1
        ceiling = min(LARGEST, FIRST * 2 ** min(self.tries - 1, 16))
        wait = random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spreads load, hides nothing
        return max(wait, min(retry_after or 0.0, OBEYED))

    def after_progress(self) -> None:
        """Begin anew: something was received."""
        self.tries = 0
