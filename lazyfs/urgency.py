"""What a fetch is for.  Pure."""

from __future__ import annotations

import enum


class Urgency(enum.IntEnum):
    """Who waits for it: somebody now, a reader soon, or nobody yet. The lower, the sooner."""

    DEMAND = 0
    READAHEAD = 1
    PREFETCH = 2
