"""What has failed a moment ago, by block or by piece, and how: who asks for it again hears the same at once.

The kernel asks for the pages of a failed request one by one, and each would otherwise wait for a deadline of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import trio

from lazyfs.errors import LazyfsError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


class Failures(Generic[K]):
    """Those of one kind of thing, of which the log says `where` it is, if the error does not.

    *Units*: `lasts` seconds, from when one has failed last.
    """

    def __init__(self, lasts: float, where: Callable[[K], str] = lambda key: "") -> None:
        self._lasts = lasts
        self._where = where
        self._failed: dict[K, tuple[float, LazyfsError]] = {}  # until when, and how

    def noted(self, key: K, error: LazyfsError) -> LazyfsError:
        """Note that something has failed, and return the error."""
        now = trio.current_time()
        self._failed = {other: noted for other, noted in self._failed.items() if noted[0] > now}
        if key not in self._failed:
            log.warning("%s%s", self._where(key), error)
        self._failed[key] = (now + self._lasts, error)
        return error

    def refuse(self, key: K) -> None:
        """Fail if something has failed lately. *Raises*: what it failed with."""
        until, error = self._failed.get(key, (-math.inf, None))
        if error is not None and trio.current_time() < until:
            raise error.with_traceback(None)

    def clear(self) -> None:
        """Forget all of them: what failed may go well now."""
        self._failed.clear()
