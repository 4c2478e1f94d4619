"""What an image's index, manifest and config say.  Pure.

    index ── one manifest for each platform
    manifest ── config: a blob ── the uncompressed layers' digests, in order
             └─ layers: blobs, the lowest first

Each is JSON that is named by the digest of its very bytes, so what is shown and kept is those bytes. What a registry
says it is (Content-Type) counts, then what it says itself, then what it looks like.

*Source*: OCI image-spec v1.1, image-index.md, manifest.md, config.md, descriptor.md and media-types.md; Docker image
manifest version 2, schema 2.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lazyfs import urls
from lazyfs.errors import SourceError
from lazyfs.layers.layer import Layer
from lazyfs.sizes import SIZE_MAX
from lazyfs.sources.platforms import Platform, choose

DOCUMENT_MAX: Final = 4 * 1024 * 1024
"""Bytes in a manifest or an index: what registries have to take, and most take no more."""

_DOCKER: Final = "application/vnd.docker."
_OCI: Final = "application/vnd.oci.image."

_INDEXES: Final = (f"{_OCI}index.v1+json", f"{_DOCKER}distribution.manifest.list.v2+json")
_MANIFESTS: Final = (f"{_OCI}manifest.v1+json", f"{_DOCKER}distribution.manifest.v2+json")
_CONFIGS: Final = (f"{_OCI}config.v1+json", f"{_DOCKER}container.image.v1+json")
_LAYER: Final = re.compile(
    rf"{re.escape(_OCI)}layer\.(?:nondistributable\.)?v1\.tar(?:\+[a-z0-9.]+)?"
    rf"|{re.escape(_DOCKER)}image\.rootfs\.(?:foreign\.)?diff\.tar(?:[.+][a-z0-9.]+)?"
)

ACCEPT: Final = ", ".join((*_INDEXES, *_MANIFESTS))
"""What is asked for."""


@dataclass(frozen=True, slots=True)
class Document:
    """An index or a manifest, as it was sent; `digest` is `sha256:HEX` of `content`."""

    digest: str
    content: bytes = field(repr=False)
    media_type: str = ""

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Document:
        """Name it by what it is."""
        return cls(f"sha256:{hashlib.sha256(content).hexdigest()}", content, media_type)

    @property
    def is_index(self) -> bool:
        """Whether it is an index. *Raises*: SourceError, when it is not that, nor a manifest."""
        said = self.media_type.partition(";")[0].strip().lower()
        if said in _INDEXES or said in _MANIFESTS:
            return said in _INDEXES
        content = _object(self.content, "it is no manifest")
        if "manifest.v1+" in said or content.get("schemaVersion") == 1:
            raise SourceError("it is in Docker's schema 1, which says too little of its layers: push it again")
        own = content.get("mediaType")
        if own in _INDEXES or own in _MANIFESTS:
            return own in _INDEXES
        if own is None and content.get("schemaVersion") == 2 and isinstance(content.get("manifests"), list):
            return True
        if own is None and content.get("schemaVersion") == 2 and isinstance(content.get("layers"), list):
            return False
        raise SourceError(f"it is no manifest, but {_shown(own or said or 'something else')}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What names a blob: digest (`sha256:HEX`), size in bytes, media type."""

    digest: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image, by its manifest. `base` is the URL of its repository, with a slash at its end.

    `layers` are the lowest first.
    """

    reference: str
    base: str
    index: Document | None
    manifest: Document
    config: Descriptor
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str]

    @property
    def named(self) -> Document:
        """What the reference leads to: the index, or the manifest where there is none."""
        return self.index or self.manifest

    def blob_url(self, digest: str) -> str:
        """Return where the registry has a blob of this image."""
        return f"{self.base}blobs/{digest}"


def pick(index: Document, wanted: Platform) -> Descriptor:
    """Return the manifest of an index that is for a platform. *Raises*: SourceError, which names those there are."""
    images = []
    for entry in _list(_object(index.content, "its index"), "manifests"):
        if not isinstance(entry, dict) or entry.get("mediaType") not in (*_MANIFESTS, None):
            continue
        said = entry.get("platform")
        said = said if isinstance(said, dict) else {}
        names = [said.get(key, "") for key in ("os", "architecture", "variant")]
        if all(isinstance(name, str) for name in names) and names[0] != "unknown":  # as attestations say
            images.append((Platform(*names), entry))
    chosen = choose(images, wanted)
    if chosen is None:
        there = ", ".join(dict.fromkeys(_shown(str(had)) for had, _ in images[:20])) or "none"
        raise SourceError(f"it has no image for {wanted}; there is: {there}")
    return _descriptor(chosen, "a manifest of its index")


def read_image(reference: str, base: str, index: Document | None, manifest: Document) -> Image:
    """Read a manifest. *Raises*: SourceError: it is none, or that of an artifact which is no image."""
    if manifest.is_index:
        raise SourceError("its index leads to another index, not to a manifest")
    content = _object(manifest.content, "its manifest")
    config = _descriptor(content.get("config"), "its config")
    kind = content.get("artifactType") or config.media_type
    if config.media_type not in _CONFIGS:
        raise SourceError(f"it is an artifact ({_shown(kind)}), not an image")
    layers = tuple(_layer(entry, f"its layer {n}", base) for n, entry in enumerate(_list(content, "layers"), 1))
    sizes = {config.digest: config.size}
    for layer in layers:
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise SourceError(f"its manifest gives two sizes for {layer.digest}")
    return Image(reference, base, index, manifest, config, layers, _texts(content.get("annotations")))


def _layer(entry: Any, what: str, base: str) -> Layer:
    found = _descriptor(entry, what)
    if not _LAYER.fullmatch(found.media_type):
        raise SourceError(f"{what} is {_shown(found.media_type)}, not that of an image")
    said = entry.get("urls")
    elsewhere = [url for url in said if isinstance(url, str) and _can_be_asked(url)] if isinstance(said, list) else []
    where = dict.fromkeys((f"{base}blobs/{found.digest}", *elsewhere))
    return Layer(found.digest, found.size, found.media_type, tuple(where), _texts(entry.get("annotations")))


def _can_be_asked(url: str) -> bool:
    return urls.is_http(url) and url.isascii() and urls.target(url) is not None


def _descriptor(entry: Any, what: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise SourceError(f"{what} is not described")
    digest, size, media_type = (entry.get(key) for key in ("digest", "size", "mediaType"))
    if isinstance(digest, str) and not digest.startswith("sha256:"):
        raise SourceError(f"{what} has a digest other than sha256: {_shown(digest)}")
    if not _is_digest(digest):
        raise SourceError(f"{what} has no digest")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= SIZE_MAX:
        raise SourceError(f"{what} has no size")
    return Descriptor(str(digest), size, media_type if isinstance(media_type, str) else "")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("sha256:[0-9a-f]{64}", value) is not None


def _object(content: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SourceError(f"{what}: not a JSON object")
    return found


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    found = content.get(key)
    if not isinstance(found, list):
        raise SourceError(f"its manifest has no {key}")
    return found


def _texts(value: Any) -> dict[str, str]:
    """Return annotations, those that are text."""
    found = value if isinstance(value, dict) else {}
    return {key: text for key, text in found.items() if isinstance(text, str)}


def _shown(text: Any) -> str:
    """Return what a stranger wrote, on one line and not too long."""
    return ascii(str(text)[:100])[1:-1]
