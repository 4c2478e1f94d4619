"""Large reads that threads of the C library answer from the store, without the event loop (native/shortcut.c).

A file is offered to them with its first large read. From then on they take those of its reads that lie well inside of
what is in the store; the others come through FUSE as ever. Of each that they have answered we hear, to count it, and
those that they could not answer after all are handed back, to be answered here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from lazyfs import records
from lazyfs.blob import Blob
from lazyfs.counters import Counters
from lazyfs.errors import StoreError
from lazyfs.native import Library, Told

LEAST: Final = 128 * 1024
"""Bytes of a read that is a large one; the C library takes no smaller ones."""

MOST: Final = 16
"""Files that are offered at a time, those that were read last; the C library has room for as many."""

Answer = Callable[[int, int, int, int], Awaitable[None]]
"""Answers a read that was handed back: its id, handle, offset and size."""


class Shortcut:
    """The files that are offered, none without the C library. `answer` sees to reads that are handed back."""

    def __init__(self, library: Library | None, counters: Counters, answer: Answer) -> None:
        self._library = library
        self._counters = counters
        self._answer = answer
        self._offered: OrderedDict[int, Blob] = OrderedDict()  # by handle, those that were read last at the end
        self._nursery: trio.Nursery | None = None  # there is one exactly while files are taken

    async def serve(self) -> None:
        """Take files, until cancelled: then what was taken is answered before this returns. Else it ends at once."""
        if self._library is None or (bell := self._library.begin_shortcut()) < 0:
            return
        try:
            async with trio.open_nursery() as self._nursery:
                while True:
                    await trio.lowlevel.wait_readable(bell)
                    self._hear()
                    for handle in [handle for handle, blob in self._offered.items() if _gone(blob)]:
                        self.withdraw(handle)
        finally:
            self._nursery = None
            self._library.end_shortcut()

    def offer(self, handle: int, blob: Blob) -> None:
        """Have the large reads of an open file taken, of which one was just answered, if there is room."""
        if self._nursery is None or handle in self._offered or _gone(blob):
            return
        if len(self._offered) == MOST:
            self.withdraw(next(iter(self._offered)))
        assert self._library is not None
        with suppress(StoreError):  # its files have gone
            files, geometry = blob.file.files, blob.geometry
            place = files.data, files.map, records.MAP_HEADER_SIZE
            if self._library.offer(handle, *place, geometry.size, geometry.block_size):
                self._offered[handle] = blob

    def withdraw(self, handle: int) -> None:
        """Have them taken no more: it is about to be closed, or its bytes are not to be had any longer."""
        if handle in self._offered and self._nursery is not None:
            assert self._library is not None
            self._library.withdraw(handle)
            self._hear()
            del self._offered[handle]

    def _hear(self) -> None:
        assert self._library is not None
        assert self._nursery is not None
        for read in self._library.told():
            if read.answered:
                self._count(read)
            else:
                self._nursery.start_soon(self._answer, read.unique, read.handle, read.offset, read.size)

    def _count(self, read: Told) -> None:
        blob = self._offered.get(read.handle)
        if blob is None or blob.closed:
            return
        self._offered.move_to_end(read.handle)
        self._counters.reads += 1
        self._counters.shortcut_reads += 1
        self._counters.read_bytes += min(read.size, blob.geometry.size - read.offset)
        with suppress(StoreError):  # its files have gone: they were wrong
            blob.note_hits(blob.geometry.covering(read.offset, read.size))


def _gone(blob: Blob) -> bool:
    """Say whether a file has another blob by now, or soon: this one is wrong, or was opened anew."""
    return blob.closed or blob.mismatch is not None
