"""What an origin was asked for and what came of it, as numbers.  Pure.

They grow while requests are under way, and are read when somebody looks (metrics.py, states.py): all that a request
pays for them is a few additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from lazyfs.errors import LazyfsError, kind_of

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: the upper ends of the buckets in which answers are counted by how long they took to begin."""


@dataclass(slots=True)
class Tally:
    """The numbers of one origin, or of several together.

    An outcome is the class of an HTTP status, such as `2xx`, or why there was none; a fault is the kind of an error.
    *Units*: bytes of bodies; seconds, the sum over all answers.
    """

    received: int = 0
    seconds: float = 0.0
    begun: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))  # by bucket, the last without an end
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def answered(self, status: int, seconds: float) -> None:
        """Count an answer, and how long it took to begin."""
        self.outcomes[f"{status // 100}xx" if 100 <= status < 600 else "other"] += 1
        self.begun[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def unanswered(self, reason: BaseException) -> None:
        """Count a request that got no answer; what is no error of ours is whoever wanted it having left."""
        if isinstance(reason, LazyfsError):
            self.outcomes[kind_of(reason)] += 1
            self.faulted(reason)
        else:
            self.outcomes["cancelled"] += 1

    def faulted(self, error: LazyfsError) -> None:
        """Count a fault."""
        self.faults[kind_of(error)] += 1

    def add(self, other: Tally) -> None:
        """Take in the numbers of another one."""
        self.received += other.received
        self.seconds += other.seconds
        self.begun = [mine + more for mine, more in zip(self.begun, other.begun, strict=True)]
        self.outcomes.update(other.outcomes)
        self.faults.update(other.faults)
