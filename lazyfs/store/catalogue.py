"""The catalogue: what URLs name, what directories list, and which blobs the store has, in one SQLite database.

It is a database so that readers never wait: in WAL mode a look-up sees the last commit while others write. It is
derived knowledge: a blob's presence is its map, never a row here, so rows may be written late and in batches, and a
lost one costs a request. Nothing secret is in it: URLs are stored redacted, their rows found by a hash.

How it is opened, brought to this version and replaced when it is damaged is in database.py; its tables are in
schema.py. Writers belong in a worker thread, most of them in behind.py's; look-ups take some 20 microseconds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lazyfs import urls
from lazyfs.errors import StoreError
from lazyfs.store.database import Database, Row, Unusable
from lazyfs.store.schema import Value, row_check
from lazyfs.versions import BlobId, Known, Version, is_blob_id, same_blob

log = logging.getLogger(__name__)

LOOK_AGAIN: Final = 2.0
"""Seconds for which nothing is looked up after a look-up that failed, since that may have taken a while."""

PROFILES: Final = 1000
"""Boot profiles that are kept, those that were recorded last; most have some KB."""

_BLOB = "blob_id, url, size, block_size, complete, last_used"
_TABLES = (
    ("names", "url_key", 'url_key, size, etag, last_modified, ranged, head, checked_at, "check"'),
    ("listings", "url_key", 'url_key, body, "check"'),
    ("blobs", "blob_id", _BLOB),
    ("profiles", "blob_id", 'blob_id, body, "check"'),
)
"""Each table, its key, and what a look for damage reads."""
_OUTDATED = """
SELECT blob_id, blobs.size, versions.etag, versions.last_modified, names.size, names.etag, names.last_modified
FROM blobs JOIN versions USING (blob_id) JOIN names USING (url_key) WHERE blob_id LIKE 'url-%'
"""

_NAMES_GONE = """
DELETE FROM names WHERE checked_at < ? AND url NOT IN (SELECT url FROM blobs)
AND url_key NOT IN (SELECT url_key FROM versions JOIN blobs USING (blob_id))
"""

_LISTINGS_GONE = """
DELETE FROM listings WHERE listed_at < ?
AND NOT EXISTS (SELECT 1 FROM blobs WHERE substr(blobs.url, 1, length(listings.url)) = listings.url)
"""

_PROFILE = 'SELECT recorded_at, blob_id, body, "check" FROM profiles WHERE'

_PROFILES_TOO_MANY = """
DELETE FROM profiles WHERE rowid IN (SELECT rowid FROM profiles ORDER BY recorded_at DESC LIMIT -1 OFFSET ?)
"""

_IS_COMPLETE = "SELECT complete FROM blobs WHERE blob_id = ?"


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A blob as the catalogue has it. *Units*: bytes; `last_used` seconds since the epoch."""

    blob_id: BlobId
    url: str
    size: int
    block_size: int
    complete: bool
    last_used: float


