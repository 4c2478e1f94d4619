"""Files of HTTP servers for programs under trio: `open_async`, and `open_store` for those that open many.

The bytes go the way that those of a mount go (blob.py), and the blocks, locks and flights are the same. There is no
cursor in what waits: `read_at` says where, and `read` keeps a place beside it, as trio.AsyncFile does.

The store opens in the caller's own `trio.run`; what it has under way ends when it is left.
"""

from __future__ import annotations

import errno
import io
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, Unpack
from urllib.parse import urlsplit

import trio

from lazyfs import urls
from lazyfs.entries import Entry, Kind
from lazyfs.errors import OriginDirectory, SourceError, UsageError, first_reason
from lazyfs.given import GivenBlob
from lazyfs.options import Settings
from lazyfs.python.info import Info
from lazyfs.python.options import Options, checked_digest, for_url, settings_of
from lazyfs.python.oserrors import as_expected, translated
from lazyfs.session import Session, open_session
from lazyfs.sources.feed import list_index
from lazyfs.store.named import described, row_of, with_start
from lazyfs.versions import BlobId, blob_id_for, starts_blob_id

log = logging.getLogger(__name__)

PIECE: Final = 4 * 1024 * 1024
"""Bytes asked of a blob in one go: what is larger is read in pieces, which readahead keeps together."""


