"""Resolving: from a URL to the version it names, once for all who ask, from the catalogue where that knows it.

    known(ways) ── catalogue has one ── answer at once, and ask behind when that is older than `Freshness`
                 └ it has none ── one probe for all who wait, of one way after the other, until the deadline of each

What the origin says goes to the catalogue in batches, behind.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from lazyfs import urls
from lazyfs.channels import take_waiting
from lazyfs.counters import Counters
from lazyfs.errors import DeadlineExceeded, LazyfsError, OriginError, OriginRefused
from lazyfs.options import FRESH_FOR as FRESH_FOR
from lazyfs.origin.backoff import Backoff
from lazyfs.origin.client import Client
from lazyfs.shared import Shared
from lazyfs.store import Store
from lazyfs.versions import Known

log = logging.getLogger(__name__)

_GONE: Final = frozenset({404, 410})
"""Statuses of what is not there any more."""


class Resolver:
    """Knows what URLs name; one for each process. `nursery` runs what it does behind."""

    def __init__(
        self,
        store: Store,
        client: Client,
        counters: Counters,
        nursery: trio.Nursery,
        read_timeout: float,
        fresh_for: float = FRESH_FOR,
    ) -> None:
        self._store = store
        self._client = client
        self._counters = counters
        self._nursery = nursery
        self._read_timeout = read_timeout
        self.fresh_for = fresh_for
        self._probes = Shared[Known](nursery)
        self._revalidating: set[str] = set()
        self._doubted: set[str] = set()
        self._asked: dict[str, float] = {}  # when each URL was last revalidated, by trio's clock
        self._news: tuple[trio.MemorySendChannel[Known], trio.MemoryReceiveChannel[Known]]
        self._news = trio.open_memory_channel[Known](float("inf"))
        self.on_change: Callable[[Known], None] = lambda known: None
        nursery.start_soon(self._write_behind)

    async def known(self, ways: Sequence[str], size: int | None = None, *, patient: bool = True) -> Known:
        """Return what is at the first of some ways to a blob: what the catalogue knows at once, revalidated behind.

        Otherwise the origins are asked, once for all who ask; `patient`, again and again until the read's deadline.
        `size` is the blob's where a source said so, for an origin that does not.

        *Raises*: OriginError, StoreError. *Cancellation*: at any time.
        """
        for url in ways:
            known = self._store.catalogue.known(url)
            if known is not None:
                self.revalidate(known)
                return known
        return await self._ask(ways, None, size, patient=patient)

    async def current(self, ways: Sequence[str]) -> Known:
        """Return what is at the first of some ways now, as `known` does, but what is old is asked for again first.

        An origin that cannot say leaves it at what was known; one that says it is gone does not.

        *Raises*: OriginError, StoreError. *Cancellation*: at any time.
        """
        known = next(filter(None, map(self._store.catalogue.known, ways)), None)
        if known is None:
            return await self._ask(ways, None, None, patient=True)
        fresh = time.time() - known.checked_at < self.fresh_for and not self.doubts(known.url)
        if fresh or self._client.offline:
            return known
        try:
            return await self._ask((known.url,), known, known.version.size, patient=False, afresh=True)
        except OriginError as exc:
            if isinstance(exc, OriginRefused) and exc.status in _GONE:
                raise
            log.info("could not revalidate: %s", exc)
            return known

    async def _ask(
        self, ways: Sequence[str], known: Known | None, size: int | None, *, patient: bool, afresh: bool = False
    ) -> Known:
        key = f"{patient} {ways[0]}"
        do = self._probes.do_afresh if afresh else self._probes.do
        with trio.move_on_after(self._read_timeout):
            return await do(key, lambda: self._probe(ways, known, size, patient=patient))
        raise DeadlineExceeded(urls.redact(ways[0]), f"no answer from the origin in {self._read_timeout:g} s")

    async def checked(self, known: Known) -> Known:
        """Return what is at a URL now, not before; what was known, when its origin cannot say. *Raises*: StoreError."""
        if self._client.offline:
            return known
        try:
            return await self._ask((known.url,), known, known.version.size, patient=False, afresh=True)
        except OriginError as exc:
            log.info("could not revalidate: %s", exc)
            return known

    def doubt(self, known: Known) -> None:
        """Ask behind at once, since an answer said that what is known no longer holds; `on_change` hears of it."""
        if not self._client.offline and known.url not in self._doubted:
            self._doubted.add(known.url)
            self._nursery.start_soon(self._settle_doubt, known)

    def doubts(self, url: str) -> bool:
        """Say whether a doubt about a URL is still to be settled: then `checked` is worth waiting for."""
        return url in self._doubted

    async def _settle_doubt(self, known: Known) -> None:
        try:
            self.on_change(await self.checked(known))
        except LazyfsError as exc:
            log.info("could not revalidate: %s", exc)
        finally:
            self._doubted.discard(known.url)

    def revalidate(self, known: Known) -> None:
        """Ask behind whether what is known still holds, when it is old; `on_change` hears of it if not."""
        # `known` keeps the time of the look-up that made it, however often it was found to hold since.
        asked = trio.current_time() - self._asked.get(known.url, -math.inf)
        if self._client.offline or min(time.time() - known.checked_at, asked) < self.fresh_for:
            return
        if known.url not in self._revalidating:
            self._asked[known.url] = trio.current_time()
            self._revalidating.add(known.url)
            self._nursery.start_soon(self._revalidate, known)

    async def _revalidate(self, known: Known) -> None:
        try:
            now = await self._ask((known.url,), known, known.version.size, patient=False)
            if now.version != known.version:
                self.on_change(now)
        except LazyfsError as exc:
            log.info("could not revalidate: %s", exc)
        finally:
            self._revalidating.discard(known.url)

    async def _probe(self, ways: Sequence[str], known: Known | None, size: int | None, *, patient: bool) -> Known:
        backoff = Backoff()
        while True:
            try:
                news = await self._probe_each(ways, known, size)
            except OriginError as exc:
                if not (exc.retryable and patient):
                    raise
                self._counters.retries += 1
                wait = backoff.after_failure(exc.retry_after)
                log.log(logging.WARNING if backoff.tries == 1 else logging.DEBUG, "%s; next try in %.1f s", exc, wait)
                await trio.sleep(wait)
                continue
            self._news[0].send_nowait(news)
            return news

    async def _probe_each(self, ways: Sequence[str], known: Known | None, size: int | None) -> Known:
        """Ask one way after the other, those first that are well. *Raises*: OriginError, what may pass first."""
        errors: list[OriginError] = []
        for url in sorted(ways, key=self._client.resting):
            try:
                found = await self._client.probe(url, known.version if known else None, size)
            except OriginError as exc:
                errors.append(exc)
                continue
            if found is None:
                assert known is not None
                return dataclasses.replace(known, checked_at=time.time())
            return Known(url, found.version, found.ranged, found.head, time.time())
        raise min(errors, key=lambda exc: not exc.retryable).with_traceback(None)

    async def _write_behind(self) -> None:
        """Write news to the catalogue, all that there are at a time; the last ones also when cancelled."""
        sender, news = self._news
        with sender, news:
            try:
                async for first in news:
                    self._write([first, *take_waiting(news)])
            finally:
                self._write(take_waiting(news))

    def _write(self, batch: list[Known]) -> None:
        if batch:
            self._store.behind.note(partial(self._store.catalogue.remember, batch))
