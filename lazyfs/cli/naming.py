"""From what a person writes to the blob that is meant: its id, the start of it, its URL, or a path under a mount."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from lazyfs import entries, mountinfo, urls
from lazyfs.cli.mounting import absolute, ask, mount_of, store_of
from lazyfs.cli.saying import complain
from lazyfs.cli.showing import opened
from lazyfs.errors import StoreError, UsageError
from lazyfs.given import GivenBlob
from lazyfs.sources.spec import Source
from lazyfs.store import Store
from lazyfs.store.named import described, row_of, with_start
from lazyfs.versions import BlobId, starts_blob_id


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
            (given, warning), name = described(store, row), urls.last_segment(row.url)
        if warning:
            complain(warning)
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
