"""The catalogue's SQLite database: opened, brought to this version, and replaced when it is damaged.

    open ──> sound ──────────────────────────────────────────────────────────> in use
         └─> damaged ── catalogue lock, exclusive; still damaged? ── set aside ── made anew, from the blobs ──^

Damage is what SQLite calls corrupt, what is no database, a table that is not ours, and a name that is no plain file. A
full disk or a database that somebody locks is not: that passes. A page that the disk fails to read is corrupt, too, to
SQLite, and to us at the second look: it may never be read again. The damaged one stays as `catalogue.db.damaged-DATE`
until the next.

It may come to light in any process, while others have the same file open. Whoever finds it sets the file aside, and
each of the others sees at its next statement that the name leads to another file, and goes over to that; until then it
reads what it has. To open and to close takes the catalogue lock too, shared: SQLite finds the log beside a database by
its name when it first reads, and deletes it by its name when the last one closes, and neither may be another's log.

`one` is for the event loop: it never waits, and what has to be renewed is renewed behind it, in a thread. The others
belong in a worker thread, or in a command.

A database that cannot be opened because of its disk has a stand-in: what can be read of it, in memory, which nobody
shares. `join` goes over to the store's own when that can be opened again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from lazyfs.errors import StoreError
from lazyfs.store.locks import StoreLocks
from lazyfs.store.schema import MIGRATIONS, PROBES, Value, row_check

log = logging.getLogger(__name__)

BUSY_SECONDS: Final = 10.0
"""Seconds to wait for another process's transaction."""

OPEN_SECONDS: Final = 3.0
"""Seconds to wait to open the database, or for another process that opens, closes or replaces it."""

LOOK_SECONDS: Final = 0.25
"""For a look-up, on which everything waits: one is held up only while another process mends the database."""

AGAIN: Final = 1.0
"""Seconds until another try to replace a database after one that failed."""

ASIDE: Final = ".damaged-"
"""What the name of a database that was set aside has behind its own."""

_BESIDE: Final = ("", "-journal", "-wal", "-shm")

