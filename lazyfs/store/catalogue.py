"""The catalogue: what URLs name, what directories list, and which blobs the store has, in one SQLite database.

It is a database so that readers never wait: in WAL mode a look-up sees the last commit while others write. It is
derived knowledge: a blob's presence is its map, never a row here, so rows may be written late and in batches, and a
lost one costs a request. Nothing secret is in it: URLs are stored redacted, their rows found by a hash.

Two connections, each with a lock of its own, so that a writer that waits for another process's transaction does not
hold up a look-up in this one. Writers belong in a worker thread, most of them in behind.py's; look-ups take some 20
microseconds.

A catalogue that cannot be opened because of its disk has a stand-in: what can be read of it, in memory, which nobody
shares. A look-up that fails has found nothing: the origin is asked.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lazyfs import urls
from lazyfs.errors import StoreError
from lazyfs.versions import BlobId, Known, Version

log = logging.getLogger(__name__)

_BUSY_SECONDS = 10.0

_OPEN_SECONDS = 3.0
"""To begin with; after that there is the stand-in."""

_LOOK_SECONDS = 0.25
"""For a look-up, on which everything waits: one is held up only while another process mends the database."""

_LOOK_AGAIN = 2.0
"""Seconds for which nothing is looked up after one that failed."""

_OF_THE_DISK = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""What SQLite says when it is not the database's fault."""

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
    url        TEXT NOT NULL,        -- redacted; where it was first seen
    size       INTEGER NOT NULL,
    block_size INTEGER NOT NULL,
    complete   INTEGER NOT NULL DEFAULT 0,
    last_used  REAL NOT NULL
) WITHOUT ROWID;
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
    """An open catalogue; its methods may be called from any thread. *Raises*: StoreError, all but the look-ups."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = self._writing = threading.Lock()
        self._failing = ""  # why the last look-up failed
        self._look_after = 0.0
        self.joined = False  # whether it is the store's own
        try:
            self.join()
        except StoreError as exc:
            cause = exc.__cause__
            if not isinstance(cause, sqlite3.OperationalError) or cause.sqlite_errorcode & 0xFF not in _OF_THE_DISK:
                raise
            self._reads = self._writes = self._stand_in()

    def join(self) -> None:
        """Work with the store's own catalogue from here on, if that is not so. What its stand-in has heard is lost."""
        if self.joined:
            return
        with self._reported(), ExitStack() as undo:
            writes = self._connect(_OPEN_SECONDS)
            undo.callback(writes.close)
            self._make(writes)
            writes.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000:.0f}")
            reads = self._connect(_LOOK_SECONDS)
            undo.pop_all()
        with self._writing:  # the stand-in's one lock
            self._writes, self._reads, self._reading, self.joined = writes, reads, threading.Lock(), True

    def _stand_in(self) -> sqlite3.Connection:
        """Return a database in memory with what can be read of ours. *Source*: sqlite.org/wal.html#read_only_databases.

        Where no index of the log can be made beside it, it is read as if nobody wrote to it, and without its log.
        """
        for how in ("mode=ro", "immutable=1"):
            ours = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            with suppress(sqlite3.Error):
                name = f"file:{quote(str(self._path))}?{how}"
                with closing(sqlite3.connect(name, uri=True, timeout=_LOOK_SECONDS)) as theirs:
                    theirs.backup(ours)
                if ours.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                    ours.executescript(_SCHEMA)
                    return ours
            ours.close()
        ours = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        ours.executescript(_SCHEMA)
        return ours

    def _make(self, writes: sqlite3.Connection) -> None:
        """Make what is not there yet.

        Several processes may do it at once, and SQLite does not wait where one of them changes the journal's mode: it
        says at once that the database is locked, whatever time-out it was given (sqlite.org/rescode.html#busy).
        """
        deadline = time.monotonic() + _OPEN_SECONDS
        while True:
            try:
                writes.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
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
        row = self._found(f"SELECT {columns} FROM names WHERE url_key = ?", urls.key(url))  # noqa: S608
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
        row = self._found("SELECT body FROM listings WHERE url_key = ?", urls.key(url))
        return None if row is None else bytes(row[0])

    def remember_listing(self, url: str, body: bytes) -> None:
        """Record a directory's listing."""
        row = (urls.key(url), urls.redact(url), body, time.time())
        self._write("INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?)", [row])

    def add_blob(self, blob_id: BlobId, url: str, size: int, block_size: int) -> None:
        """Record that the store has (some of) a blob, and that it is used now."""
        self._write(
            "INSERT INTO blobs VALUES (?, ?, ?, ?, 0, ?) ON CONFLICT (blob_id) DO UPDATE"
            " SET last_used = excluded.last_used, block_size = excluded.block_size",
            [(blob_id, urls.redact(url), size, block_size, time.time())],
        )

    def mark_complete(self, blob_id: BlobId) -> None:
        """Record that all of a blob is on the disk, synced."""
        self._write("UPDATE blobs SET complete = 1 WHERE blob_id = ?", [(blob_id,)])

    def mark_incomplete(self, blob_ids: Iterable[BlobId]) -> None:
        """Record that blobs have lost blocks; does not write where that is known."""
        whole = [(blob_id,) for blob_id in blob_ids if self._one(_IS_COMPLETE, blob_id) == (1,)]
        if whole:
            self._write("UPDATE blobs SET complete = 0 WHERE blob_id = ?", whole)

    def drop_blob(self, blob_id: BlobId) -> None:
        """Forget a blob that was removed."""
        self._write("DELETE FROM blobs WHERE blob_id = ?", [(blob_id,)])

    def blobs(self) -> list[BlobRow]:
        """Return all blobs, the last used first."""
        columns = "blob_id, url, size, block_size, complete, last_used"
        with self._reported(), self._reading:
            rows = self._reads.execute(f"SELECT {columns} FROM blobs ORDER BY last_used DESC").fetchall()  # noqa: S608
        return [BlobRow(BlobId(row[0]), row[1], row[2], row[3], bool(row[4]), row[5]) for row in rows]

    def _connect(self, patience: float) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=patience, isolation_level=None, check_same_thread=False)

    def _found(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """Look something up; what cannot be read is not there. *Raises*: nothing."""
        if time.monotonic() < self._look_after:
            return None
        try:
            row, failing = self._one(statement, *values), ""
        except StoreError as exc:
            row, failing = None, str(exc)
            self._look_after = time.monotonic() + _LOOK_AGAIN
        if failing != self._failing:
            log.warning("%s", failing or "the catalogue can be read again")
        self._failing = failing
        return row

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        with self._reported(), self._reading:
            row: tuple[Any, ...] | None = self._reads.execute(statement, values).fetchone()
            return row

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._reported(), self._writing:
            self._writes.execute("BEGIN IMMEDIATE")
            try:
                self._writes.executemany(statement, rows)
                self._writes.execute("COMMIT")
            except BaseException:
                self._writes.execute("ROLLBACK")
                raise

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn SQLite's errors into one line that says what to do."""
        try:
            yield
        except sqlite3.OperationalError as exc:
            raise StoreError(f"the catalogue {self._path} cannot be used now: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            raise StoreError(f"the catalogue {self._path} is damaged ({exc}): move it away; the blobs stay") from exc