class AsyncStore:
    """An open store for tasks of one `trio.run`; made by `open_store`, or by the thread behind `lazyfs.open`."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._handles = itertools.count(1)
        self.open_files = 0

    async def open(self, url: str, digest: str | None = None) -> AsyncFile:
        """Open the file at a URL, or a blob of the store by its id or the start of it.

        It is what is there now, and stays that: where the origin has another version later, reads of what was never
        fetched are ESTALE. With `digest` (`sha256:HEX`), nobody reads all of what does not match it.

        *Raises*: OSError, see oserrors.py; ValueError. *Cancellation*: at any time.
        """
        with translated():
            if starts_blob_id(url):
                given = await trio.to_thread.run_sync(self._stored, url)
            else:
                given = await self._current(url, digest)
        return await self.reopen(given)

    async def reopen(self, given: GivenBlob) -> AsyncFile:
        """Open what was open elsewhere, without a question to its origin. *Raises*: OSError."""
        files = self._session.vfs.files
        with translated():
            blob = await self._session.blobs.open(given.blob_id, given.known, self._ways(given.url))
        handle = next(self._handles)  # in place of an inode's number
        files.opened(handle, blob, "", lambda: given, 0)
        self.open_files += 1
        return AsyncFile(self, handle, given, blob.geometry.block_size)

    async def info(self, url: str, digest: str | None = None) -> Info:
        """Return what is known of a URL; its origin is asked where that is not known, or known for too long.

        *Raises*: OSError; ValueError. *Cancellation*: at any time.
        """
        with translated():
            try:
                given = await self._current(url, digest)
            except OriginDirectory:
                return Info(url, "directory")
            cached = await self._session.blobs.present_bytes(given.blob_id)
        version = given.version
        return Info(url, "file", version.size, version.mtime_ns, version.etag, given.blob_id, cached)

    async def scandir(self, url: str) -> list[Info]:
        """Return what the index at a URL lists, as mounts of `URL/` do; names that no file can have are left out.

        *Raises*: OSError; NotADirectoryError where no index is; ValueError. *Cancellation*: at any time.
        """
        url = with_slash(url)
        with translated():
            _refuse_strange(url)
            session = self._session
            try:
                found = await list_index(session.client, session.store, self._settings.mirrors, url)
            except SourceError as exc:
                raise NotADirectoryError(errno.ENOTDIR, str(exc)) from exc
        return [_listed(entry) for entry in found if isinstance(entry, Entry) and entry.url is not None]

    async def read_pieces(self, handle: int, offset: int, length: int, until: int | None) -> list[memoryview]:
        """Return bytes of an open file, in pieces, up to `PIECE` and up to its end. *Raises*: OSError."""
        with translated():
            return await self._session.vfs.files.read_pieces(handle, offset, min(length, PIECE), until)

    def release(self, handle: int) -> None:
        """Close a handle once. Does not wait."""
        self._session.vfs.release(handle)
        self.open_files -= 1

    @property
    def place(self) -> str:
        """Where the store is, as the kernel calls it. *Raises*: OSError."""
        return str(Path(f"/proc/self/fd/{self._session.store.layout.root}").readlink())

    def let_go(self) -> None:
        """Close what must not cross a fork, until `take_up`; from any thread. Blocks on the disk."""
        self._session.store.catalogue.let_go()

    def take_up(self) -> None:
        """Open it again, in the parent."""
        self._session.store.catalogue.take_up()

    async def _current(self, url: str, digest: str | None) -> GivenBlob:
        _refuse_strange(url)
        if urlsplit(url).path.endswith("/"):
            raise OriginDirectory(urls.redact(url), 0, "that is the URL of a directory: name a file in it")
        known = await self._session.resolver.current(self._ways(url))
        blob_id = blob_id_for(known.url, known.version, None if digest is None else checked_digest(digest))
        return GivenBlob(blob_id, known.url, known.version, known.ranged, checked_at=known.checked_at)

    def _stored(self, start: str) -> GivenBlob:
        store = self._session.store
        given, warning = described(store, row_of(store, with_start(store, start)))
        if warning:
            log.warning("%s", warning)
        return given

    def _ways(self, url: str) -> tuple[str, ...]:
        return urls.ways(url, (), self._settings.mirrors)


class AsyncFile:
    """A file that is open for reading: a cursor as trio.AsyncFile has, and `read_at` for those who want none.

    *Units*: bytes; `block_size` is what is fetched at the least. Close it with `aclose`, or use it in `async with`.
    """

    def __init__(self, store: AsyncStore, handle: int, given: GivenBlob, block_size: int) -> None:
        self.given = given
        self.size = given.version.size
        self.block_size = block_size
        self._store = store
        self._handle = handle
        self._offset = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        """Return it."""
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()

    def __repr__(self) -> str:
        """Say what it is."""
        return f"<{'closed ' if self._closed else ''}{type(self).__name__} {self.name!r}, {self.size} bytes>"

    @property
    def name(self) -> str:
        """Its URL, without what may be secret in it."""
        return urls.redact(self.given.url)

    @property
    def blob(self) -> BlobId:
        """The id that its bytes have in the store."""
        return self.given.blob_id

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    async def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes from the cursor on, all that are left without; fewer only at the end.

        *Raises*: OSError; ValueError, when it is closed. *Cancellation*: at any time; then the cursor has not moved.
        """
        length = self.size if size is None or size < 0 else size
        content = await self.read_at(self._offset, length)
        self._offset += len(content)
        return content

    async def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes `[offset, offset + length)`, as far as there are; any number of tasks may at once.

        *Raises*: OSError; ValueError, also when it is closed. *Cancellation*: at any time.
        """
        self._refuse_closed()
        if offset < 0 or length < 0:
            raise ValueError("offset and length are 0 or more")
        pieces: list[memoryview] = []
        stop = min(offset + length, self.size)
        while offset < stop:
            found = await self.read_pieces(offset, stop - offset, stop)
            pieces += found
            offset += sum(map(len, found))
        if not pieces:
            await trio.lowlevel.checkpoint()
        return b"".join(pieces)

    async def read_pieces(self, offset: int, length: int, until: int | None = None) -> list[memoryview]:
        """Return bytes at an offset without copying them: at least one, and up to `PIECE`; none at the end.

        `until` is where somebody's read ends that this is a part of: nothing is fetched ahead past that.

        *Raises*: OSError; ValueError, when it is closed. *Cancellation*: at any time.
        """
        self._refuse_closed()
        return await self._store.read_pieces(self._handle, offset, length, until)

    async def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the cursor, and return where it is. *Raises*: ValueError; it cannot be before the start."""
        await trio.lowlevel.checkpoint()
        self._offset = position(self._offset, self.size, offset, whence)
        return self._offset

    async def tell(self) -> int:
        """Return where the cursor is."""
        await trio.lowlevel.checkpoint()
        return self._offset

    async def aclose(self) -> None:
        """Close it; once more does nothing."""
        self.release()
        await trio.lowlevel.checkpoint()

    def release(self) -> None:
        """Close it. Does not wait."""
        if not self._closed:
            self._closed = True
            self._store.release(self._handle)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed file")


