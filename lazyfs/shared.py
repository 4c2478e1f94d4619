"""Work that is done once for all who ask for it meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from lazyfs.errors import LazyfsError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Shared(Generic[T]):
    """Work that is done once for all who ask for the same key meanwhile, in `nursery`.

    *Cancellation*: of one who waits touches nobody else; the work ends when the last one has left. *Raises*: only
    LazyfsError: those who ask are tasks of the mount's, and whatever else escaped from one would end it.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._under_way: dict[str, _Work[T]] = {}

    async def do(self, key: str, function: Callable[[], Awaitable[T]]) -> T:
        """Return what `function` returns, called for this or an earlier caller that still waits. *Raises*: likewise."""
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = _Work()
            self._nursery.start_soon(self._run, key, work, function)
        work.waiting += 1
        try:
            await work.ended.wait()
        finally:
            work.waiting -= 1
            if work.waiting == 0 and not work.ended.is_set():
                work.scope.cancel()
                if self._under_way.get(key) is work:
                    del self._under_way[key]
        if work.error is not None:
            raise work.error.with_traceback(None)
        return work.results[0]

    async def do_afresh(self, key: str, function: Callable[[], Awaitable[T]]) -> T:
        """The same, but never what was begun before this call: the answer to an earlier question may be out of date."""
        earlier = self._under_way.get(key)
        if earlier is not None:
            await earlier.ended.wait()
        return await self.do(key, function)

    async def _run(self, key: str, work: _Work[T], function: Callable[[], Awaitable[T]]) -> None:
        try:
            with work.scope:
                work.results.append(await function())
        except LazyfsError as exc:
            work.error = exc
        except Exception as exc:
            log.exception("an unforeseen failure")
            work.error = LazyfsError(f"an unforeseen failure ({type(exc).__name__}); the log says more")
        finally:
            if self._under_way.get(key) is work:
                del self._under_way[key]
            work.ended.set()


class _Work(Generic[T]):
    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.waiting = 0
        self.results: list[T] = []
        self.error: LazyfsError | None = None
