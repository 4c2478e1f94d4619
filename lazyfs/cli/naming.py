"""From what a person writes to the blob that is meant: its id, the start of it, its URL, or a path under a mount."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from lazyfs import entries, mountinfo, urls
from lazyfs.cli.mounting import absolute, ask, mount_of, store_of
from lazyfs.cli.saying import complain
from lazyfs.cli.showing import opened
from lazyfs.errors import SourceError, StoreError, UsageError
from lazyfs.given import GivenBlob
from lazyfs.sizes import format_size
from lazyfs.sources.spec import Source
from lazyfs.store import BlobRow, Store
from lazyfs.store import layout as layouts
from lazyfs.versions import BlobId, Version, blob_id_for, digest_of, same_blob, starts_blob_id


def found(source: Source, store_path: Path) -> Source:
    """Find the blob that a source names, and a name for it where it says none. Asks no origin.

    *Raises*: UsageError; StoreError; SourceError, when what the store lacks of it could not be fetched.
    """
    if not starts_blob_id(source.place):
        path = Path(source.place)
        given, name = under_mount(path, store_path), path.name
    else:
        with opened(store_path) as store:
            row = row_of(store, with_start(store, source.place))
            given, name = _described(store, row), urls.last_segment(row.url)
    if reason := entries.unsafe(source.name or name):
        raise UsageError(
            f"{source.place} has no name that can be shown ({reason}): give one, as in NAME={source.place}"
        )
    return dataclasses.replace(source, given=given, name=source.name or name)


def under_mount(path: Path, store_path: Path | None = None) -> GivenBlob:
    """Return the blob of a file under a mount (of this store), as its daemon knows it.

    *Raises*: UsageError; ControlError.
    """
    mounted = mount_of(path)
    if mounted is None:
        raise UsageError(f"{path} is not under a lazyfs mount; see which there are: findmnt -t {mountinfo.FSTYPE}")
    if store_path is not None and os.path.realpath(store_of(mounted)) != os.path.realpath(store_path):
        raise UsageError(f"{path} is in another store, {store_of(mounted)}: blobs have names in their own store only")
    below = os.path.relpath(absolute(path), mounted.mountpoint)
    return GivenBlob.of(ask(mounted, "describe", path=below))


def with_start(store: Store, start: str) -> BlobId:
    """Return the one blob whose id starts so. *Raises*: StoreError."""
    ids = {row.blob_id for row in store.catalogue.blobs()} | set(layouts.blob_ids(store.layout))
    matching = sorted(blob_id for blob_id in ids if blob_id.startswith(start))
    if not matching:
        raise StoreError(f"the store {store.layout.path} has no blob {start}; see: lazyfs ls")
    if len(matching) > 1:
        raise StoreError(f"{start} is the start of {len(matching)} blobs; write more of it, as in {matching[0]}")
    return matching[0]


def row_of(store: Store, blob_id: BlobId) -> BlobRow:
    """Return what the catalogue says of a blob. *Raises*: StoreError, when it knows nothing."""
    row = store.catalogue.blob(blob_id)
    if row is None:
        raise StoreError(f"{blob_id} is not known to the catalogue: use its URL, or let lazyfs gc see to it")
    return row


def named(store: Store, word: str) -> list[BlobId]:
    """Return the blobs that an id, the start of one, or a URL means: one, or all versions of a URL.

    *Raises*: StoreError; UsageError.
    """
    if starts_blob_id(word):
        return [with_start(store, word)]
    if not urls.is_http(word):
        raise UsageError(f"{word!r} is no blob: write its id, or as much of it as lazyfs ls shows, or its URL")
    blobs = store.catalogue.blobs_at(word)
    if not blobs:
        raise StoreError(f"the store {store.layout.path} has no blob of {urls.redact(word)}; see: lazyfs ls")
    return blobs


def _described(store: Store, row: BlobRow) -> GivenBlob:
    """Describe a blob by what the catalogue knows of it. Says so when not all of it could be served."""
    seen = store.catalogue.version_of(row.blob_id)
    cut = seen is not None and seen[0] != urls.key(row.url)
    known = None if cut else store.catalogue.known(row.url)
    version = seen[1] if seen is not None else None
    if version is None and known is not None and blob_id_for(known.url, known.version, None) == row.blob_id:
        version = known.version
    cached = store.present_bytes(row.blob_id)
    if cached < row.size:
        lacking = f"{format_size(row.size - cached)} of {format_size(row.size)}"
        provable = digest_of(row.blob_id) or (version and (version.etag or version.last_modified or not cut))
        if not row.url or not provable:
            raise SourceError(
                f"{row.blob_id}: {lacking} are not in the store, and it does not know where: name its URL"
            )
        if cut:
            complain(
                f"{row.blob_id[:20]}: the store does not keep the query or the user of {row.url}, so the"
                f" {lacking} that it lacks may not be had; fetch them first"
            )
    ranged = known is None or version is None or not same_blob(known.version, version) or known.ranged
    return GivenBlob(row.blob_id, row.url, version or Version(row.size), ranged)
