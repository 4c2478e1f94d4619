"""The images of a session: where each is mounted, what is shown of it, and what its layers are.

    NAME/manifest.json, config.json, index.json        the documents themselves; no index, no index.json
    NAME/blobs/sha256/HEX                              config and layers: known by digest and size, fetched when read

Both directories are listed like those of web servers, at URLs that are references (`oci://...`, and `oci://...#blobs`),
so names come and go, are asked for again, and are there without the registry as theirs are. When a tag has moved, all
directories of the image are listed anew.

The images are in `Images.mounted`; their layers, which take a request, are asked for with `layers`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

import trio

from lazyfs.entries import Entry, Kind, Refusal
from lazyfs.errors import LazyfsError, SourceError
from lazyfs.listings import LIST_AGAIN
from lazyfs.shared import Shared
from lazyfs.sources.image import Document, Image
from lazyfs.sources.reference import SCHEME, parse_reference
from lazyfs.sources.registry import Registries
from lazyfs.sources.spec import Source
from lazyfs.tree import Directory
from lazyfs.versions import Known, Version
from lazyfs.vfs import Vfs

log = logging.getLogger(__name__)

_BLOBS: Final = "#blobs"


class Images:
    """The images of a session. `nursery` runs what is done behind.

    `on_change` is called with the path of an image that has been added, or is another one now. `fresh_for`
    is that of the settings.
    """

    def __init__(
        self,
        vfs: Vfs,
        registries: Registries,
        nursery: trio.Nursery,
        fresh_for: float,
    ) -> None:
        self.on_change: Callable[[str], None] = lambda path: None
        self._vfs = vfs
        self._registries = registries
        self._nursery = nursery
        self._fresh_for = max(fresh_for, LIST_AGAIN)
        self._mounted: dict[str, Image] = {}
        self._asking = Shared[Image](nursery)
        self._known: dict[str, tuple[float, Image]] = {}  # by reference: when it was asked for, by trio's clock

    @property
    def mounted(self) -> dict[str, Image]:
        """The images as they are now, by their paths under the mount: "" for the mount itself."""
        return {path: image for path, image in self._mounted.items() if self._directory(path, image) is not None}

    async def add(self, source: Source) -> str:
        """Take an image in, and return its path. *Raises*: OriginError, SourceError: then nothing of it is left."""
        tree, path = self._vfs.tree, source.name
        there = tree.find(path)
        if isinstance(there, Directory) and any(url.startswith(SCHEME) and url != source.place for url in there.urls):
            raise SourceError(f"{source.shown}: another image is there already; give it a name: NAME={source.place}")
        directory = tree.add(Entry(path, Kind.DIRECTORY)) if path else tree.root
        if not isinstance(directory, Directory):
            raise SourceError(f"{source.shown}: the name {path} is taken; give it another, as in NAME=oci://…")
        if source.place not in directory.urls:
            directory.urls.append(source.place)
        try:
            await self._vfs.listings.refresh(directory, source.place, patient=False)
            self._note(path, source.place)
        except BaseException:
            if path not in self._mounted:
                directory.urls.remove(source.place)
                if there is None:
                    self._vfs.take_away(directory)
            raise
        return path

    async def listed(self, url: str, *, kept: bool = False) -> list[Entry | Refusal]:
        """Return what is in a directory of an image, whose URL this is; `kept`: as it was when it was last asked for.

        *Raises*: OriginError, SourceError.
        """
        place = url.removesuffix(_BLOBS)
        if kept:
            self._known[place] = -math.inf, await self._registries.kept(parse_reference(place))
        at, image = self._known.get(place, (-math.inf, None))
        if image is None or (not kept and trio.current_time() - at >= self._fresh_for):
            image = await self._asking.do(place, lambda: self._ask(place))
        return _blobs_of(image) if url.endswith(_BLOBS) else _documents_of(image)

    async def _ask(self, place: str) -> Image:
        image = await self._registries.image(parse_reference(place))
        _, before = self._known.get(place, (0.0, None))
        self._known[place] = trio.current_time(), image
        if before is not None and before.named.digest != image.named.digest:
            log.info("%s leads to another image now", place)
            for path, mounted in self.mounted.items():
                if mounted.reference == place:
                    self._note(path, place)
                    self._nursery.start_soon(self._list_again, path)
        return image

    def _directory(self, path: str, image: Image) -> Directory | None:
        node = self._vfs.tree.find(path)
        return node if isinstance(node, Directory) and image.reference in node.urls else None

    async def _list_again(self, path: str) -> None:
        for below in (path, f"{path}/blobs/sha256"):
            directory = self._vfs.tree.find(below)
            if isinstance(directory, Directory):
                try:
                    await self._vfs.listings.refresh(directory, patient=False)
                except LazyfsError as exc:
                    log.info("could not list again: %s", exc)

    def _note(self, path: str, place: str) -> None:
        self._mounted[path] = self._known[place][1]
        self.on_change(path)


def _documents_of(image: Image) -> list[Entry | Refusal]:
    found: list[Entry | Refusal] = [_document(image, "manifest.json", image.manifest)]
    if image.index is not None:
        found.append(_document(image, "index.json", image.index))
    found.append(_blob(image, image.config.digest, image.config.size, "config.json"))
    found.append(Entry("blobs/sha256", Kind.DIRECTORY, url=image.reference + _BLOBS))
    return found


def _blobs_of(image: Image) -> list[Entry | Refusal]:
    config = _blob(image, image.config.digest, image.config.size)
    layers = {layer.digest: _blob(image, layer.digest, layer.size, mirrors=layer.urls[1:]) for layer in image.layers}
    return [config, *(entry for digest, entry in layers.items() if digest != image.config.digest)]


def _document(image: Image, name: str, document: Document) -> Entry:
    url, size = f"{image.base}manifests/{document.digest}", len(document.content)
    known = Known(url, Version(size), head=document.content, checked_at=math.inf)
    return Entry(name, url=url, size=size, digest=document.digest, known=known)


def _blob(image: Image, digest: str, size: int, name: str = "", mirrors: tuple[str, ...] = ()) -> Entry:
    url = image.blob_url(digest)
    known = Known(url, Version(size), checked_at=math.inf)
    return Entry(
        name or digest.removeprefix("sha256:"), url=url, mirrors=mirrors, size=size, digest=digest, known=known
    )
