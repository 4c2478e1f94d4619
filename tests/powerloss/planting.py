"""Faults to plant, so that it can be seen that the replays find them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from unittest import mock

from lazyfs.store import BlobFile, Store
from lazyfs.store import layout as layouts
from lazyfs.store.catalogue import Catalogue


def _nothing(*_args: object) -> None:
    """Do nothing, in place of what should have been done."""


def _mark_first(store: Store, file: BlobFile) -> None:
    store.catalogue.mark_complete(file.blob_id)
    store.catalogue._database._at.writes.execute("PRAGMA wal_checkpoint(FULL)")
    file.sync()


def _unsynced(catalogue: Catalogue, statement: str, rows: Any, *, sync: bool = False) -> None:
    _write(catalogue, statement, rows)


_write = Catalogue._write

Fault = Callable[[], contextlib.AbstractContextManager[object]]

IN_RUN: Final[Mapping[str, Fault]] = {
    "names are not synced": lambda: mock.patch.object(layouts, "sync", _nothing),
    "nothing of a blob is synced": lambda: mock.patch.object(BlobFile, "sync", _nothing),
    "complete is marked before the blob is synced": lambda: mock.patch.object(Store, "mark_complete", _mark_first),
    "that a blob loses blocks is not synced": lambda: mock.patch.object(Catalogue, "_write", _unsynced),
}
"""Planted in the run that is recorded."""

IN_READER: Final[Mapping[str, Fault]] = {
    "the map is believed, whatever the bytes are": lambda: mock.patch.object(BlobFile, "_verified", return_value=True),
}
"""Planted in what looks at the store afterwards."""

SEEN_AS: Final = {
    "names are not synced": "it is marked complete, and is not there",
    "nothing of a blob is synced": "it is marked complete, and",
    "complete is marked before the blob is synced": "it is marked complete, and",
    "that a blob loses blocks is not synced": "it is marked complete, and",
    "the map is believed, whatever the bytes are": "reads as present and has wrong bytes",
}
"""What the replays must find of each."""


@contextlib.contextmanager
def planted(faults: Mapping[str, Fault], name: str) -> Iterator[None]:
    """Have a fault in the code, if it is one of these."""
    with faults[name]() if name in faults else contextlib.nullcontext():
        yield
