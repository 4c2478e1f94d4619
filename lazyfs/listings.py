"""Directories that have indexes: listed when first looked at, and again behind those who look, once for all who ask.

Several indexes may share a directory. One that cannot be reached hides nothing of what the others list; a directory
that was never listed fails only when none of them can be.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import trio

from lazyfs.counters import Counters
from lazyfs.entries import Entry, Kind, Refusal
from lazyfs.errors import DeadlineExceeded, LazyfsError, OriginError
from lazyfs.origin.backoff import Backoff
from lazyfs.problems import Problems
from lazyfs.shared import Shared
from lazyfs.tree import Directory, File, Node

log = logging.getLogger(__name__)

LIST_AGAIN: Final = 1.0
"""Seconds between two listings of a directory at the least."""

BATCH: Final = 50
"""Names of a listing taken in at a time, between two looks at what else is to do."""

LOOKED_AT_ONCE: Final = 2000
"""Names of it looked at without a pause, most of which are there already: some 2 ms."""

Lister = Callable[[str], Awaitable[list[Entry | Refusal]]]


class Names(Protocol):
    """Where what was listed comes and goes."""

    def announce(self, found: Iterable[Entry | Refusal], base: Directory | None = None) -> list[Node]:
        """Take over what a source says."""

    def take_away(self, node: Node) -> None:
        """Take a name away."""


class Listings:
    """Lists the directories of `names`. *Units*: seconds."""

    def __init__(
        self,
        names: Names,
        lister: Lister,
        problems: Problems,
        counters: Counters,
        nursery: trio.Nursery,
        read_timeout: float,
        fresh_for: float,
    ) -> None:
        self._names = names
        self._lister = lister
        self._problems = problems
        self._counters = counters
        self._nursery = nursery
        self._read_timeout = read_timeout
        self._fresh_for = max(fresh_for, LIST_AGAIN)
        self._under_way = Shared[None](nursery)
        self._kept_only = math.inf, math.inf  # when directories were listed from what was kept

    @contextmanager
    def listed_by(self, lister: Lister) -> Iterator[None]:
        """Have directories listed by another while inside; they are listed anew when they are looked at after that."""
        usual, self._lister = self._lister, lister
        before = trio.current_time()
        try:
            yield
        finally:
            self._lister = usual
            self._kept_only = before, trio.current_time()

    async def look(self, directory: Directory) -> None:
        """See to it that a directory was listed; what was listed a while ago is listed again behind.

        *Raises*: OriginError, SourceError, StoreError.
        """
        if directory.urls and directory.listed_at is None:
            await self.refresh(directory)
        elif directory.listed_at is not None and self._is_old(directory.listed_at):
            directory.listed_at = trio.current_time()
            self._nursery.start_soon(self._list_behind, directory)

    def _is_old(self, listed_at: float) -> bool:
        first, last = self._kept_only
        return first <= listed_at <= last or trio.current_time() - listed_at > self._fresh_for

    async def refresh(self, directory: Directory, url: str | None = None, *, patient: bool = True) -> None:
        """List a directory, or just its index at `url`; `patient`, again and again until the read's deadline.

        *Raises*: OriginError, SourceError, StoreError, when none of its indexes was ever listed.
        """
        pages = directory.urls if url is None else [url]
        key = f"{directory.path}\n{url or ''}"
        with trio.move_on_after(self._read_timeout):
            await self._under_way.do(key, lambda: self._list(directory, pages, patient=patient))
            return
        raise DeadlineExceeded(f"/{directory.path}", f"not listed by its origin in {self._read_timeout:g} s")

    async def _list_behind(self, directory: Directory) -> None:
        try:
            await self.refresh(directory, patient=False)
        except LazyfsError as exc:
            log.info("could not list again: %s", exc)

    async def _list(self, directory: Directory, pages: list[str], *, patient: bool) -> None:
        backoff = Backoff()
        while (failure := await self._list_each(directory, pages)) is not None:
            if not (patient and isinstance(failure, OriginError) and failure.retryable):
                raise failure
            self._counters.retries += 1
            await trio.sleep(backoff.after_failure(failure.retry_after))
        directory.listed_at = trio.current_time()

    async def _list_each(self, directory: Directory, pages: list[str]) -> LazyfsError | None:
        """List what can be listed; return why nothing can, when nothing ever was."""
        failures: list[LazyfsError] = []
        for url in pages:
            try:
                found = await self._lister(url)
            except LazyfsError as exc:
                failures.append(exc)
                continue
            await self._take_in(directory, url, found)
        if not failures:
            self._problems.solved(f"{directory.path}/")
        elif any(url in directory.listed for url in pages):
            self._problems.add(f"{directory.path}/", str(failures[0]))
        else:
            return failures[0]
        return None

    async def _take_in(self, directory: Directory, url: str, found: list[Entry | Refusal]) -> None:
        listed = directory.listed.setdefault(url, set())
        await self._drop_outdated(directory, listed, found)
        for start in range(0, len(found), LOOKED_AT_ONCE):
            await self._take_in_new(directory, listed, found[start : start + LOOKED_AT_ONCE])
            await trio.lowlevel.checkpoint()

    async def _take_in_new(self, directory: Directory, listed: set[str], found: list[Entry | Refusal]) -> None:
        new = (item for item in found if _is_new(directory, item))
        while batch := list(itertools.islice(new, BATCH)):
            brought = {item.path for item in batch if isinstance(item, Entry)} - directory.children.keys()
            listed.update(node.name for node in self._names.announce(batch, directory) if node.name in brought)
            await trio.lowlevel.checkpoint()

    async def _drop_outdated(self, directory: Directory, listed: set[str], found: list[Entry | Refusal]) -> None:
        """Take away the names that an index had listed and lists no longer, or describes otherwise.

        `listed` are the names that this index brought. Those of other sources are not its to take away.
        """
        now = {item.path: item for item in found if isinstance(item, Entry)}
        for number, name in enumerate(tuple(listed), 1):
            if number % LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            node, item = directory.children.get(name), now.get(name)
            entry = node.entry if isinstance(node, File) else None
            outdated = item is None or (entry and _described(item) != _described(entry))
            if node is None or outdated:
                listed.discard(name)
            if node is not None and outdated:
                self._names.take_away(node)


def _described(entry: Entry) -> tuple[int | None, int | None, str | None]:
    return entry.size, entry.mtime_ns, entry.digest


def _is_new(directory: Directory, item: Entry | Refusal) -> bool:
    """Say whether a listing's item adds something: an index that is listed again repeats most of what it said."""
    if isinstance(item, Refusal):
        return True
    if item.path in directory.removed:
        return False
    return item.kind is Kind.DIRECTORY or item.path not in directory.children
