"""Reading sources: listings page by page, manifests piece by piece, so that nothing else waits for them.

A listing is kept in the catalogue, and a manifest from a URL is a blob like any other: both are there again when the
origin is not. The parsers are loaded when there is something to parse: most mounts are of single files.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from lazyfs import urls
from lazyfs.entries import Entry, Refusal
from lazyfs.errors import OriginError, OriginUnreachable, SourceError
from lazyfs.origin.client import Client
from lazyfs.sources import listing
from lazyfs.sources.spec import Source
from lazyfs.store import Store

log = logging.getLogger(__name__)

PAGE_MAX: Final = 256 * 1024 * 1024
"""Bytes in one listing: some 2,000,000 names of nginx's."""

TOML_MAX: Final = 64 * 1024 * 1024
"""Bytes in a TOML manifest, which is held in memory; larger ones are written as JSON Lines."""

PIECE: Final = 64 * 1024
"""Bytes of a manifest read at a time."""

AT_ONCE: Final = 4096
"""Bytes of a listing that is kept, compressed, which take no thread: some 300 names, in 1 ms."""

BATCH: Final = 50
"""Lines of it taken in at a time: some 0.3 ms between two looks at what else is to do."""

Pieces = Callable[[int, int], Awaitable[bytes | memoryview]]
"""Returns up to `length` bytes from `offset`; none at the end."""


async def list_index(
    client: Client, store: Store, mirrors: Sequence[tuple[str, str]], url: str
) -> list[Entry | Refusal]:
    """Return what the index at `url` lists, or at a mirror of it, or listed when one could last be reached.

    *Raises*: OriginError, SourceError. *Cancellation*: at any time.
    """
    try:
        page, content_type, base = await _fetch_index(client, urls.ways(url, rules=mirrors))
    except OriginError as exc:
        kept = store.catalogue.listing(url)
        if kept is None or not (exc.retryable or isinstance(exc, OriginUnreachable) or client.offline):
            raise
        if not client.offline:
            log.warning("%s; showing the listing that was kept", exc)
        return await trio.to_thread.run_sync(listing.unpack, kept, url)
    from lazyfs.sources.index import parse_index

    found = await trio.to_thread.run_sync(lambda: list(parse_index(page, content_type, base)))
    packed = await trio.to_thread.run_sync(listing.pack, found, url)
    store.behind.note(partial(store.catalogue.remember_listing, url, packed))
    return found


async def list_kept(store: Store, url: str) -> list[Entry | Refusal]:
    """Return what the index at `url` listed when it could last be reached. *Raises*: OriginUnreachable, when never."""
    kept = store.catalogue.listing(url)
    if kept is None:
        raise OriginUnreachable(urls.redact(url), "it was never listed")
    if len(kept) <= AT_ONCE:
        return listing.unpack(kept, url)
    return await trio.to_thread.run_sync(listing.unpack, kept, url)


async def _fetch_index(client: Client, ways: Sequence[str]) -> tuple[bytes, str, str]:
    """Return a page that lists, its Content-Type, and where its relative links start: never at a mirror."""
    errors: list[OriginError] = []
    for url in sorted(ways, key=client.resting):
        try:
            page, content_type, final_url = await client.fetch_page(url, PAGE_MAX)
        except OriginError as exc:
            errors.append(exc)
            continue
        here = url == ways[0] and urls.origin_of(final_url) == urls.origin_of(url)
        return page, content_type, final_url if here else ways[0]
    raise min(errors, key=lambda exc: not exc.retryable).with_traceback(None)


async def read_manifest(source: Source, pieces: Pieces) -> AsyncIterator[list[Entry | Refusal]]:
    """Yield a manifest's entries in batches as they are read.

    *Raises*: SourceError, when it is no manifest at all; what `pieces` raises. *Cancellation*: between batches.
    """
    base_url = source.place if source.remote else None
    if source.toml:
        from lazyfs.sources.manifest import parse_toml

        text = await _whole(source, pieces)
        try:
            batch = await trio.to_thread.run_sync(lambda: list(parse_toml(text, base_url)))
        except SourceError as exc:
            raise SourceError(f"{source.shown}: {exc}") from None
        yield batch
        return
    lines, offset = _Lines(), 0
    while piece := await pieces(offset, PIECE):
        offset += len(piece)
        found = lines.feed(piece, base_url)
        while batch := list(itertools.islice(found, BATCH)):
            yield batch
            await trio.lowlevel.checkpoint()
    yield list(lines.feed(b"\n", base_url))


async def _whole(source: Source, pieces: Pieces) -> str:
    content = bytearray()
    while piece := await pieces(len(content), PIECE):
        content += piece
        if len(content) > TOML_MAX:
            raise SourceError(f"{source.shown}: over {TOML_MAX >> 20} MiB; write it as JSON Lines (.jsonl)")
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise SourceError(f"{source.shown}: not UTF-8 at byte {exc.start}; save it as UTF-8") from exc


class _Lines:
    """Cuts pieces into lines and parses them; of a line that is too long it keeps as much as shows that it is."""

    def __init__(self) -> None:
        self._rest = b""
        self._number = 1

    def feed(self, piece: bytes | memoryview, base_url: str | None) -> Iterator[Entry | Refusal]:
        from lazyfs.sources.manifest import LINE_MAX, parse_jsonl

        *lines, rest = bytes(piece).split(b"\n")
        if lines:
            lines[0] = self._rest + lines[0]
            self._rest = b""
        self._rest = (self._rest + rest)[: LINE_MAX + 1]
        yield from parse_jsonl(lines, base_url, self._number)
        self._number += len(lines)


def local_pieces(path: Path) -> Pieces:
    """Return how to read a local manifest. *Raises*: SourceError, also from what it returns."""
    try:
        file = path.open("rb")
        file.peek(1)
    except OSError as exc:
        raise SourceError(f"the manifest {path} cannot be read: {exc.strerror or exc}; see to its rights") from exc

    async def pieces(_offset: int, length: int) -> bytes:
        try:
            piece = await trio.to_thread.run_sync(file.read, length)
        except OSError as exc:
            file.close()
            raise SourceError(f"the manifest {path} cannot be read: {exc.strerror or exc}") from exc
        if not piece:
            file.close()
        return piece

    return pieces
