"""The catalogue: what URLs name, what directories list, and which blobs the store has, in one SQLite database.

It is a database so that readers never wait: in WAL mode a look-up sees the last commit while others write. It is
derived knowledge: a blob's presence is its map, never a row here, so rows may be written late and in batches, and a
lost one costs a request. Nothing secret is in it: URLs are stored redacted, their rows found by a hash.

Two connections, each with a lock of its own, so that a writer that waits for another process's transaction does not
hold up a look-up in this one. Writers belong in a worker thread; look-ups take some 20 microseconds.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazyfs import urls
from lazyfs.errors import StoreError
from lazyfs.versions import BlobId, Known, Version, same_blob

_BUSY_SECONDS = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS names (
    url_key       TEXT PRIMARY KEY,
    url           TEXT NOT NULL,     -- redacted
    size          INTEGER NOT NULL,
    etag          TEXT,
    last_modified TEXT,
    ranged        INTEGER NOT NULL,  -- 1: it honours Range
    head          BLOB NOT NULL,     -- the bytes from 0 that came with the metadata
    checked_at    REAL NOT NULL      -- seconds since the epoch
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS listings (
    url_key   TEXT PRIMARY KEY,
    url       TEXT NOT NULL,         -- redacted
    body      BLOB NOT NULL,
    listed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs (
    blob_id    TEXT PRIMARY KEY,
    url        TEXT NOT NULL,        -- redacted; where it was first seen; empty while that is not known
    size       INTEGER NOT NULL,
    block_size INTEGER NOT NULL,
    complete   INTEGER NOT NULL DEFAULT 0,
    last_used  REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
    blob_id       TEXT PRIMARY KEY,
    url_key       TEXT NOT NULL,     -- of what URL it is a version: where it was first seen
    etag          TEXT,
    last_modified TEXT
) WITHOUT ROWID;
"""

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


_BLOB = "blob_id, url, size, block_size, complete, last_used"


def _blob_row(row: tuple[Any, ...]) -> BlobRow:
    return BlobRow(BlobId(row[0]), row[1], row[2], row[3], bool(row[4]), row[5])


