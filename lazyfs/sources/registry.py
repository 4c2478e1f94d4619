"""Asking registries for images, and keeping what they say.

    TAG ──► index or manifest ──► manifest for the platform      each checked against its digest
              └ asked again by HEAD                               └ kept together in the catalogue

What a digest names never changes, so it is asked for once. What a tag leads to is asked for again, by its digest alone
as long as that is the same: a GET of a manifest counts against the pulls that Docker Hub allows, a HEAD does not. It is
there as it was when the registry is not. Blobs are none of this module's: they are fetched like all others, when
somebody reads them.

*Source*: OCI distribution-spec v1.1, "Pulling manifests" and "Legacy Docker support HTTP headers"; docker docs,
"Pull usage and limits".
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final
from urllib.parse import urlencode

from lazyfs import urls
from lazyfs.errors import (
    DigestMismatch,
    OriginBadAnswer,
    OriginError,
    OriginOffline,
    OriginRefused,
    OriginUnreachable,
    SourceError,
)
from lazyfs.options import RegistryOptions
from lazyfs.origin.client import Client
from lazyfs.sources.image import ACCEPT, DOCUMENT_MAX, Document, Image, pick, read_image
from lazyfs.sources.platforms import of_this_machine, parse_platform
from lazyfs.sources.reference import Reference
from lazyfs.store import Store

log = logging.getLogger(__name__)

_HEADERS: Final = {"accept": ACCEPT}
_DIGEST: Final = "docker-content-digest"


class Registries:
    """What registries say of images. `mirrors` are those of the settings."""

    def __init__(
        self, client: Client, store: Store, options: RegistryOptions, mirrors: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._client = client
        self._store = store
        self._options = options
        self._mirrors = mirrors
        self._platform = parse_platform(options.platform) if options.platform else of_this_machine()

    async def image(self, reference: Reference) -> Image:
        """Return what a reference leads to now; what it led to, when the registry cannot be asked.

        *Raises*: OriginError, SourceError. *Cancellation*: at any time.
        """
        kept = self._kept(reference)
        if kept is not None and (reference.digest or self._client.offline):
            return kept
        if self._client.offline:
            raise OriginOffline(str(reference), "not in the store, and --offline forbids asking the registry")
        try:
            return await self._ask(reference, kept)
        except OriginError as exc:
            if kept is None or not (exc.retryable or isinstance(exc, OriginUnreachable)):
                raise
            log.warning("%s; showing the image that was kept", exc)
            return kept

    async def kept(self, reference: Reference) -> Image:
        """Return what a reference led to when it was last asked for. *Raises*: OriginUnreachable, when never."""
        image = self._kept(reference)
        if image is None:
            raise OriginUnreachable(str(reference), "it was never asked for")
        return image

    async def _ask(self, reference: Reference, kept: Image | None) -> Image:
        base = reference.base(plain_http=self._options.plain_http)
        if kept is not None and await self._digest(f"{base}manifests/{reference.wanted}") == kept.named.digest:
            return kept
        named = await self._fetch(reference, base, reference.wanted)
        with _about(reference):
            if not named.is_index:
                image = read_image(str(reference), base, None, named)
            else:
                chosen = pick(named, self._platform)
                manifest = await self._fetch(reference, base, chosen.digest)
                image = read_image(str(reference), base, named, manifest)
        body = _pack(image)
        self._store.behind.note(partial(self._store.catalogue.remember_listing, self._key(reference), body))
        return image

    async def _digest(self, url: str) -> str:
        """Return the digest that a registry says a tag has; empty when it does not say."""
        try:
            page = await self._client.fetch_document(url, 0, _HEADERS, "HEAD")
        except (OriginRefused, OriginBadAnswer):
            return ""  # it may know no HEAD; what is wrong a GET will tell
        return page.headers.get(_DIGEST, "")

    async def _fetch(self, reference: Reference, base: str, wanted: str) -> Document:
        """Return the document that a tag or a digest names."""
        errors: list[OriginError] = []
        ways = urls.ways(f"{base}manifests/{wanted}", rules=self._mirrors)
        for url in sorted(ways, key=self._client.resting):
            try:
                page = await self._client.fetch_document(url, DOCUMENT_MAX, _HEADERS)
                found = Document.of(page.content, page.headers.get("content-type", ""))
                with _about(reference):
                    _ = found.is_index  # what is none need not match
                for said in (wanted, page.headers.get(_DIGEST, "")):
                    if said.startswith("sha256:") and said != found.digest:
                        raise DigestMismatch(str(reference), f"what the registry sent is not {said}")
                return found
            except OriginRefused as exc:
                missing = OriginRefused(
                    str(reference), "the registry has no such image, or no such tag (404); check its name and tag", 404
                )
                errors.append(missing if exc.status == 404 else exc)
            except OriginError as exc:
                errors.append(exc)
        raise min(errors, key=lambda exc: not exc.retryable).with_traceback(None)

    def _kept(self, reference: Reference) -> Image | None:
        body = self._store.catalogue.listing(self._key(reference))
        if body is None:
            return None
        try:
            return _unpack(body, str(reference), reference.base(plain_http=self._options.plain_http))
        except (ValueError, KeyError, TypeError, zlib.error, SourceError) as exc:
            log.warning("%s: what was kept of it cannot be read (%s)", reference, exc)
            return None

    def _key(self, reference: Reference) -> str:
        """Return the URL under which an image is kept.

        Its blobs' URLs start with it but for the query, so it is kept as long as any of them is.
        """
        base = reference.base(plain_http=self._options.plain_http)
        return f"{base}?{urlencode({'image': reference.wanted, 'platform': str(self._platform)})}"


def _pack(image: Image) -> bytes:
    index, manifest = image.index, image.manifest
    head = {"index": index and [index.media_type, len(index.content)], "manifest": manifest.media_type}
    return zlib.compress(json.dumps(head).encode() + b"\n" + (index.content if index else b"") + manifest.content)


def _unpack(body: bytes, reference: str, base: str) -> Image:
    """Read what `_pack` made. *Raises*: much, when it is something else."""
    line, _, content = zlib.decompress(body).partition(b"\n")
    head = json.loads(line)
    index = None
    if head["index"]:
        media_type, length = head["index"]
        index, content = Document.of(content[:length], media_type), content[length:]
    return read_image(reference, base, index, Document.of(content, head["manifest"]))


@contextmanager
def _about(reference: Reference) -> Iterator[None]:
    """Name the image in what is wrong with it."""
    try:
        yield
    except SourceError as exc:
        raise SourceError(f"{reference}: {exc}") from None
