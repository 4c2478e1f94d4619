"""rm, pin, unpin: which blobs stay in the store."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from lazyfs import urls
from lazyfs.cli.doing import Done
from lazyfs.cli.mounting import mount_of, store_of
from lazyfs.cli.naming import named, under_mount
from lazyfs.cli.opened import open_files
from lazyfs.cli.saying import complain
from lazyfs.cli.showing import opened
from lazyfs.errors import LazyfsError, StoreError, UsageError
from lazyfs.given import GivenBlob
from lazyfs.sizes import format_size
from lazyfs.store import Store
from lazyfs.store import layout as layouts
from lazyfs.store.named import row_of
from lazyfs.store.removal import Kept, remove
from lazyfs.versions import BlobId, starts_blob_id

JUST_CLOSED: Final = 2.0
"""Seconds for which a blob in use is tried again: what a reader had open goes only after it has ended."""

T = TypeVar("T")


def remove_blobs(words: tuple[str, ...], store_path: Path, *, as_json: bool) -> None:
    """Remove blobs, and say so. *Raises*: LazyfsError, the first failure, after the rest was done."""

    def remove_named(word: str) -> None:
        _each(named(store, word), lambda blob_id: _remove(store, blob_id, done))

    with Done(as_json=as_json) as done, _opened(store_path) as store:
        try:
            _each(words, remove_named)
        finally:
            store.evictor.recount()


def pin(words: tuple[str, ...], store_path: Path, *, as_json: bool) -> None:
    """Pin blobs, which fetches nothing. *Raises*: LazyfsError, the first failure, after the rest was done."""

    def pin_one(word: str) -> None:
        given = _given(word)
        with _opened(store_path if given is None else _store_over(word)) as store:
            if given is not None:
                store.pin(given.blob_id, given.url, given.version.size, given.version)
                done.note(f"pinned {given.blob_id}", blob=given.blob_id)
                return
            for row in [row_of(store, blob_id) for blob_id in named(store, word)]:
                store.pin(row.blob_id, row.url, row.size)
                done.note(f"pinned {row.blob_id}", blob=row.blob_id)

    with Done(as_json=as_json) as done:
        _each(words, pin_one)


def unpin(words: tuple[str, ...], store_path: Path, *, as_json: bool) -> None:
    """Unpin blobs. *Raises*: LazyfsError, the first failure, after the rest was done."""

    def unpin_one(word: str) -> None:
        given = _given(word)
        with _opened(store_path if given is None else _store_over(word)) as store:
            for blob_id in [given.blob_id] if given is not None else named(store, word):
                store.unpin(blob_id)
                done.note(f"unpinned {blob_id}", blob=blob_id)

    with Done(as_json=as_json) as done:
        _each(words, unpin_one)


def _given(word: str) -> GivenBlob | None:
    """Return the blob of a path under a mount; None for what is no path."""
    if starts_blob_id(word) or urls.is_http(word):
        return None
    if mount_of(Path(word)) is None:
        raise UsageError(f"{word!r} is neither a path under a mount nor a blob as lazyfs ls shows it")
    return under_mount(Path(word))


def _store_over(word: str) -> Path:
    mounted = mount_of(Path(word))
    assert mounted is not None
    return store_of(mounted)


def _remove(store: Store, blob_id: BlobId, done: Done) -> None:
    """Remove a blob, and note it. *Raises*: StoreError, which says why not."""
    until = time.monotonic() + JUST_CLOSED
    while (outcome := remove(store.layout, store.catalogue, blob_id)) is Kept.IN_USE and time.monotonic() < until:
        time.sleep(0.02)
    if outcome is Kept.IN_USE:
        holders = ", ".join(_holders(store.layout.path, blob_id)) or "processes that cannot be seen from here"
        raise StoreError(f"{blob_id} is in use by {holders}; let that end first")
    if outcome is Kept.PINNED:
        raise StoreError(f"{blob_id} is pinned; to remove it: lazyfs unpin {blob_id}")
    if not isinstance(outcome, Kept):
        done.note(f"removed {blob_id}, {format_size(outcome)}", blob=blob_id, bytes_freed=outcome)


def _holders(store: Path, blob_id: BlobId) -> Iterator[str]:
    """Name the processes that have a blob open."""
    lock = os.path.realpath(store / "blobs" / layouts.shelf_of(blob_id) / blob_id / "lock")
    for process in {process for process, path in open_files() if path == lock}:
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            mount = words[:2] == ["lazyfs", "mount"]  # other command lines may hold secrets
            yield f"{' '.join(words[:3]) if mount else (process / 'comm').read_text().strip()} (pid {process.name})"


def _each(items: Iterable[T], do: Callable[[T], None]) -> None:
    """Do it for each, and raise the first failure at the end; the others are printed. *Raises*: LazyfsError."""
    failures: list[LazyfsError] = []
    for item in items:
        try:
            do(item)
        except LazyfsError as exc:
            failures.append(exc)
    for failure in failures[1:]:
        complain(failure)
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Store]:
    """Have a store open that is there. *Raises*: StoreError, also for what its disk says."""
    with opened(path) as store:
        try:
            yield store
        except OSError as exc:
            raise StoreError(f"the store {path}: {exc.strerror or exc}") from exc
