"""The leader of a flight for a blob that is made of another one: in place of an origin, that is unpacked.

Locks, looks and commits are those of every flight, so however many processes read the blob, each block of it is made
once; where a piece of it cannot be had without nearly all that comes before, it is made in one pass.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from lazyfs.assembler import Assembler
from lazyfs.extents import Extent
from lazyfs.fetch import Fetcher
from lazyfs.flight import Flight
from lazyfs.stages import Why

Unpack = Callable[[Extent], AsyncGenerator[tuple[int, bytes], None]]
"""Yields the bytes of an extent, piece by piece, and where each begins; all pieces but the last are of whole blocks."""


def fetcher_of(unpack: Unpack | None) -> Callable[..., Fetcher]:
    """Return what makes the fetcher of a blob: of one that is unpacked, or, with None, one that has an origin."""
    return Fetcher if unpack is None else partial(UnpackingFetcher, unpack)


class UnpackingFetcher(Fetcher):
    """Leads the flights of one open blob that `unpack` gives the bytes of."""

    def __init__(self, unpack: Unpack, *args: Any) -> None:
        super().__init__(*args)
        self._unpack = unpack

    async def _ask(self, flight: Flight, run: Extent) -> None:
        """Have a run of missing blocks unpacked. *Locks*: theirs, held."""
        if self.one_pass and not self._begin_pass(flight):
            return
        geometry = self._file.geometry
        extent = Extent(0, geometry.size) if self.one_pass else geometry.bytes_of(run)
        flight.at(Why.UNPACKING)
        async with aclosing(self._unpack(extent)) as pieces:
            async for start, content in pieces:
                await self._receive(flight, None, Assembler(geometry, start, content))
