"""Room for blocks that have not come yet: reserved before they are put in place, and counted after.

It is what can be had at once. To wait for another process, or to evict, is for when the blocks have landed: what there
is no room for is received all the same, and put in place then.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from lazyfs.errors import StoreError
from lazyfs.extents import Extent
from lazyfs.store.blobfile import BlobFile
from lazyfs.store.quota import QuotaKeeper


class Room:
    """Room for the first blocks of a run; inside it they may be put in place, and `used` says how many were.

    *Locks*: theirs, held meanwhile.
    """

    def __init__(self, quota: QuotaKeeper, file: BlobFile, run: Extent, *, taken: bool) -> None:
        self.used = 0
        self.place: Final = (*file.place_of(run.start), len(run))
        self._quota = quota
        self._file = file
        self._run = run
        self._taken = taken  # whether the store takes blocks at all

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _exc: object, _traceback: TracebackType | None) -> None:
        """Settle it. Blocks on the disk."""
        used = Extent(self._run.start, self._run.start + self.used)
        length = len(self._file.geometry.bytes_of(used))
        self._quota.written(length)
        self._quota.unused(len(self._file.geometry.bytes_of(self._run)) - length)
        if used:
            self._file.note_arrival(used, self._quota.clock, self._quota.room)
        if self._taken:
            with suppress(OSError, StoreError):  # whoever puts a block in place meets it as well
                self._quota.restock()
