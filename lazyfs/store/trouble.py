"""Whether the disk takes blocks at all: after some errors it is left alone for a while, and reads go on without it.

well ── ERRORS errors without a success between them ──> degraded, at rest ── PAUSE ──> degraded, tried again
  ^                                                          ^                                │      │
  │                                                          └──────────── an error ──────────┘      │
  └──────────────────────────────────────── a block is put in place ─────────────────────────────────┘
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

ERRORS: Final = 3
"""Errors without a success between them, after which the store is degraded."""

PAUSE: Final = 30.0
"""Seconds for which a degraded store is not written to."""


class Trouble:
    """What went wrong with the store's disk of late. Its methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._errors = 0
        self._until = 0.0
        self._said = ""  # what the log has of it; nothing of errors that pass
        self.reason = ""  # why, of the last error; empty when the disk does its work

    @property
    def degraded(self) -> bool:
        """Whether the store takes no blocks, as far as is known."""
        return self._errors >= ERRORS

    @property
    def at_rest(self) -> bool:
        """Whether the store is not to be written to for now."""
        return self.degraded and self._clock() < self._until

    def failed(self, error: Exception, *, for_certain: bool = False) -> None:
        """Note an error; one that is `for_certain` is enough, and not logged: `say` is for when there is a log."""
        words = (isinstance(error, OSError) and error.strerror) or str(error)
        with self._mutex:
            self._errors = max(self._errors + 1, ERRORS if for_certain else 0)
            self._until = self._clock() + PAUSE
            self.reason = words
            new, self._said = self.degraded and self._said != words, words if self.degraded else ""
        if new and not for_certain:
            self.say()

    def say(self) -> None:
        """Have the log say that the store is degraded, if it is."""
        if self.degraded:
            log.warning("the store cannot take blocks: %s; reads go on without it", self.reason)

    def succeeded(self) -> None:
        """Note that a block was put in place."""
        if self.reason:
            with self._mutex:
                said, self._said = self._said, ""
                self._errors, self.reason = 0, ""
            if said:
                log.warning("the store takes blocks again")
