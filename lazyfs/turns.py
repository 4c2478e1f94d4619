"""Locks by key, such as a URL, that are there only while somebody has or wants one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Lets one task at a time go on for each key; its length is how many keys somebody has or wants."""

    def __init__(self) -> None:
        self._locks: dict[K, trio.Lock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def of(self, key: K) -> AsyncIterator[None]:
        """Wait for a key's turn and have it, while inside. *Cancellation*: at any time."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # However it went, also in the wait: whoever has come meanwhile has this lock, or one of a later time.
            if not lock.locked() and self._locks.get(key) is lock:
                del self._locks[key]
