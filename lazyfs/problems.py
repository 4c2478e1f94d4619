"""What a mount cannot show, and why: kept for `status`, said once in the log."""

from __future__ import annotations

import logging
from typing import Final

log = logging.getLogger(__name__)

PROBLEMS_KEPT: Final = 200
"""Names that cannot be shown whose reason is kept for `status`."""


class Problems:
    """Names that cannot be shown, and why."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}  # the first PROBLEMS_KEPT of them
        self._others: set[str] = set()  # the names of the rest: each is noted again whenever it is tried again

    @property
    def count(self) -> int:
        """How many names there are."""
        return len(self.reasons) + len(self._others)

    def add(self, name: str, reason: str) -> None:
        """Note one; a later reason for the same name replaces the earlier one."""
        if name not in self.reasons:
            if len(self.reasons) >= PROBLEMS_KEPT:
                self._others.add(name)
                return
            self._others.discard(name)
            log.warning("%s: %s", name, reason)
        self.reasons[name] = reason

    def solved(self, name: str) -> None:
        """Take one back."""
        self.reasons.pop(name, None)
        self._others.discard(name)
