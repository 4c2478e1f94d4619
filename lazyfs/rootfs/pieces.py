"""From packed pieces of layers to the bytes of files: unpacked once for all who read, checked, and kept for a while.

    piece ── unpacked of late? ── answer
                 │ no
              read its packed bytes, of the layer's blob ── unpack, in a worker thread ── its digest? ── answer

What is read of a layer is in the store, where its blocks are checked as every blob's are; what is unpacked is only in
memory, and checked against the digest that the layer's table of contents gives it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import trio

from lazyfs.blob import FAILED_FOR
from lazyfs.errors import LayerError
from lazyfs.failures import Failures
from lazyfs.layers import expanding
from lazyfs.layers.layer import Layer
from lazyfs.layers.members import Piece
from lazyfs.rootfs.openlayers import OpenLayers
from lazyfs.shared import Shared

KEPT: Final = 16 * 1024 * 1024
"""Bytes of unpacked pieces in memory: four of the size that eStargz has them in."""

LARGEST: Final = 64 * 1024 * 1024
"""Bytes of one piece, packed or unpacked: what is larger is no table of contents that anybody wrote in earnest."""

_Key = tuple[str, int, int]


class Pieces:
    """Unpacks the pieces of all layers of a process."""

    def __init__(self, layers: OpenLayers, nursery: trio.Nursery) -> None:
        self._layers = layers
        self._unpacking = Shared[bytes](nursery)
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._damaged = Failures[_Key](FAILED_FOR)
        self._bytes = 0  # the sum of their lengths; at most KEPT after each call, or one piece

    async def content(self, layer: Layer, piece: Piece) -> bytes:
        """Return what a packed piece holds, checked against its digest.

        *Raises*: LayerError; as `Blob.read`. *Cancellation*: at any time; who else waits for it goes on.
        """
        key = layer.digest, piece.at, piece.skip
        content = self._kept.get(key)
        if content is not None:
            self._kept.move_to_end(key)
            return content
        self._damaged.refuse(key)
        return await self._unpacking.do(f"{key}", lambda: self._unpack(layer, piece, key))

    async def _unpack(self, layer: Layer, piece: Piece, key: _Key) -> bytes:
        if max(piece.length, piece.stored, piece.skip) > LARGEST:
            raise LayerError(f"layer {layer.digest}: a piece of {max(piece.length, piece.stored, piece.skip)} bytes")
        packed = await self._layers.read(layer, piece.at, piece.stored)
        try:
            content = await trio.to_thread.run_sync(expanding.content, piece, packed)
        except LayerError as exc:
            error = LayerError(f"layer {layer.digest}, at byte {piece.at}: {exc}")
            raise self._damaged.noted(key, error) from None
        self._kept[key] = content
        self._bytes += len(content)
        while self._bytes > KEPT and len(self._kept) > 1:
            self._bytes -= len(self._kept.popitem(last=False)[1])
        return content