@asynccontextmanager
async def open_store(**options: Unpack[Options]) -> AsyncIterator[AsyncStore]:
    """Open a store for the tasks inside, for URLs of any origin; `Options` says what it takes.

    Where headers or a client certificate are given, use `open_async`: they are one URL's.

        async with lazyfs.open_store(store="/var/cache/lazyfs") as store:
            async with await store.open("https://example.org/data.zip") as file:
                end = await file.read_at(file.size - 22, 22)

    *Raises*: OSError, when the store cannot be used; ValueError; TypeError.
    """
    with translated():
        settings = settings_of(options)
    if for_url(settings, "https://example.org/") != settings:
        raise ValueError("headers and client certificates are one URL's: use open_async(url, ...)")
    async with opened_store(settings) as store:
        yield store


@asynccontextmanager
async def open_async(url: str, *, digest: str | None = None, **options: Unpack[Options]) -> AsyncIterator[AsyncFile]:
    """Open the file at a URL for the tasks inside; as `lazyfs.open`, under trio.

        async with lazyfs.open_async("https://example.org/data.zip") as file:
            end = await file.read_at(file.size - 22, 22)

    *Raises*: OSError; ValueError; TypeError. *Cancellation*: at any time.
    """
    with translated():
        settings = for_url(settings_of(options), url)
    async with opened_store(settings) as store, await store.open(url, digest=digest) as file:
        yield file


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[AsyncStore]:
    """Open a store by its settings. *Raises*: OSError; what is raised inside, as it is, in no group."""
    inside: BaseException | None = None
    try:
        with translated():
            async with open_session(settings) as session:
                try:
                    yield AsyncStore(session, settings)
                except BaseException as exc:
                    inside = exc
                    raise
    except BaseExceptionGroup as group:
        if inside is not None and _is_only(group, inside):
            raise inside from None
        if inside is None and (reason := first_reason(group)) is not None:
            raise as_expected(reason) from group
        raise


def _is_only(group: BaseExceptionGroup[BaseException], exc: BaseException) -> bool:
    """Say whether a group holds just this, besides what was cancelled."""
    return all(leaf is exc or isinstance(leaf, trio.Cancelled) for leaf in _leaves(group))


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def position(now: int, size: int, offset: int, whence: int) -> int:
    """Return where a cursor comes to. *Raises*: ValueError."""
    try:
        there = (0, now, size)[whence] + offset
    except IndexError:
        raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)") from None
    if there < 0:
        raise ValueError(f"negative seek position {there}")
    return there


def with_slash(url: str) -> str:
    """Return a directory's URL with a slash at the end of its path."""
    end = min((place for mark in "?#" if (place := url.find(mark)) >= 0), default=len(url))
    return url if url[:end].endswith("/") else f"{url[:end]}/{url[end:]}"


def _refuse_strange(url: str) -> None:
    if not urls.is_http(url):
        raise UsageError(f"{url[:80]!r} is neither an http or https URL nor a blob of the store")


def _listed(entry: Entry) -> Info:
    assert entry.url is not None
    return Info(entry.url, "directory" if entry.kind is Kind.DIRECTORY else "file", entry.size, entry.mtime_ns)
