"""Fakes at the seams of lazyfs, deterministic under trio: an origin in memory, and worker threads that are none.

`FakeOrigin` stands where `lazyfs.origin.client.Client` does. It answers rightly unless `faults` says otherwise, lets
other tasks run before each piece, and records what it was asked.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from unittest import mock

import trio
import trio.testing

from lazyfs.buffers import put
from lazyfs.errors import BlobChanged, OriginError, OriginRefused, OriginUnreachable
from lazyfs.extents import Extent
from lazyfs.origin.client import Attempt, Client, Found
from lazyfs.origin.connection import Sink
from lazyfs.pace import Pace
from lazyfs.ranges import Body
from lazyfs.urgency import Urgency
from lazyfs.versions import Known, Version

URL = "http://origin/blob"


@dataclass(frozen=True)
class Fault:
    """How one answer goes wrong; without any, it does not. *Units*: bytes."""

    error: OriginError | None = None  # comes in place of an answer
    reset_after: int | None = None  # the connection breaks after so many
    short: int | None = None  # a right answer that holds no more than so many
    whole: bool = False  # the range is ignored
    counted: bool = True  # the length is declared
    stall: trio.Event | None = None  # the head comes, and nothing else until it is set
    silent: trio.Event | None = None  # nothing comes until it is set


FINE = Fault()
NOT_FOUND = Fault(OriginRefused(URL, "HTTP 404", 404))


def unavailable(retry_after: float | None = None) -> Fault:
    """A 503."""
    return Fault(OriginUnreachable(URL, "HTTP 503", retry_after))


class FakeOrigin:
    """An origin with one blob. *Units*: bytes; `piece` is how much comes at a time."""

    def __init__(self, content: bytes, *, piece: int = 1 << 16, ranged: bool = True, counted: bool = True) -> None:
        self.content = content
        self.version = Version(len(content), '"1"')
        self.offline = False
        self.slow_after = math.inf  # seconds: nothing is asked for twice
        self.faults: deque[Fault] = deque()  # of the next answers, in order
        self.asked: list[Extent] = []
        self.sent = 0  # of bodies
        self.open = 0  # answers under way
        self._piece = piece
        self._usual = Fault(whole=not ranged, counted=counted)

    def usually(self, fault: Fault) -> None:
        """Let all answers go wrong in one way, but for those that `faults` has."""
        self._usual = fault

    @property
    def client(self) -> Client:
        """This, to those who expect the real one."""
        return cast("Client", self)

    @property
    def known(self) -> Known:
        """What a look-up of the blob has found."""
        return Known(URL, self.version, not self._usual.whole, self.content[:1])

    def swap(self, content: bytes) -> None:
        """Put another version in place."""
        self.content = content
        self.version = Version(len(content), f'"{int((self.version.etag or "").strip(chr(34))) + 1}"')

    def pace(self, url: str) -> Pace | None:
        """As `Client.pace`."""
        return None

    def slow(self, url: str) -> float:
        """As `Client.slow`."""
        return self.slow_after

    def may_hedge(self) -> bool:
        """As `Client.may_hedge`."""
        return True

    def resting(self, url: str) -> bool:
        """As `Client.resting`."""
        return False

    def let_rest(self, url: str) -> None:
        """As `Client.let_rest`."""

    async def probe(
        self, url: str, pinned: Version | None = None, size: int | None = None, urgency: Urgency = Urgency.DEMAND
    ) -> Found | None:
        """As `Client.probe`."""
        answer = await self.ask(url, Extent(0, 1), self.version)
        await answer.aclose()
        return None if pinned == self.version else Found(self.version, not self._usual.whole, self.content[:1])

    async def ask(
        self,
        url: str,
        extent: Extent,
        pinned: Version,
        urgency: Callable[[], Urgency] = lambda: Urgency.DEMAND,
        attempt: Attempt | None = None,
    ) -> FakeAnswer:
        """As `Client.ask`."""
        assert extent, "an empty range cannot be asked for"
        await trio.lowlevel.checkpoint()
        self.asked.append(extent)
        if attempt is not None:
            attempt.sent.set()
        fault = self.faults.popleft() if self.faults else self._usual
        if fault.error is not None:
            raise fault.error
        if pinned != self.version:
            raise BlobChanged(url, "it has changed")
        if fault.silent is not None:
            await fault.silent.wait()
        if fault.whole:
            extent = Extent(0, len(self.content))
        elif fault.short is not None:
            extent = Extent(extent.start, min(extent.stop, extent.start + max(fault.short, 1)))
        self.open += 1
        return FakeAnswer(self, Body(extent, pinned, fault.counted and self._usual.counted), fault, self._piece)

    async def fetch_page(self, url: str, limit: int) -> tuple[bytes, str, str]:
        """As `Client.fetch_page`."""
        await trio.lowlevel.checkpoint()
        if len(self.content) > limit:
            raise OriginRefused(url, f"a page of more than {limit} bytes", 200)
        return self.content, "application/octet-stream", url


class FakeAnswer:
    """As `lazyfs.origin.client.Answer`."""

    def __init__(self, origin: FakeOrigin, body: Body, fault: Fault, piece: int) -> None:
        self.body = body
        self._origin = origin
        self._fault = fault
        self._piece = piece
        self._rest = memoryview(origin.content)[body.extent.start : body.extent.stop]
        self._left = len(self._rest) + 1 if fault.reset_after is None else fault.reset_after
        self.url = URL

    @property
    def received(self) -> int:
        """As `Answer.received`."""
        return len(self.body.extent) - len(self._rest)

    async def aclose(self) -> None:
        """As `Answer.aclose`."""
        self._origin.open -= 1

    async def receive_into(self, *buffers: memoryview, sink: Sink | None = None) -> int:
        """As `Answer.receive_into`."""
        assert all(buffers), "an empty buffer says nothing"
        await trio.lowlevel.checkpoint()
        if self._fault.stall is not None:
            await self._fault.stall.wait()
        count = min(self._piece, len(self._rest), self._left)
        if self._rest and not count:
            raise OriginUnreachable(URL, "reset")
        count = put(buffers, self._rest[:count])
        self._rest, self._left = self._rest[count:], self._left - count
        self._origin.sent += count
        if sink is not None and count:
            await trio.to_thread.run_sync(sink.filled, count)
        return count


async def _run_inline(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """Run a function here, as cancellable as a thread is: not at all once it has begun."""
    await trio.lowlevel.checkpoint()
    try:
        return function(*args)
    finally:
        await trio.lowlevel.cancel_shielded_checkpoint()


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


@contextlib.contextmanager
def inline_threads() -> Iterator[None]:
    """Let what goes to a worker thread run in the task: then a mock clock never jumps while a thread is at work."""
    with (
        mock.patch("trio.to_thread.run_sync", _run_inline),
        mock.patch("trio.from_thread.run_sync", _call),
        mock.patch.object(trio.lowlevel.TrioToken, "run_sync_soon", lambda _, function, *args: function(*args)),
    ):
        yield


def run(main: Callable[..., Awaitable[None]], *args: Any, seed: int = 0) -> None:
    """Run a test under trio with inline threads and a clock that jumps to the next thing that is due.

    The seed decides in which order tasks run that could run at the same time.
    """
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio._core._run._r.seed(seed)
    with inline_threads():
        trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))
