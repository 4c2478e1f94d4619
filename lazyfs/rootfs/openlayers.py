"""The blobs of layers that are open because somebody reads from an image: each once, and for a while longer.

A file of an image is read piece by piece, without anything that says when its last reader leaves: a blob is closed
when nobody has read from it for LINGER seconds. So nothing is lost with a daemon either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from lazyfs import urls
from lazyfs.blob import Blob
from lazyfs.blobs import Blobs
from lazyfs.derived import Unpack
from lazyfs.errors import DigestMismatch
from lazyfs.layers import estargz, zstdchunked
from lazyfs.layers.layer import Layer
from lazyfs.turns import Turns
from lazyfs.versions import Known, Version, blob_id_for

LINGER: Final = 30.0
"""Seconds for which a blob stays open after its last read: longer than between two steps of a container's start."""


_VOUCHED: Final = frozenset({estargz.TOC_DIGEST, zstdchunked.CHECKSUM})
"""Annotations of a layer with the digest of its table of contents."""


@dataclass(slots=True)
class _Open:
    blob: Blob
    users: int = 0
    used: float = 0.0  # trio's clock


class OpenLayers:
    """Opens the blobs of layers. `mirrors` are rules, as in urls.ways; `nursery` closes what nobody reads."""

    def __init__(self, blobs: Blobs, nursery: trio.Nursery, mirrors: Sequence[tuple[str, str]]) -> None:
        self._blobs = blobs
        self._nursery = nursery
        self._mirrors = mirrors
        self._open: dict[str, _Open] = {}
        self._opening = Turns[str]()

    def packed(self, layer: Layer) -> AbstractAsyncContextManager[Blob]:
        """Have a layer's own blob open while inside; nobody is asked what it is. *Raises*: as `Blobs.open`."""
        known = Known(layer.urls[0], Version(layer.size))
        ways = urls.ways(layer.urls[0], layer.urls[1:], self._mirrors)
        blob_id = blob_id_for(known.url, known.version, layer.digest)
        return self._reading(layer.digest, partial(self._blobs.open, blob_id, known, ways))

    async def read(self, layer: Layer, offset: int, length: int) -> bytes:
        """Return bytes of a layer's own blob for who checks them by its table of contents. *Raises*: as `Blob.read`.

        A layer that does not match its digest as a whole may have pieces that match theirs, if it is sure which those
        are: when the digest of the table that says so was in the manifest.
        """
        try:
            async with self.packed(layer) as blob:
                return await blob.read(offset, length)
        except DigestMismatch:
            if not _VOUCHED & layer.annotations.keys():
                raise
        async with self._unverified(layer) as blob:
            return await blob.read(offset, length)

    def _unverified(self, layer: Layer) -> AbstractAsyncContextManager[Blob]:
        known = Known(layer.urls[0], Version(layer.size))
        blob_id = blob_id_for(known.url, known.version, None)
        return self._reading(f"{layer.digest} unverified", partial(self._blobs.open, blob_id, known))

    def unpacked(self, layer: Layer, size: int, unpack: Unpack, *, seekable: bool) -> AbstractAsyncContextManager[Blob]:
        """Have the blob of what a layer unpacks to open while inside: another one, which only this host has.

        *Raises*: as `Blobs.open`. *Units*: `size` bytes.
        """
        known = Known(f"{layer.urls[0]}#unpacked", Version(size), ranged=seekable)
        blob_id = blob_id_for(f"{layer.digest} unpacked", known.version, None)
        return self._reading(f"{layer.digest} unpacked", partial(self._blobs.open, blob_id, known, unpack=unpack))

    @asynccontextmanager
    async def _reading(self, key: str, opener: Callable[[], Awaitable[Blob]]) -> AsyncIterator[Blob]:
        async with self._opening.of(key):
            there = self._open.get(key)
            if there is not None and (there.blob.mismatch is not None or self._blobs.worth_another_try(there.blob)):
                self._let_go(key, there)
                there = None
            if there is None:
                there = self._open[key] = _Open(await opener())
                self._nursery.start_soon(self._close_later, key, there)
            there.users += 1
        try:
            yield there.blob
        finally:
            there.users -= 1
            there.used = trio.current_time()
            if not there.users and self._open.get(key) is not there:
                self._blobs.close(there.blob)

    def _let_go(self, key: str, there: _Open) -> None:
        """Have it opened anew by the next; it is closed when its last reader has left."""
        del self._open[key]
        if not there.users:
            self._blobs.close(there.blob)

    async def _close_later(self, key: str, there: _Open) -> None:
        while self._open.get(key) is there:
            await trio.sleep(LINGER)
            if not there.users and trio.current_time() - there.used >= LINGER and self._open.get(key) is there:
                self._let_go(key, there)
