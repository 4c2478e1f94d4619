"""How fast an origin delivers, measured from what comes.  Pure: time is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KEPT: Final = 1.0
"""Seconds of receiving after which what came before counts half."""

LEAST: Final = 1024 * 1024
"""Bytes without which nothing is known of a rate."""


@dataclass(frozen=True, slots=True)
class Pace:
    """*Units*: `rate` bytes a second, over all connections; `latency` seconds until an answer begins, at the least."""

    rate: float
    latency: float


class Meter:
    """Counts what an origin delivers, and the time in which something was under way from it."""

    def __init__(self) -> None:
        self._receiving = 0
        self._since = 0.0  # when the first of those that are receiving began, or the last of them was heard
        self._seconds = 0.0
        self._bytes = 0.0

    def begin(self, now: float) -> None:
        """Note that somebody waits for bytes of a body."""
        if not self._receiving:
            self._since = now
        self._receiving += 1

    def end(self, count: int, now: float) -> None:
        """Note that so many have come, for one who has waited."""
        self._receiving -= 1
        self._seconds += now - self._since
        self._since = now
        self._bytes += count
        if self._seconds > 2 * KEPT and self._bytes > 2 * LEAST:
            self._seconds /= 2
            self._bytes /= 2

    @property
    def rate(self) -> float | None:
        """Bytes a second; None while too little has come."""
        return self._bytes / self._seconds if self._bytes >= LEAST and self._seconds > 0 else None
