"""The blocks of a blob that have failed a moment ago, and how: who asks for one again hears the same at once.

The kernel asks for the pages of a failed request one by one, and each would otherwise wait for a deadline of its own.
"""

from __future__ import annotations

import logging
import math

import trio

from lazyfs.errors import LazyfsError
from lazyfs.versions import BlobId

log = logging.getLogger(__name__)


class Failures:
    """Those of one blob. *Units*: `lasts` seconds, from when a block has failed last."""

    def __init__(self, blob_id: BlobId, lasts: float) -> None:
        self._blob_id = blob_id
        self._lasts = lasts
        self._failed: dict[int, tuple[float, LazyfsError]] = {}  # until when, and how

    def noted(self, index: int, error: LazyfsError) -> LazyfsError:
        """Note that a block has failed, and return the error."""
        now = trio.current_time()
        self._failed = {other: noted for other, noted in self._failed.items() if noted[0] > now}
        if index not in self._failed:
            log.warning("blob %s, block %d: %s", self._blob_id, index, error)
        self._failed[index] = (now + self._lasts, error)
        return error

    def refuse(self, index: int) -> None:
        """Fail if a block has failed lately. *Raises*: what it failed with."""
        until, error = self._failed.get(index, (-math.inf, None))
        if error is not None and trio.current_time() < until:
            raise error.with_traceback(None)

    def clear(self) -> None:
        """Forget all of them: what failed may go well now."""
        self._failed.clear()