class Catalogue:
    """An open catalogue; its methods may be called from any thread. *Raises*: StoreError, all of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading, self._writing = threading.Lock(), threading.Lock()
        with self._reported(), ExitStack() as undo:
            self._writes = self._connect()
            undo.callback(self._writes.close)
            self._make()
            self._reads = self._connect()
            undo.pop_all()

    def _make(self) -> None:
        """Make what is not there yet.

        Several processes may do it at once, and SQLite does not wait where one of them changes the journal's mode: it
        says at once that the database is locked, whatever time-out it was given (sqlite.org/rescode.html#busy).
        """
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._writes.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
                return
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        """Close both connections."""
        self._reads.close()
        self._writes.close()

    def known(self, url: str) -> Known | None:
        """Return what `url` named when it was last asked, or None."""
        columns = "size, etag, last_modified, ranged, head, checked_at"
        row = self._one(f"SELECT {columns} FROM names WHERE url_key = ?", urls.key(url))  # noqa: S608
        if row is None:
            return None
        size, etag, last_modified, ranged, head, checked_at = row
        return Known(url, Version(size, etag, last_modified), bool(ranged), head, checked_at)

    def remember(self, found: Iterable[Known]) -> None:
        """Record what URLs name now, in one transaction."""
        self._write(
            "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    urls.key(known.url),
                    urls.redact(known.url),
                    known.version.size,
                    known.version.etag,
                    known.version.last_modified,
                    known.ranged,
                    known.head,
                    known.checked_at,
                )
                for known in found
            ),
        )

    def listing(self, url: str) -> bytes | None:
        """Return what `remember_listing` was last given for a directory's URL, or None."""
        row = self._one("SELECT body FROM listings WHERE url_key = ?", urls.key(url))
        return None if row is None else bytes(row[0])

    def remember_listing(self, url: str, body: bytes) -> None:
        """Record a directory's listing."""
        row = (urls.key(url), urls.redact(url), body, time.time())
        self._write("INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?)", [row])

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

    def drop_blob(self, blob_id: BlobId, last_used: float = math.inf) -> None:
        """Forget a blob that was removed, unless it has come into the store again after `last_used`."""
        self._write_together(
            ("DELETE FROM blobs WHERE blob_id = ? AND last_used <= ?", [(blob_id, last_used)]),
            ("DELETE FROM versions WHERE blob_id = ? AND blob_id NOT IN (SELECT blob_id FROM blobs)", [(blob_id,)]),
        )

    def forget_unused(self, before: float) -> int:
        """Forget names and listings that nobody asked for since, and of which no blob is there; return how many."""
        gone = [(before,)]
        return self._write_together((_NAMES_GONE, gone), (_LISTINGS_GONE, gone))

    def version_of(self, blob_id: BlobId) -> tuple[str, Version] | None:
        """Return the key of the URL (urls.py) of which a blob is a version, and which; None when it is not known."""
        columns = "url_key, size, etag, last_modified"
        query = f"SELECT {columns} FROM versions JOIN blobs USING (blob_id) WHERE blob_id = ?"  # noqa: S608
        row = self._one(query, blob_id)
        return None if row is None else (row[0], Version(*row[1:]))

    def outdated(self) -> list[BlobId]:
        """Return the blobs whose URL names another blob now. One that is known by its digest is never among them."""
        with self._reported(), self._reading:
            rows = self._reads.execute(_OUTDATED).fetchall()
        return [BlobId(row[0]) for row in rows if not same_blob(Version(*row[1:4]), Version(*row[4:]))]

    def blobs_at(self, url: str) -> list[BlobId]:
        """Return the blobs that are versions of a URL, and those that are listed under it."""
        with self._reported(), self._reading:
            rows = self._reads.execute(
                "SELECT blob_id FROM blobs WHERE url = ?"
                " UNION SELECT blob_id FROM blobs JOIN versions USING (blob_id) WHERE url_key = ?",
                (url, urls.key(url)),
            ).fetchall()
        return [BlobId(row[0]) for row in rows]

    def blob(self, blob_id: BlobId) -> BlobRow | None:
        """Return a blob, or None."""
        row = self._one(f"SELECT {_BLOB} FROM blobs WHERE blob_id = ?", blob_id)  # noqa: S608
        return None if row is None else _blob_row(row)

    def blobs(self) -> list[BlobRow]:
        """Return all blobs, the last used first."""
        with self._reported(), self._reading:
            rows = self._reads.execute(f"SELECT {_BLOB} FROM blobs ORDER BY last_used DESC").fetchall()  # noqa: S608
        return [_blob_row(row) for row in rows]

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        with self._reported(), self._reading:
            row: tuple[Any, ...] | None = self._reads.execute(statement, values).fetchone()
            return row

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]], *, sync: bool = False) -> None:
        self._write_together((statement, rows), sync=sync)

    def _write_together(self, *steps: tuple[str, Iterable[tuple[object, ...]]], sync: bool = False) -> int:
        """Do all of it in one transaction, synced if need be, and return how many rows that changed."""
        with self._reported(), self._writing:
            before = self._writes.total_changes
            self._writes.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
            self._writes.execute("BEGIN IMMEDIATE")
            try:
                for statement, rows in steps:
                    self._writes.executemany(statement, rows)
                self._writes.execute("COMMIT")
            except BaseException:
                self._writes.execute("ROLLBACK")
                raise
            return self._writes.total_changes - before

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn SQLite's errors into one line that says what to do."""
        try:
            yield
        except sqlite3.OperationalError as exc:
            raise StoreError(f"the catalogue {self._path} cannot be used now: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            raise StoreError(f"the catalogue {self._path} is damaged ({exc}): move it away; the blobs stay") from exc
