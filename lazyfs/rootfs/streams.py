"""The uncompressed stream of a layer: its tar, wherever a piece of it is read.

A layer that is a plain tar is that stream itself. One that is compressed as a whole, without a table of contents, has
another blob in the store, of what it unpacks to, filled like any other blob, block by block, as it is read. Its origin
is the layer's own blob, with what the first pass over that has found out. That has matched its digest when the pass is
over, so nothing is checked against the tar's own digest (the config's `diff_ids`), and no config is fetched.

    read ── block of the unpacked blob ── missing: from the point before it, unpack the layer's bytes ── commit

*Locks*: the unpacked blob's blocks are held while the layer's own are waited for, never the other way round.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from lazyfs.blob import Blob
from lazyfs.extents import Extent
from lazyfs.layers.layer import Layer
from lazyfs.layers.members import Packing
from lazyfs.rootfs.openlayers import OpenLayers
from lazyfs.rootfs.reader import LayerReader
from lazyfs.rootfs.tables import Tables
from lazyfs.rootfs.unpacking import READ, Stream, unpacked


class Streams:
    """The streams of all layers of a process."""

    def __init__(self, layers: OpenLayers, tables: Tables) -> None:
        self._layers = layers
        self._tables = tables

    @asynccontextmanager
    async def reading(self, layer: Layer) -> AsyncIterator[Blob]:
        """Have a blob open, while inside, that is a layer's uncompressed stream.

        *Raises*: LayerError; as `Blobs.open`, and as `Blob.read` where all of the layer has to be read once more.
        """
        stream = await self._tables.stream(layer)
        if stream.packing is Packing.PLAIN:
            async with self._layers.packed(layer) as blob:
                yield blob
            return
        unpack = partial(self._unpack, layer)
        async with self._layers.unpacked(layer, stream.size, unpack, seekable=stream.seekable) as blob:
            yield blob

    async def _unpack(self, layer: Layer, extent: Extent) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield what a part of a layer unpacks to, piece by piece. *Cancellation*: between pieces."""
        stream: Stream = await self._tables.whole_stream(layer)
        async with self._layers.packed(layer) as blob:
            pieces = unpacked(LayerReader(blob, READ), stream, extent, f"layer {layer.digest}")
            while (piece := await trio.to_thread.run_sync(next, pieces, None)) is not None:
                yield piece
