"""What is in a layer, and where: from the store, from its table of contents, or from one pass over all of it.

    members ── kept in the catalogue? ── yes
                  │ no
               its last bytes say that it has a table of contents (eStargz, zstd:chunked)? ── read that
                  │ no
               a plain tar: its headers; a compressed one: all of it, which also says how to unpack a part of it

What was found is kept in the catalogue, by the layer's digest: a layer never changes.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from lazyfs.blob import Blob
from lazyfs.errors import LayerError
from lazyfs.layers import estargz, packed, tar, toc, zstdchunked
from lazyfs.layers.layer import Layer
from lazyfs.layers.members import Member, Packing
from lazyfs.rootfs.openlayers import OpenLayers
from lazyfs.rootfs.reader import LayerReader
from lazyfs.rootfs.unpacking import Stream, first_pass, packing_of
from lazyfs.shared import Shared
from lazyfs.store import Store

log = logging.getLogger(__name__)

TAIL: Final = max(estargz.FOOTER, zstdchunked.FOOTER)
"""Bytes at the end of a layer that say whether it has a table of contents."""

HEADERS: Final = 64 * 1024
"""Bytes that are read of a plain tar at a time: only its headers are wanted."""


class Tables:
    """The tables of contents of all layers of a process; `nursery` runs the passes."""

    def __init__(self, store: Store, layers: OpenLayers, nursery: trio.Nursery) -> None:
        self._store = store
        self._layers = layers
        self._reading = Shared[tuple[list[Member], Stream | None]](nursery)
        self._streams: dict[str, Stream] = {}  # without what takes much room

    async def kept(self, layer: Layer) -> list[Member] | None:
        """Return what is in a layer if that is kept; asks nobody."""
        body = self._store.catalogue.listing(_key(layer, "members"))
        if body is None:
            return None
        try:
            return await trio.to_thread.run_sync(packed.unpack, body)
        except LayerError as exc:
            log.info("layer %s: what is kept of it is of no use: %s", layer.digest, exc)
            return None

    async def members(self, layer: Layer) -> list[Member]:
        """Return what is in a layer. *Raises*: LayerError; as `Blob.read`. *Cancellation*: at any time."""
        members = await self.kept(layer)
        return (await self._read_once(layer))[0] if members is None else members

    async def stream(self, layer: Layer) -> Stream:
        """Return what is known of a layer's uncompressed stream, perhaps without its index. *Raises*: as `members`."""
        stream = self._streams.get(layer.digest)
        return await self.whole_stream(layer) if stream is None else stream

    async def whole_stream(self, layer: Layer) -> Stream:
        """Return what is known of a layer's uncompressed stream. *Raises*: as `members`."""
        body = self._store.catalogue.listing(_key(layer, "stream"))
        stream = None if body is None else await trio.to_thread.run_sync(Stream.unpack, body)
        if stream is None:
            _, stream = await self._read_once(layer)
        if stream is None:
            raise LayerError(f"layer {layer.digest}: it has a table of contents, but is to be read as a plain tar")
        self._streams[layer.digest] = stream.light
        return stream

    async def _read_once(self, layer: Layer) -> tuple[list[Member], Stream | None]:
        return await self._reading.do(layer.digest, partial(self._read, layer))

    async def _read(self, layer: Layer) -> tuple[list[Member], Stream | None]:
        try:
            members, stream = await self._from_table(layer), None
            if members is None:
                async with self._layers.packed(layer) as blob:
                    members, stream = await self._from_tar(layer, blob)
        except LayerError as exc:
            raise LayerError(f"layer {layer.digest}: {str(exc).removeprefix(f'layer {layer.digest}: ')}") from None
        self._keep(layer, "members", await trio.to_thread.run_sync(packed.pack, members))
        if stream is not None:
            self._keep(layer, "stream", await trio.to_thread.run_sync(stream.pack))
        return members, stream

    async def _from_table(self, layer: Layer) -> list[Member] | None:
        """Read a layer's table of contents; None when it has none. *Raises*: LayerError."""
        size, notes = layer.size, layer.annotations
        place = zstdchunked.toc_place(notes, size)
        if place is None:
            tail = await self._layers.read(layer, max(0, size - TAIL), TAIL)
            extent = estargz.toc_extent(tail[-estargz.FOOTER :], size)
            if extent is not None:
                content = await self._read_table(layer, *extent)
                return await trio.to_thread.run_sync(_estargz, content, extent[0], notes.get(estargz.TOC_DIGEST))
            place = zstdchunked.footer_place(tail, size)
        if place is None:
            return None
        content = await self._read_table(layer, place.offset, place.length)
        return await trio.to_thread.run_sync(_chunked, content, place, notes.get(zstdchunked.CHECKSUM))

    async def _read_table(self, layer: Layer, offset: int, length: int) -> bytes:
        if length > toc.TOC_MAX:
            raise LayerError(f"its table of contents has {length} bytes, packed; at most {toc.TOC_MAX} are taken")
        return await self._layers.read(layer, offset, length)

    async def _from_tar(self, layer: Layer, blob: Blob) -> tuple[list[Member], Stream]:
        """Read all the headers of a layer's tar. *Raises*: LayerError."""
        packing = packing_of(await blob.read(0, 4))
        log.info("layer %s has no table of contents: all of it is read once", layer.digest)
        return await trio.to_thread.run_sync(_scan, blob, packing, f"layer {layer.digest}")

    def _keep(self, layer: Layer, what: str, body: bytes) -> None:
        self._store.behind.note(partial(self._store.catalogue.remember_listing, _key(layer, what), body))


def _estargz(content: bytes, at: int, digest: str | None) -> list[Member]:
    return estargz.members(estargz.table(content, digest), at)


def _chunked(content: bytes, place: zstdchunked.Place, checksum: str | None) -> list[Member]:
    return zstdchunked.members(zstdchunked.table(content, place, checksum), place)


def _scan(blob: Blob, packing: Packing, shown: str) -> tuple[list[Member], Stream]:
    """Read a tar in a worker thread."""
    if packing is Packing.PLAIN:
        return list(tar.members(LayerReader(blob, HEADERS))), Stream(Packing.PLAIN, blob.geometry.size)
    file = first_pass(LayerReader(blob), blob.geometry.size, packing, shown)
    members = list(tar.members(file))
    return members, file.finish()


def _key(layer: Layer, what: str) -> str:
    """Return the name under which the catalogue keeps something of a layer; where it may be had is no part of it."""
    return f"layer://{layer.digest.removeprefix('sha256:')}/{what}"
