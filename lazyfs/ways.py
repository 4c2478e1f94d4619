"""The ways to a blob: its URL and its mirrors, in order, each with a validator of its own.

    ask ── the first way that is well ── answers ── proven bytes
             │ fails                       └ slow: the next way, or the same once more, beside it; the first one wins
             ▼
           the next way ── … ── all have failed: the one that may pass is the error, and the caller tries again later

A way that failed is asked after the others for a while (health.py). When that is over it is asked behind the reader's
back whether it is well again, so that nobody has to wait to find out.

What may be mixed. Bytes of one blob may come from several ways when the blob has a digest, or when the origin of
the later way says the same ETag or the same Last-Modified for the same size. Otherwise a few blocks that are in the
store are asked of it and compared; when there are none, or one differs, that way is not used. Nor is it once the first
way has changed: so may this one have, to a version that has those blocks in common. The first way needs no such proof:
the blob is what its validator says.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from lazyfs import urls
from lazyfs.counters import Counters
from lazyfs.errors import BlobChanged, LazyfsError, OriginError, OriginFailing, OriginRefused
from lazyfs.extents import Block, Extent
from lazyfs.origin.client import Answer, Attempt, Client
from lazyfs.pace import Pace
from lazyfs.shared import Shared
from lazyfs.urgency import Urgency
from lazyfs.versions import Known, Version

log = logging.getLogger(__name__)

REFUSED_FOR: Final = 60.0
"""Seconds for which a way that has another blob, or says no, is not asked again."""

Samples = Callable[[], Awaitable[list[tuple[Extent, Block]]]]
"""Returns some parts of the blob that are in the store, and where they are."""

Urgent = Callable[[], Urgency]

_LAGS: Final = 0.05
"""Seconds by which a clock is late when it is this process that is slow, not the origin."""

_LOOK_AFTER: Final = 15.0
"""Seconds for asking whether a way is well again."""


@dataclass(slots=True, eq=False)
class Way:
    """A URL, and what it is known to name."""

    url: str
    version: Version | None = None  # pinned; None until it was asked, and shown to be the same blob
    refused: OriginError | None = None  # why it is not to be asked,
    until: float = 0.0  # and how long
    ailing: bool = False  # it has failed, and not answered since
    asking: bool = False  # it is being asked, behind, whether it is well again

    def refuse(self, error: OriginError, seconds: float = REFUSED_FOR) -> None:
        """Leave it alone for a while."""
        self.refused, self.until = error, trio.current_time() + seconds

    @property
    def usable(self) -> bool:
        """Whether it may be asked."""
        return self.refused is None or trio.current_time() >= self.until


class Ways:
    """Where one open blob can be had; shared by all its readers. `nursery` runs what is asked behind."""

    def __init__(
        self, known: Known, client: Client, counters: Counters, nursery: trio.Nursery, samples: Samples, *, digest: bool
    ) -> None:
        self._ways = [Way(known.url, known.version)]
        self._client = client
        self._counters = counters
        self._nursery = nursery
        self._samples = samples
        self._digest = digest
        self._pinned = known.version
        self._changed = False  # whether the first way had another version when it answered last
        self._pinning = Shared[Version](nursery)
        self.used: set[str] = set()  # the URLs that bytes came from

    @property
    def urls(self) -> list[str]:
        """All of them, in order."""
        return [way.url for way in self._ways]

    @property
    def shown(self) -> str:
        """Where bytes came from, when that was one place, else the first way; as messages show it."""
        return urls.redact(next(iter(self.used)) if len(self.used) == 1 else self._ways[0].url)

    def pace(self) -> Pace | None:
        """Return how fast the first way that is well delivers; None while too little is known."""
        way = next((way for way in self._ways if not way.ailing), self._ways[0])
        return self._client.pace(way.url)

    def add(self, url: str) -> None:
        """Take in one more, behind those that are known."""
        if all(way.url != url for way in self._ways):
            self._ways.append(Way(url))

    def renew(self, known: Known) -> None:
        """Pin what the first way is known to name now."""
        self._ways[0].version = self._pinned = known.version

    def refuse(self, url: str, error: OriginError) -> None:
        """Leave one alone for a while."""
        for way in self._ways:
            if way.url == url:
                way.refuse(error)

    async def ask(self, extent: Extent, urgency: Urgent) -> Answer:
        """Ask for a run of bytes, way by way, and return the first answer; close it.

        *Raises*: OriginError, when there is none: what the blob has become, else what may pass, else the first.
        *Cancellation*: at any time. *Units*: bytes.
        """
        errors: list[OriginError] = []
        queue = self._in_order()
        while queue:
            way = queue.pop(0)
            race = _Race(self._client, partial(self._ask_one, extent, urgency))
            await race.run(way, queue[0] if queue else way)
            for failed, exc in race.errors:
                self._note_failure(failed, exc)
                errors.append(exc)
                if failed in queue:
                    queue.remove(failed)
            if race.answer is not None and race.by is not None:
                self._note_success(race.by, way)
                return race.answer
        raise min(errors, key=_rank).with_traceback(None)

    def _in_order(self) -> list[Way]:
        """Return the ways to try, those at the end that have failed and not answered since; at least one."""
        if len(self._ways) == 1:
            return list(self._ways)
        ways = [way for way in self._ways if way.usable] or list(self._ways)
        for way in ways:
            if self._client.resting(way.url):
                way.ailing = True
            elif way.ailing and not way.asking:
                way.asking = True
                self._nursery.start_soon(self._ask_behind, way)
        return sorted(ways, key=lambda way: way.ailing)

    async def _ask_behind(self, way: Way) -> None:
        """See whether a way is well again."""
        try:
            with trio.move_on_after(_LOOK_AFTER):
                await self._client.probe(way.url, None, self._pinned.size, Urgency.READAHEAD)
                way.ailing = False
                log.info("%s answers again", urls.redact(way.url))
        except LazyfsError as exc:  # any: nobody waits for it, and what escapes from here ends the mount
            log.debug("%s", exc)
        finally:
            way.asking = False

    def _note_failure(self, way: Way, exc: OriginError) -> None:
        if len(self._ways) == 1:
            return
        log.log(logging.DEBUG if way.ailing else logging.WARNING, "%s; trying the other ways to this blob", exc)
        way.ailing = True
        if not exc.retryable and not isinstance(exc, OriginFailing):
            way.refuse(exc)
        elif exc.retry_after:
            way.refuse(exc, min(exc.retry_after, REFUSED_FOR))

    def _note_success(self, by: Way, asked_first: Way) -> None:
        by.ailing = False
        self.used.add(by.url)
        if by is not asked_first:
            self._client.let_rest(asked_first.url)  # it was outrun
        if by is self._ways[0]:
            self._changed = False
        else:
            self._counters.failovers += 1

    async def _ask_one(self, extent: Extent, urgency: Urgent, way: Way, attempt: Attempt) -> Answer:
        version = way.version or await self._pinning.do(way.url, partial(self._pin, way))
        try:
            return await self._client.ask(way.url, extent, version, urgency, attempt)
        except BlobChanged:
            if way is self._ways[0]:
                self._changed = True
            else:
                way.version = None
            raise

    async def _pin(self, way: Way) -> Version:
        """Pin what a further way names, and return it. *Raises*: OriginError, also when it may be another blob."""
        way.version = await self._same_blob(way)
        return way.version

    async def _same_blob(self, way: Way) -> Version:
        """Return what a further way names, when that is the same blob. *Raises*: OriginError, if it may not be."""
        found = await self._client.probe(way.url, None, self._pinned.size)
        assert found is not None
        theirs, ours = found.version, self._pinned
        shown = urls.redact(way.url)
        if theirs.size != ours.size:
            raise OriginRefused(shown, f"not the same blob: {theirs.size} bytes, not {ours.size}", 0)
        same_etag = theirs.strong_etag is not None and theirs.strong_etag == ours.strong_etag
        same_date = theirs.last_modified is not None and theirs.last_modified == ours.last_modified
        if self._digest or same_etag or same_date:
            return theirs
        samples = await self._samples()
        if not samples:
            reason = "another ETag and date, and nothing in the store yet to compare; a digest would tell"
            raise OriginRefused(shown, f"it may not be the same blob: {reason}", 0)
        for extent, expected in samples:
            async with aclosing(await self._client.ask(way.url, extent, theirs)) as answer:
                if answer.body.extent != extent or await _received(answer) != expected:
                    raise OriginRefused(shown, "not the same blob: it differs from what is in the store", 0)
        if self._changed:
            raise OriginRefused(shown, "it may not be the same blob: that has changed, and this may have, too", 0)
        return theirs


class _Race:
    """One way asked, and when it is slow a second one beside it; the first answer counts, the other is dropped."""

    def __init__(self, client: Client, ask: Callable[[Way, Attempt], Awaitable[Answer]]) -> None:
        self.answer: Answer | None = None
        self.by: Way | None = None
        self.errors: list[tuple[Way, OriginError]] = []
        self._client = client
        self._ask = ask
        self._hedged = False

    async def run(self, way: Way, beside: Way) -> None:
        """Run it. *Cancellation*: at any time."""
        slow, first = self._client.slow(way.url), Attempt()
        if slow == math.inf:
            await self._attempt(way, first)
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hedge, first, slow, beside, nursery.cancel_scope)
                await self._attempt(way, first)
                if self.answer is not None or not self._hedged:
                    nursery.cancel_scope.cancel()
        except BaseException:
            if self.answer is not None:
                await self.answer.aclose()
            raise

    async def _hedge(self, first: Attempt, slow: float, beside: Way, scope: trio.CancelScope) -> None:
        """Ask the second way once the first is slow; an answer ends the race."""
        await self._until_slow(first, slow)
        if self._undecided and self._client.may_hedge():
            self._hedged = True
            await self._attempt(beside, Attempt())
            if self.answer is not None:
                scope.cancel()

    @property
    def _undecided(self) -> bool:
        return self.answer is None and not self.errors

    async def _attempt(self, way: Way, attempt: Attempt) -> None:
        try:
            answer = await self._ask(way, attempt)
        except OriginError as exc:
            self.errors.append((way, exc))
        else:
            if self.answer is None:
                self.answer, self.by = answer, way
            else:
                await answer.aclose()  # both came at once

    async def _until_slow(self, attempt: Attempt, seconds: float) -> None:
        """Wait until an attempt is slow, from when it was sent."""
        await attempt.sent.wait()
        for _ in range(2):
            due = trio.current_time() + seconds
            await trio.sleep_until(due)
            if trio.current_time() - due < _LAGS:
                break


def _rank(exc: OriginError) -> tuple[int, float]:
    """What of several failures a reader should hear of: the lowest; of those that may pass, what may do so first."""
    return 0 if isinstance(exc, BlobChanged) else 1 if exc.retryable else 2, exc.retry_after or 0.0


async def _received(answer: Answer) -> bytes:
    """Return the whole body of a small answer."""
    body = bytearray(len(answer.body.extent) + 1)
    length = 0
    while count := await answer.receive_into(memoryview(body)[length:]):
        length += count
    return bytes(body[:length])
