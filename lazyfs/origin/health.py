"""How well origins and URLs answer: who is to be left alone for a while, and what is slow.  Pure: time is passed in.

A *key* is an origin, which fails when nobody can be connected to there, or a URL, which fails when its answers do. Both
are known only while they fail: one success and they are forgotten.

    well ── failure ──▶ failing: others are asked first, where there are others
                          │ tried in vain for as long as a read may take
                          ▼
                        broken: refused at once, so that a dead host costs a read one quick error, not its deadline
                          │ pause over (2 s, doubling to 30 s)
                          ▼
                        one is let through ── success ──▶ well
                          └── failure ──▶ broken, for the next pause

Only time in which it was tried counts: two failures an hour apart prove nothing about the hour between them.

*Source*: the circuit breaker of M. Nygard, "Release It!"; the hedge of J. Dean and L. Barroso, "The Tail at Scale",
CACM 56(2), 2013: after the 95th percentile, at most a few per cent more requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

REST: Final = 5.0
"""Seconds for which something that failed is asked only after all others."""

PAUSE_FIRST: Final = 2.0
PAUSE_LARGEST: Final = 30.0
"""Seconds between two that are let through to what is broken."""

GAP: Final = 5.0
"""Seconds between two attempts that still count as trying: the longest pause between retries."""

SAMPLES: Final = 64
"""Latencies kept for each origin."""

SAMPLES_LEAST: Final = 10
"""Latencies without which there is no percentile worth the name."""

SLOW_AT_FIRST: Final = 1.0
"""Seconds that pass for slow until then."""

SLOW_LEAST: Final = 0.25
"""Seconds below which nothing is slow: what a busy machine does to itself is not the origin's."""


@dataclass(slots=True)
class _Failing:
    last: float  # when an attempt failed last
    tried: float = 0.0  # seconds
    pause: float = PAUSE_FIRST
    until: float = 0.0  # broken: nobody is let through before
    on_trial: bool = False  # one was let through


class Health:
    """What fails. `patience` is how long something is tried in vain before it is broken. *Units*: seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience * 0.9  # a reader leaves at its deadline, just before the last attempt has failed
        self._failing: dict[Hashable, _Failing] = {}

    def succeeded(self, key: Hashable) -> None:
        """Note an answer."""
        self._failing.pop(key, None)

    def failed(self, key: Hashable, began: float, now: float) -> None:
        """Note an attempt that failed, and when it began."""
        one = self._failing.get(key)
        if one is None:
            one = self._failing[key] = _Failing(last=began)
        was_broken = self._broken(one)
        one.tried += now - max(began, one.last) + min(max(began - one.last, 0.0), GAP)
        one.last = now
        if self._broken(one) and (one.on_trial or not was_broken):  # not those that were under way when it broke
            one.pause = min(one.pause * 2, PAUSE_LARGEST) if was_broken else PAUSE_FIRST
            one.until = now + one.pause
            one.on_trial = False

    def resting(self, key: Hashable, now: float) -> bool:
        """Say whether others should be asked first."""
        one = self._failing.get(key)
        return one is not None and (self._broken(one) or now - one.last < REST)

    def refusal(self, key: Hashable, now: float) -> float | None:
        """Return for how many seconds more nobody is let through; None for whoever may try."""
        one = self._failing.get(key)
        if one is None or not self._broken(one):
            return None
        if now < one.until:
            return one.until - now
        one.until, one.on_trial = now + one.pause, True  # this one is let through, and nobody else meanwhile
        return None

    def _broken(self, one: _Failing) -> bool:
        return one.tried >= self._patience


class Latencies:
    """How long an origin takes to begin its answers. *Units*: seconds."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=SAMPLES)
        self.usual = 0.0  # 95 of 100 begin as soon; 0 while too few are known
        self.slow = SLOW_AT_FIRST  # what takes longer may be asked for twice

    @property
    def least(self) -> float:
        """The shortest of the recent ones; 0 without any."""
        return min(self._recent, default=0.0)

    def note(self, seconds: float) -> None:
        """Take one in."""
        self._recent.append(seconds)
        if len(self._recent) >= SAMPLES_LEAST:
            self.usual = sorted(self._recent)[len(self._recent) * 95 // 100]
            self.slow = max(SLOW_LEAST, self.usual)


class HedgeBudget:
    """How many requests may be sent twice: a `share` of all, and `BURST` at once at the most."""

    BURST: Final = 4.0

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = 1.0 if share else 0.0

    def earn(self) -> None:
        """Count a request."""
        self._left = min(self._left + self._share, self.BURST)

    def spend(self) -> bool:
        """Take a second one; False when there is none left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
