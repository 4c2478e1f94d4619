"""The catalogue's tables, and how a catalogue of an earlier version comes to have them.

The version is SQLite's `user_version`: how many of `MIGRATIONS` have been applied. Each is applied once, all that are
lacking in one transaction; none is ever changed, a new one is added behind. A catalogue with a higher version than
there are migrations was written by a newer lazyfs, and is refused.

SQLite's pages have no checksums, so a flipped bit may come back as a value. Where a wrong value could lead to wrong
bytes under the mount, the row carries a check over all its values, and one that does not match is as good as lost.
"""

from __future__ import annotations

from typing import Final

import xxhash

Value = str | int | float | bytes | None

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (  # 1. Those who made it before versions were counted have these tables already.
        """
        CREATE TABLE IF NOT EXISTS names (
            url_key       TEXT PRIMARY KEY,
            url           TEXT NOT NULL,     -- redacted
            size          INTEGER NOT NULL,
            etag          TEXT,
            last_modified TEXT,
            ranged        INTEGER NOT NULL,  -- 1: it honours Range
            head          BLOB NOT NULL,     -- the bytes from 0 that came with the metadata
            checked_at    REAL NOT NULL      -- seconds since the epoch
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE IF NOT EXISTS listings (
            url_key   TEXT PRIMARY KEY,
            url       TEXT NOT NULL,         -- redacted
            body      BLOB NOT NULL,
            listed_at REAL NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE IF NOT EXISTS blobs (
            blob_id    TEXT PRIMARY KEY,
            url        TEXT NOT NULL,        -- redacted; where it was first seen; empty: not known
            size       INTEGER NOT NULL,
            block_size INTEGER NOT NULL,
            complete   INTEGER NOT NULL DEFAULT 0,
            last_used  REAL NOT NULL
        ) WITHOUT ROWID
        """,
    ),
    (  # 2. `row_check` is the function below.
        'ALTER TABLE names ADD COLUMN "check" BLOB',
        'UPDATE names SET "check" = row_check(url_key, size, etag, last_modified, ranged, head, checked_at)',
        'ALTER TABLE listings ADD COLUMN "check" BLOB',
        'UPDATE listings SET "check" = row_check(url_key, body)',
    ),
    (  # 3.
        """
        CREATE TABLE versions (
            blob_id       TEXT PRIMARY KEY,
            url_key       TEXT NOT NULL,     -- of what URL it is a version: where it was first seen
            etag          TEXT,
            last_modified TEXT
        ) WITHOUT ROWID
        """,
    ),
    (  # 4.
        """
        CREATE TABLE profiles (
            blob_id     TEXT PRIMARY KEY,
            size        INTEGER NOT NULL,
            etag        TEXT,                -- a strong one: hosts with other URLs for the blob know it by that
            body        BLOB NOT NULL,       -- profiles.py
            recorded_at REAL NOT NULL,       -- seconds since the epoch
            "check"     BLOB NOT NULL
        )
        """,
        "CREATE INDEX profiles_by_etag ON profiles (etag, size)",
        "CREATE INDEX profiles_by_date ON profiles (recorded_at)",
    ),
)

PROBES: Final = (
    'SELECT url_key, url, size, etag, last_modified, ranged, head, checked_at, "check" FROM names LIMIT 0',
    'SELECT url_key, url, body, listed_at, "check" FROM listings LIMIT 0',
    "SELECT blob_id, url, size, block_size, complete, last_used FROM blobs LIMIT 0",
    "SELECT blob_id, url_key, etag, last_modified FROM versions LIMIT 0",
    'SELECT blob_id, size, etag, body, recorded_at, "check" FROM profiles LIMIT 0',
)
"""Each fails when its table is not as it should be."""


def row_check(*values: Value) -> bytes:
    """Return the check of a row: XXH3-64, big-endian, over the values as Python writes them."""
    return xxhash.xxh3_64_digest(repr(values).encode("utf-8", "surrogatepass"))
