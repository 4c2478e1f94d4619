"""lazyfs for fsspec: `fsspec.open("lazyfs://https://example.org/data.zip")`, and `lazyfs::https://…` in chains.

Paths are whole URLs. Directories are what web servers' indexes list, as under a mount of `URL/`; everything is
read-only. This is the one module that imports fsspec, which finds it by its entry point.

A chain (`lazyfs::https://…`) makes fsspec load its own HTTP file system for the last link, though nobody uses it: that
takes aiohttp. `lazyfs://https://…` does without.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, NoReturn, cast

import fsspec.utils
import trio
from fsspec.implementations.chained import ChainedFileSystem

from lazyfs.python.asynchronous import AsyncFile, AsyncStore
from lazyfs.python.files import File
from lazyfs.python.info import Info
from lazyfs.python.options import Options
from lazyfs.python.stores import Store

_OF_FSSPEC: Final = ("use_listings_cache", "listings_expiry_time", "max_paths")
_AT_ONCE: Final = 64
"""Ranges that are read at a time."""
_FILES_AT_ONCE: Final = 32
"""Files of which they are: each takes a few descriptors, of which a process may have 1024 as a rule."""


class LazyFileSystem(ChainedFileSystem):
    """A file system of URLs on a store; its options are those of `lazyfs.open` (`lazyfs.Options`).

        fs = fsspec.filesystem("lazyfs", store="/var/cache/lazyfs")
        fs.ls("https://example.org/images/", detail=False)
        fs.cat_ranges(["https://example.org/data.bin"] * 2, [0, 1_000_000], [100, 1_000_100])

    Instances may be pickled, and used in threads and in processes that were forked: they share what their process has.
    What was listed is believed for as long as what is known of a URL is (`revalidate`).
    """

    protocol: ClassVar[str] = "lazyfs"
    cachable = True
    # As the last link of a chain names them: the file is in the path already.
    _strip_tokenize_options = ("fo", "target_protocol")

    def __init__(self, **options: Any) -> None:
        options.pop("fo", None)
        options.pop("target_protocol", None)
        if options.pop("target_options", None):
            raise ValueError("options of a chain's last link are not used: give them to lazyfs, as in lazyfs={...}")
        given = {name: options.pop(name) for name in _OF_FSSPEC if name in options}
        given.setdefault("listings_expiry_time", options.get("revalidate", 60.0))
        super().__init__(**given)
        self.store = Store(**cast("Options", options))

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Return the URL that a path is: without `lazyfs://`, and without slashes at the end of its path."""
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        path = fsspec.utils.stringify_path(path)
        for start in ("lazyfs://", "lazyfs::"):
            path = path.removeprefix(start)
        return path if "?" in path else path.rstrip("/")

    # What is there.

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return what is known of a URL: name, size, type; of files mtime, etag, blob and cached (bytes) as well."""
        path = self._strip_protocol(path)
        if self._listed(path) == "directory":
            return {"name": path, "size": 0, "type": "directory"}
        return _details(self.store.info(path), path)

    def ls(self, path: str, detail: bool = True, refresh: bool = False, **_: Any) -> list[Any]:
        """List a directory; for a file, it alone. A size is None where the index does not print it exactly."""
        path = self._strip_protocol(path)
        listing = None if refresh else self._from_cache(path)
        if listing is None:
            listing = self._list(path)
        return listing if detail else sorted(entry["name"] for entry in listing)

    def _list(self, path: str) -> list[dict[str, Any]]:
        try:
            found = self.store.scandir(path)
        except (FileNotFoundError, NotADirectoryError):
            entry = self.info(path)
            if entry["type"] == "file":
                return [entry]
            raise
        listing = [_details(one, self._strip_protocol(one.url)) for one in found]
        self.dircache[path] = listing
        return listing

    def _from_cache(self, path: str) -> list[dict[str, Any]] | None:
        try:
            listing: list[dict[str, Any]] = self.dircache[path]
        except KeyError:
            return None
        return listing

    def _listed(self, path: str) -> str | None:
        """Return what a path is by the listing of its parent, if that is known."""
        for entry in self._from_cache(self._parent(path)) or ():
            if entry["name"] == path:
                return str(entry["type"])
        return "directory" if self._from_cache(path) is not None else None

    def exists(self, path: str, **_: Any) -> bool:
        """Say whether something is there. *Raises*: OSError, when that cannot be told."""
        try:
            self.info(path)
        except (FileNotFoundError, ValueError):
            return False
        return True

    def isdir(self, path: str) -> bool:
        """Say whether an index is there."""
        path = self._strip_protocol(path)
        try:
            return (self._listed(path) or self.info(path)["type"]) == "directory"
        except (OSError, ValueError):
            return False

    def isfile(self, path: str) -> bool:
        """Say whether a file is there."""
        path = self._strip_protocol(path)
        try:
            return (self._listed(path) or self.info(path)["type"]) == "file"
        except (OSError, ValueError):
            return False

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """Find what matches; a `?` in front of a `=` begins a query, and stands for no character."""
        path = self._strip_protocol(path)
        if "=" not in path.partition("?")[2]:
            return super().glob(path, maxdepth, **kwargs)
        found = {path: self.info(path)} if self.exists(path) else {}
        return found if kwargs.get("detail") else list(found)

    def ukey(self, path: str) -> str:
        """Return what tells one version of a file from another: the id of its blob."""
        info = self.store.info(self._strip_protocol(path))
        return info.blob or info.url

    def checksum(self, path: str) -> int:
        """Return the same as a number."""
        return int(fsspec.utils.tokenize(self.ukey(path)), 16)

    def modified(self, path: str) -> datetime:
        """Return what the origin says. *Raises*: NotImplementedError, when it says nothing."""
        mtime: float | None = self.info(path).get("mtime")
        if mtime is None:
            raise NotImplementedError(f"{path}: its origin gives no date")
        return datetime.fromtimestamp(mtime, UTC)

    def created(self, path: str) -> NoReturn:
        """Refuse to say what no origin does."""
        raise NotImplementedError("no origin says when a file was made; see modified")

    # What is in it.

    def _open(self, path: str, mode: str = "rb", **_: Any) -> File:
        """Open a file; `fsspec`'s own caches are not in between, so what is said of them says nothing here."""
        if mode != "rb":
            self._refuse()
        return self.store.open(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return bytes of a file; negative ends count from its end."""
        (content,) = self.cat_ranges([path], start, end, on_error="raise")
        return cast("bytes", content)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Sequence[int | None] | int | None,
        ends: Sequence[int | None] | int | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[bytes | Exception]:
        """Return ranges of files, all of them read at once; what they have in common is fetched once.

        `max_gap` says nothing: what is fetched is blocks, and neighbours in one request. With `on_error="return"` what
        failed is in the place of its bytes.
        """
        if not isinstance(paths, list):
            raise TypeError("paths is a list")
        begins = [starts] * len(paths) if starts is None or isinstance(starts, int) else list(starts)
        stops = [ends] * len(paths) if ends is None or isinstance(ends, int) else list(ends)
        if not len(paths) == len(begins) == len(stops):
            raise ValueError("as many starts and ends as paths")
        urls = [self._strip_protocol(path) for path in paths]
        found: list[bytes | Exception] = [b""] * len(paths)
        together: dict[Any, list[int]] = {}
        for number, url in enumerate(urls):
            together.setdefault(self.store.background(url), []).append(number)
        for background, numbers in together.items():
            ranges = [(urls[number], begins[number], stops[number]) for number in numbers]
            for number, content in zip(
                numbers, background.call(_read_ranges, background.store, ranges, on_error == "return"), strict=True
            ):
                found[number] = content
        return found

    # What it does not do.

    def _refuse(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuse to write. *Raises*: OSError, EROFS."""
        raise OSError(errno.EROFS, f"{os.strerror(errno.EROFS)}: lazyfs reads what origins have, and nothing else")

    mkdir = makedirs = rmdir = rm = _rm = rm_file = cp_file = mv = put_file = pipe_file = touch = _refuse


async def _read_ranges(
    store: AsyncStore, ranges: list[tuple[str, int | None, int | None]], tolerant: bool
) -> list[bytes | Exception]:
    """Read ranges of files, each file opened once, and no more at a time than there are descriptors for."""
    found: list[bytes | Exception] = [b""] * len(ranges)
    failures: list[Exception] = []
    wanted: dict[str, list[int]] = {}
    for number, (url, _, _) in enumerate(ranges):
        wanted.setdefault(url, []).append(number)
    files, reads = trio.Semaphore(_FILES_AT_ONCE), trio.Semaphore(_AT_ONCE)  # released by who was begun

    def failed(exc: Exception, numbers: list[int]) -> None:
        for number in numbers:
            found[number] = exc
        failures.append(exc)
        if not tolerant:
            everything.cancel_scope.cancel()

    async def read_one(file: AsyncFile, number: int) -> None:
        try:
            start, stop, _ = slice(*ranges[number][1:]).indices(file.size)
            found[number] = await file.read_at(start, max(0, stop - start))
        except OSError as exc:
            failed(exc, [number])
        finally:
            reads.release()

    async def read(url: str, numbers: list[int]) -> None:
        try:
            async with await store.open(url) as file, trio.open_nursery() as nursery:
                for number in numbers:
                    await reads.acquire()
                    nursery.start_soon(read_one, file, number)
        except (OSError, ValueError) as exc:
            failed(exc, numbers)
        finally:
            files.release()

    async with trio.open_nursery() as everything:
        for url, numbers in wanted.items():
            await files.acquire()
            everything.start_soon(read, url, numbers)
    if failures and not tolerant:
        raise failures[0]
    return found


def _details(info: Info, name: str) -> dict[str, Any]:
    """Describe what a URL names as fsspec does."""
    if info.kind == "directory":
        return {"name": name, "size": 0, "type": "directory"}
    mtime = None if info.mtime_ns is None else info.mtime_ns / 1e9
    details = {"name": name, "size": info.size, "type": "file", "mtime": mtime}
    known = {"etag": info.etag, "blob": info.blob, "cached": info.cached}
    return details | {key: value for key, value in known.items() if value is not None}