class Catalogue:
    """An open catalogue; its methods may be called from any thread. *Raises*: StoreError, all but `known`, `listing`.

    `blobs` gives those that a new catalogue begins with; one that is `suspected` of damage is looked through first.
    """

    def __init__(self, path: Path, blobs: Callable[[], Iterable[BlobRow]] = tuple, *, suspected: bool = False) -> None:
        def fill() -> tuple[str, Iterator[Row]]:
            return "INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?)", map(_as_row, blobs())

        self._database = Database(path, fill, suspected=suspected)
        self._trouble = ""  # why nothing could be looked up the last time
        self._look_after = 0.0

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def let_go(self) -> None:
        """Close it until `take_up`: no database may be open when its process forks. Blocks."""
        self._database.let_go()

    def take_up(self) -> None:
        """Open it again."""
        self._database.take_up()

    @property
    def joined(self) -> bool:
        """Whether it is the store's own, not a stand-in for one whose disk does not let us."""
        return self._database.joined

    def join(self) -> None:
        """Work with the store's own from here on, if that is not so. What the stand-in has heard is lost."""
        self._database.join()

    def known(self, url: str) -> Known | None:
        """Return what `url` named when it was last asked, or None."""
        columns = 'size, etag, last_modified, ranged, head, checked_at, "check"'
        row = self._look_up(f"SELECT {columns} FROM names WHERE url_key = ?", url)  # noqa: S608
        if row is None:
            return None
        size, etag, last_modified, ranged, head, checked_at = row
        return Known(url, Version(size, etag, last_modified), bool(ranged), head, checked_at)

    def remember(self, found: Iterable[Known]) -> None:
        """Record what URLs name now, in one transaction."""
        self._write("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_name_row, found))

    def listing(self, url: str) -> bytes | None:
        """Return what `remember_listing` was last given for a directory's URL, or None."""
        row = self._look_up('SELECT body, "check" FROM listings WHERE url_key = ?', url)
        return None if row is None else bytes(row[0])

    def remember_listing(self, url: str, body: bytes) -> None:
        """Record a directory's listing."""
        key = urls.key(url)
        row = (key, urls.redact(url), body, time.time(), row_check(key, body))
        self._write("INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?, ?)", [row])

    def add_blob(self, blob_id: BlobId, url: str, size: int, block_size: int, version: Version | None = None) -> None:
        """Record that the store has (some of) a blob, and that it is used now; `version` is what it is one of `url`."""
        blob = (
            "INSERT INTO blobs VALUES (?, ?, ?, ?, 0, ?) ON CONFLICT (blob_id) DO UPDATE"
            " SET last_used = excluded.last_used, block_size = excluded.block_size,"
            " url = CASE blobs.url WHEN '' THEN excluded.url ELSE blobs.url END",
            [(blob_id, urls.redact(url) if url else "", size, block_size, time.time())],
        )
        if version is None:
            self._write(*blob)
            return
        row = (blob_id, urls.key(url), version.etag, version.last_modified)
        self._write_together(blob, ("INSERT OR IGNORE INTO versions VALUES (?, ?, ?, ?)", [row]))

    def mark_complete(self, blob_id: BlobId) -> None:
        """Record that all of a blob is on the disk, synced."""
        self._write("UPDATE blobs SET complete = 1 WHERE blob_id = ?", [(blob_id,)])

    def mark_incomplete(self, blob_ids: Iterable[BlobId]) -> None:
        """Record, and sync, that blobs lose blocks; does not write where that is known.

        It is synced because what follows may reach the disk first, and a power loss would leave a complete blob with
        holes.
        """
        whole = [(blob_id,) for blob_id in blob_ids if self._one(_IS_COMPLETE, blob_id) == (1,)]
        if whole:
            self._write("UPDATE blobs SET complete = 0 WHERE blob_id = ?", whole, sync=True)

    def correct(self, blob: BlobRow) -> None:
        """Record a blob as it proved to be."""
        self._write("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?, ?)", [_as_row(blob)])

    def damaged_rows(self) -> int:
        """Return how many rows do not match their check, or make no sense."""
        return sum(len(keys) for keys in self._damaged().values())

    def drop_damaged_rows(self) -> None:
        """Forget what those say."""
        for deletion, keys in self._damaged().items():
            self._write(deletion, keys)

    def _damaged(self) -> dict[str, list[Row]]:
        """Return the statements that drop damaged rows, each with their keys, as bytes: they may be no text."""
        found = {}
        for table, key, columns in _TABLES:
            rows = self._database.all(f"SELECT CAST({key} AS BLOB), {columns} FROM {table}")  # noqa: S608
            wrong = [row[:1] for row in rows if not _is_right(table, row[1:])]
            found[f"DELETE FROM {table} WHERE CAST({key} AS BLOB) = ?"] = wrong  # noqa: S608
        return found

    def drop_blob(self, blob_id: BlobId, last_used: float = math.inf) -> None:
        """Forget a blob that was removed, unless it has come into the store again after `last_used`."""
        self._write_together(
            ("DELETE FROM blobs WHERE blob_id = ? AND last_used <= ?", [(blob_id, last_used)]),
            ("DELETE FROM versions WHERE blob_id = ? AND blob_id NOT IN (SELECT blob_id FROM blobs)", [(blob_id,)]),
        )

    def forget_unused(self, before: float) -> int:
        """Forget names and listings that nobody asked for since, and of which no blob is there, and old profiles.

        Returns how many.
        """
        gone = [(before,)]
        profiles = ("DELETE FROM profiles WHERE recorded_at < ?", gone)
        return self._write_together((_NAMES_GONE, gone), (_LISTINGS_GONE, gone), profiles)

    def profile(self, blob_id: BlobId, version: Version | None = None) -> tuple[float, bytes] | None:
        """Return when a blob's boot profile was recorded, and what it is; None for none, and for a damaged one.

        With `version`, that of another blob with the same strong ETag and size will do.
        """
        row = self._one(f"{_PROFILE} blob_id = ?", blob_id)
        if row is None and version is not None and version.strong_etag is not None:
            row = self._one(f"{_PROFILE} etag = ? AND size = ?", version.strong_etag, version.size)
        return None if row is None or row_check(*row[1:-1]) != row[-1] else (row[0], bytes(row[2]))

    def remember_profile(self, blob_id: BlobId, size: int, etag: str | None, body: bytes) -> None:
        """Record a blob's boot profile in the place of the one there was. It stays when the blob goes."""
        row = (blob_id, size, etag, body, time.time(), row_check(blob_id, body))
        insertion = ("INSERT OR REPLACE INTO profiles VALUES (?, ?, ?, ?, ?, ?)", [row])
        self._write_together(insertion, (_PROFILES_TOO_MANY, [(PROFILES,)]))

    def profiled(self) -> list[BlobId]:
        """Return the blobs that have a boot profile."""
        return [BlobId(row[0]) for row in self._database.all("SELECT blob_id FROM profiles")]

    def version_of(self, blob_id: BlobId) -> tuple[str, Version] | None:
        """Return the key of the URL (urls.py) of which a blob is a version, and which; None when it is not known."""
        columns = "url_key, size, etag, last_modified"
        query = f"SELECT {columns} FROM versions JOIN blobs USING (blob_id) WHERE blob_id = ?"  # noqa: S608
        row = self._one(query, blob_id)
        return None if row is None else (row[0], Version(*row[1:]))

    def outdated(self) -> list[BlobId]:
        """Return the blobs whose URL names another blob now. One that is known by its digest is never among them."""
        rows = self._database.all(_OUTDATED)
        return [BlobId(row[0]) for row in rows if not same_blob(Version(*row[1:4]), Version(*row[4:]))]

    def blobs_at(self, url: str) -> list[BlobId]:
        """Return the blobs that are versions of a URL, and those that are listed under it."""
        rows = self._database.all(
            "SELECT blob_id FROM blobs WHERE url = ?"
            " UNION SELECT blob_id FROM blobs JOIN versions USING (blob_id) WHERE url_key = ?",
            url,
            urls.key(url),
        )
        return [BlobId(row[0]) for row in rows]

    def blob(self, blob_id: BlobId) -> BlobRow | None:
        """Return a blob, or None."""
        row = self._one(f"SELECT {_BLOB} FROM blobs WHERE blob_id = ?", blob_id)  # noqa: S608
        return None if row is None else _blob_row(row)

    def blobs(self, most: int = -1) -> list[BlobRow]:
        """Return all blobs, or so many of them, the last used first."""
        rows = self._database.all(f"SELECT {_BLOB} FROM blobs ORDER BY last_used DESC LIMIT ?", most)  # noqa: S608
        return [blob for row in rows if (blob := _blob_row(row)) is not None]

    def _look_up(self, statement: str, url: str) -> Row | None:
        """Return the row of a URL without its check; None when it does not match that, or cannot be had."""
        key = urls.key(url)
        if time.monotonic() < self._look_after:
            return None
        try:
            row = self._one(statement, key)
        except StoreError as exc:
            if isinstance(exc, Unusable):
                self._look_after = time.monotonic() + LOOK_AGAIN
            if str(exc) != self._trouble:
                self._trouble = str(exc)
                log.warning("%s; what it knows is asked of the origins", exc)
            return None
        return None if row is None or row_check(key, *row[:-1]) != row[-1] else row[:-1]

    def _one(self, statement: str, *values: Value) -> Row | None:
        return self._database.one(statement, *values)

    def _write(self, statement: str, rows: Iterable[Row], *, sync: bool = False) -> None:
        self._database.write((statement, rows), sync=sync)

    def _write_together(self, *steps: tuple[str, Iterable[Row]]) -> int:
        return self._database.write(*steps)


def _name_row(known: Known) -> Row:
    key, version = urls.key(known.url), known.version
    values = (version.size, version.etag, version.last_modified, int(known.ranged), known.head, float(known.checked_at))
    return (key, urls.redact(known.url), *values, row_check(key, *values))


def _as_row(blob: BlobRow) -> Row:
    return (blob.blob_id, blob.url, blob.size, blob.block_size, blob.complete, blob.last_used)


def _is_right(table: str, row: Row) -> bool:
    return _blob_row(row) is not None if table == "blobs" else row_check(*row[:-1]) == row[-1]


def _blob_row(row: Row) -> BlobRow | None:
    """Read a row of `blobs`, which has no check: it is only shown. None when it makes no sense."""
    blob_id, url, size, block_size, complete, last_used = row
    kinds = (str, str, int, int, int, float)
    if not all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True)):
        return None
    if not is_blob_id(blob_id) or min(size, block_size) < 0:
        return None
    return BlobRow(BlobId(blob_id), url, size, block_size, bool(complete), last_used)