_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,  # a name that is no plain file was found before
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""Errors that say nothing of what is in the file. Since our statements are right, any other does."""

Row = tuple[Any, ...]


class Damaged(StoreError):
    """The database cannot be what was written."""


class Unusable(StoreError):
    """The disk fails, or another process has the database locked: that passes."""


@dataclass(frozen=True, slots=True)
class _Open:
    """Connections to one database: a writer that waits does not hold up a look-up on the other one.

    A stand-in has one connection, and no file.
    """

    writes: sqlite3.Connection
    reads: sqlite3.Connection
    file: os.stat_result | None

    def close(self) -> None:
        self.reads.close()
        self.writes.close()


class Database:
    """An open database; its methods may be called from any thread. *Raises*: StoreError, all of them.

    `fill` gives the statement and the rows that a new one begins with, when its tables are there. One that is
    `suspected` of damage is read whole before it is opened.
    """

    def __init__(self, path: Path, fill: Callable[[], tuple[str, Iterable[Row]]], *, suspected: bool = False) -> None:
        self._path = path
        self._fill = fill
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._renewer: threading.Thread | None = None
        self._renew_after = 0.0
        self._suspected = False  # since it was opened, a statement has met damage
        try:
            if suspected:
                self._set_aside()
            self._at = self._open_or_replace()
        except Unusable:
            self._at = self._stand_in()
        self._suspected = False

    def close(self) -> None:
        """Close it."""
        if self._renewer is not None:
            self._renewer.join()
        self._close(self._at)

    def let_go(self) -> None:
        """Close it until `take_up`, which must follow: meanwhile the process may fork. Blocks on who uses it.

        *Locks*: takes writes, until then. *Source*: sqlite.org/howtocorrupt.html, "Carrying an open database file
        across a fork()".
        """
        self._writing.acquire()
        self._reading.acquire()
        if self.joined:
            self._close(self._at)

    def take_up(self) -> None:
        """Open it again, in the process that has let it go."""
        try:
            if self.joined:
                self._at = self._open_or_replace()
        except StoreError as exc:
            log.warning("%s", exc)
            self._at = self._stand_in()
        finally:
            self._reading.release()
            self._writing.release()

    @property
    def joined(self) -> bool:
        """Whether it is the store's own, not a stand-in."""
        return self._at.file is not None

    def join(self) -> None:
        """Go over from the stand-in to the store's own; what the stand-in has heard is lost. Blocks on the disk."""
        if not self.joined:
            now = self._open_or_replace()
            with self._writing, self._reading:
                before, self._at, self._suspected = self._at, now, False
            before.close()

    def one(self, statement: str, *values: Value) -> Row | None:
        """Return the first row of an answer. Does not wait; takes some 20 microseconds."""
        if self._suspected or self._has_moved():
            self._renew_behind()
        try:
            with self._reported(), self._reading:
                row: Row | None = self._at.reads.execute(statement, values).fetchone()
                return row
        except Damaged:
            self._renew_behind()
            raise

    def all(self, statement: str, *values: Value) -> list[Row]:
        """Return the rows of an answer; blocks on the disk where it is damaged."""
        if self._suspected or self._has_moved():
            self._renew()
        try:
            return self._all(statement, values)
        except Damaged:
            self._renew()
            return self._all(statement, values)

    def write(self, *steps: tuple[str, Iterable[Row]], sync: bool = False) -> int:
        """Execute each statement for each of its rows, all in one transaction, and return how many rows that changed.

        With `sync` it outlives a power loss. Blocks on the disk and on other writers.
        """
        kept = [(statement, list(rows)) for statement, rows in steps]  # for another time, should it be damaged
        if self._suspected or self._has_moved():
            self._renew()
        try:
            return self._write(kept, sync)
        except Damaged:
            self._renew()
            return self._write(kept, sync)

    def _all(self, statement: str, values: tuple[Value, ...]) -> list[Row]:
        with self._reported(), self._reading:
            return self._at.reads.execute(statement, values).fetchall()

    def _write(self, steps: list[tuple[str, list[Row]]], sync: bool) -> int:
        with self._reported(), self._writing:
            connection = self._at.writes
            before = connection.total_changes
            connection.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
            with _transaction(connection):
                for statement, rows in steps:
                    connection.executemany(statement, rows)
            return connection.total_changes - before

    # Damage, and the way from one file to the next.

    def _has_moved(self) -> bool:
        """Say whether the name leads to another file than the one that is open."""
        if self._at.file is None:
            return False
        try:
            return not os.path.samestat(os.stat(self._path, follow_symlinks=False), self._at.file)
        except OSError:
            return True

    def _renew_behind(self) -> None:
        """Have `_renew` done by a thread, unless one does, or has failed just now."""
        if (self._renewer is None or not self._renewer.is_alive()) and time.monotonic() >= self._renew_after:
            self._renew_after = time.monotonic() + AGAIN
            self._renewer = threading.Thread(target=self._renew_quietly, name="catalogue")
            self._renewer.start()

    def _renew_quietly(self) -> None:
        try:
            self._renew()
        except StoreError as exc:
            log.warning("%s", exc)

    def _renew(self) -> None:
        """Go over to the database that the name leads to, after replacing it when it is damaged; blocks."""
        with self._writing:
            if self._suspected:
                self._set_aside()
            elif not self._has_moved():
                return
            now = self._open_or_replace()
            with self._reading:
                before, self._at, self._suspected = self._at, now, False
            self._close(before)

    def _open_or_replace(self) -> _Open:
        try:
            return self._open()
        except Damaged:
            self._set_aside()
            return self._open()

    def _open(self) -> _Open:
        """Open what is there, or make it. *Locks*: takes catalogue, shared."""
        with _locked(self._path), self._reported(), contextlib.ExitStack() as undo:
            _refuse_strange(self._path)
            writes, reads = (undo.enter_context(contextlib.closing(_connect(self._path))) for _ in range(2))
            reads.execute(f"PRAGMA busy_timeout = {LOOK_SECONDS * 1000:.0f}")
            if stat.S_IMODE(self._path.stat().st_mode) != 0o600:
                self._path.chmod(0o600)  # those beside it are made with the same mode
            _retried(lambda: _bring_up(self._path, writes, self._fill))
            _probe(reads)
            writes.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
            opened = _Open(writes, reads, os.stat(self._path, follow_symlinks=False))
            undo.pop_all()
            return opened

    def _stand_in(self) -> _Open:
        """Return what stands in for the database. *Source*: sqlite.org/wal.html#read_only_databases.

        Where no index of the log can be made beside it, it is read as if nobody wrote to it, and without its log.
        """
        for how in ("mode=ro", "immutable=1"):
            ours = _prepared(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
            with contextlib.suppress(sqlite3.Error, OSError):
                name = f"file:{quote(str(self._path))}?{how}"
                with contextlib.closing(sqlite3.connect(name, uri=True, timeout=LOOK_SECONDS)) as theirs:
                    theirs.backup(ours)
                if ours.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                    _bring_up(self._path, ours, self._fill)
                    return _Open(ours, ours, None)
            ours.close()
        ours = _prepared(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
        _bring_up(self._path, ours, None)
        return _Open(ours, ours, None)

    def _set_aside(self) -> None:
        """Rename the database and what is beside it, if it is damaged still. *Locks*: takes catalogue, exclusively."""
        with _locked(self._path, alone=True):
            try:
                with self._reported():
                    _examine(self._path)
                    if self._path.exists():
                        with contextlib.closing(_connect(self._path)) as writes:
                            _retried(lambda: _bring_up(self._path, writes, self._fill))
            except Damaged as exc:
                aside = f"{self._path}{ASIDE}{time.strftime('%Y%m%dT%H%M%S')}"
                log.error("%s; it is kept as %s, and made anew from the blobs", exc, aside)  # noqa: TRY400
                with reported(self._path):
                    _rename(self._path, aside)

    def _close(self, connections: _Open) -> None:
        if connections.file is None:
            connections.close()
            return
        try:
            with _locked(self._path):
                connections.close()
        except StoreError:
            connections.close()  # whoever has the lock is stopped, or the disk fails

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn SQLite's errors into one line; note damage."""
        try:
            with reported(self._path):
                yield
        except Damaged:
            self._suspected = True
            raise


def examine(path: Path) -> None:
    """Read the whole database and change nothing; one that is not there is sound. *Locks*: takes catalogue, shared.

    *Raises*: Damaged; StoreError, when it is newer or cannot be read.
    """
    with _locked(path), reported(path):
        _examine(path)


def _examine(path: Path) -> None:
    """The same. *Locks*: catalogue, held."""
    _refuse_strange(path)
    if path.exists():
        with contextlib.closing(_connect(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != ("ok",):
                raise Damaged(_damaged(path, str(found[0]).splitlines()[-1]))
            if _version(path, connection) == len(MIGRATIONS):
                _probe(connection)


@contextlib.contextmanager
def _locked(path: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold the catalogue lock. *Raises*: Unusable, also when another process holds it for too long."""
    with reported(path):
        fd = os.open(path.with_name("quota"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + OPEN_SECONDS
        with reported(path):
            while not StoreLocks(fd).try_catalogue(alone=alone):
                if time.monotonic() > deadline:
                    raise Unusable(f"the catalogue {path} is held by a process that does not go on")
                time.sleep(0.001)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line. *Raises*: Damaged; Unusable."""
    try:
        yield
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", None)  # Python's own have none: it is closed
        if code is None or code & 0xFF in _PASSING:
            raise Unusable(f"the catalogue {path} cannot be used now: {exc}") from exc
        raise Damaged(_damaged(path, exc)) from exc
    except OSError as exc:
        raise Unusable(f"the catalogue {path} cannot be used now: {exc.strerror or exc}") from exc


def _damaged(path: Path, why: object) -> str:
    return f"the catalogue {path} is damaged ({why})"


def _refuse_strange(path: Path) -> None:
    """Find what SQLite would make nothing of: it follows a link, and waits for whoever has a file that lost its pages.

    *Raises*: Damaged; OSError.
    """
    sizes = {}
    for end in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"{path}{end}", follow_symlinks=False)
            sizes[end] = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise Damaged(_damaged(path, f"{path.name}{end} is not a file"))
    if sizes.get("") == 0 and "-wal" in sizes:
        raise Damaged(_damaged(path, "it is empty, and has a log"))


def _connect(path: Path) -> sqlite3.Connection:
    return _prepared(sqlite3.connect(path, timeout=OPEN_SECONDS, isolation_level=None, check_same_thread=False))


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.text_factory = _text
    connection.create_function("row_check", -1, row_check, deterministic=True)
    return connection


def _text(data: bytes) -> str:
    """Read a text, which damage may have made one that is no UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def _retried(step: Callable[[], None]) -> None:
    """Do what changes the journal's mode: where several processes do, SQLite does not wait, whatever its time-out.

    *Source*: sqlite.org/rescode.html#busy.
    """
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            return step()
        except sqlite3.OperationalError as exc:
            code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            if code & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _bring_up(path: Path, connection: sqlite3.Connection, fill: Callable[[], tuple[str, Iterable[Row]]] | None) -> None:
    """Make the tables, or bring them to this version; a new one is filled in the same transaction."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if _version(path, connection) < len(MIGRATIONS):
        with _transaction(connection):
            version = _version(path, connection)  # another process may have been here
            new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
            for statement in itertools.chain(*MIGRATIONS[version:]):
                connection.execute(statement)
            if new and fill is not None:
                connection.executemany(*fill())
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    _probe(connection)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends some that have failed
            connection.execute("ROLLBACK")
        raise


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """Return how many migrations a database has had. *Raises*: StoreError, when it has had more than there are."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the catalogue {path} was written by a newer lazyfs "
            f"(version {version}, this one knows {len(MIGRATIONS)}); upgrade lazyfs or name another store with --store"
        )
    return int(version)


def _probe(connection: sqlite3.Connection) -> None:
    for statement in PROBES:
        connection.execute(statement).fetchall()


def _rename(path: Path, aside: str) -> None:
    """Rename a database and what is beside it, in the place of the last one. *Locks*: catalogue, held exclusively."""
    for old in path.parent.glob(f"{path.name}{ASIDE}*"):
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    # The database first: SQLite throws away a log or journal that lies beside an empty one.
    for end in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{end}", f"{aside}{end}")
