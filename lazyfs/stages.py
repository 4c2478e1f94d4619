"""What a fetch is at, and since when: what those wait for who wait for it.  Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

KEPT: Final = 64
"""Stages that are remembered of one fetch."""


class Why(StrEnum):
    """What a reader may wait for."""

    FIRST_BYTE = "first_byte"  # of the origin's answer
    BODY = "body"  # of that
    LOCK = "lock"  # another process has it, and fetches
    RETRY = "retry"
    UNPACKING = "unpacking"
    DISK = "disk"


class Stages:
    """The stages of a fetch, the last one that it is in. *Units*: seconds, on one clock."""

    def __init__(self, now: float) -> None:
        self._entered: deque[tuple[float, Why, str]] = deque([(now, Why.FIRST_BYTE, "")], KEPT)

    def enter(self, why: Why, now: float, fault: str = "") -> None:
        """Note that a stage begins; a retry, after which fault."""
        self._entered.append((now, why, fault))

    def between(self, start: float, stop: float) -> Iterator[tuple[Why, float, str]]:
        """Yield the stages that some time fell into, the last one first: how long each was, and its fault."""
        for entered, why, fault in reversed(self._entered):
            if stop > entered:
                yield why, stop - max(start, entered), fault
            stop = min(stop, entered)
            if stop <= start:
                return
