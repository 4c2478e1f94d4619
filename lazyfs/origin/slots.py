"""How many requests an origin gets at a time, and whose turn it is.

A request holds a *slot* from before it is sent until its answer has been read. How many there are adapts (`Limit`).
What somebody waits for goes before readahead, and that before prefetch; demand does not even wait for slots that
background work holds, so that work gives way at once. How urgent a request is may change while it waits, since a reader
can arrive at what was fetched ahead.

An origin may have bounds that the user sets: of requests at a time, whatever becomes of them, the last of which is for
demand; and of bytes a second (throttle.py).

A holder that has not heard from the origin for `STALLED` no longer counts, and while a URL has such a one, more of its
requests go after those of other URLs, in half of the slots at the most: a stalled blob must not keep another one's
requests from being sent, however many readers it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from lazyfs import urls
from lazyfs.errors import OriginError
from lazyfs.origin.health import Latencies
from lazyfs.origin.tally import Tally
from lazyfs.origin.throttle import Throttle
from lazyfs.pace import Meter, Pace
from lazyfs.urgency import Urgency

STALLED: Final = 1.0
"""Seconds without a byte after which a request does not count any more; at an origin that is always slow, four times
what is usual there."""

HOLDERS: Final = 512
"""Requests under way at an origin, those included that are stalled, at which background work waits."""

GIVES_WAY: Final = 0.25
"""Seconds for which prefetch waits before each piece while there is demand; then it takes one all the same."""

_LOOK_AGAIN: Final = 0.005


class Limit:
    """How many requests an origin answers at a time without queueing them.  Pure.

    It grows while answers begin as soon as they do at an idle origin, that is, while throughput grows with it, shrinks
    when they begin later, because then they wait somewhere, and is halved when the origin says that it is too much.

    *Source*: TCP Vegas (Brakmo, Peterson 1994), and the constants of VegasLimit.java in Netflix/concurrency-limits.
    """

    FIRST: Final = 16.0
    LEAST: Final = 2.0
    MOST: Final = 64.0
    REFUSED_FOR: Final = 1.0
    """Seconds in which several refusals count once: they are the answers to one burst."""

    def __init__(self) -> None:
        self.value = self.FIRST
        self._best = math.inf  # seconds to the first byte, when nothing queues
        self._samples = 0
        self._refused_at = -math.inf

    def answered(self, seconds: float, under_way: int) -> None:
        """Note how long an answer took to begin, with how many requests under way."""
        self._samples += 1
        if self._samples > 30 * self.value:  # the way to the origin may have become longer
            self._samples, self._best = 0, math.inf
        self._best = min(self._best, seconds)
        if under_way * 2 < self.value:
            return  # what is not used says nothing about its bound
        queued = self.value * (1 - self._best / max(seconds, 1e-9))
        scale = max(1.0, math.log10(self.value))
        if queued <= scale:
            self.value += 6 * scale
        elif queued < 3 * scale:
            self.value += scale
        elif queued > 6 * scale:
            self.value -= scale
        self.value = min(max(self.value, self.LEAST), self.MOST)

    def refused(self, now: float) -> None:
        """Note a 429 or a 503."""
        if now - self._refused_at >= self.REFUSED_FOR:
            self._refused_at = now
            self.value = max(self.LEAST, self.value / 2)


@dataclass(frozen=True, slots=True)
class SlotState:
    """A request at one moment. *Units*: seconds since it was wanted, and since the origin was heard last."""

    url: str  # redacted
    urgency: Urgency
    waiting: bool  # for a slot
    age: float
    silent: float


class Slot:
    """A request's place; release it once."""

    __slots__ = ("_slots", "heard_at", "urgency", "url", "wanted_at")

    def __init__(self, slots: Slots, url: str, urgency: Callable[[], Urgency]) -> None:
        self._slots = slots
        self.url = url
        self.urgency = urgency
        self.heard_at = self.wanted_at = trio.current_time()

    def heard(self) -> None:
        """Note that the origin has sent something."""
        self.heard_at = trio.current_time()

    def receiving(self) -> None:
        """Note that bytes of its answer are waited for, until `received`."""
        self._slots.meter.begin(trio.current_time())

    def received(self, count: int, ration: int | None = None) -> None:
        """Note that so many have come, or none, of those that might."""
        now = trio.current_time()
        self._slots.meter.end(count, now)
        if ration is not None and self._slots.throttle is not None:
            self._slots.throttle.give_back(ration - count)
        if count:
            self.heard_at = now
            self._slots.tally.received += count

    def faulted(self, error: OriginError) -> None:
        """Note that its answer was of no use."""
        self._slots.tally.faulted(error)

    async def give_way(self) -> None:
        """Let demand go first, for a while, if this is prefetch."""
        until = trio.current_time() + GIVES_WAY
        while self.urgency() is Urgency.PREFETCH and self._slots.demanded(self) and trio.current_time() < until:
            self.heard()  # it is us who are silent
            await trio.sleep(_LOOK_AGAIN)

    async def ration(self) -> int | None:
        """Wait until more may be taken, and return how many bytes; None for any number. Say `received` in the end."""
        throttle = self._slots.throttle
        if throttle is None:
            return None
        while (seconds := throttle.wait(trio.current_time())) > 0:
            self.heard()  # it is us who are silent
            await trio.sleep(min(seconds, STALLED / 2))
        return throttle.take(trio.current_time())

    def release(self) -> None:
        """Let the next one have it."""
        self._slots.give_back(self)


class Slots:
    """The slots of one origin, `most` at the most. State changes without awaiting; `take` waits.

    *Units*: `rate` bytes a second.
    """

    def __init__(self, most: int | None = None, rate: int | None = None) -> None:
        self.limit = Limit()
        self.throttle = None if rate is None else Throttle(rate)
        self._most = most
        self.latencies = Latencies()
        self.meter = Meter()
        self.tally = Tally()
        self._held: set[Slot] = set()
        self._waiting: dict[Slot, trio.Event] = {}  # by arrival

    async def take(self, url: str, urgency: Callable[[], Urgency]) -> Slot:
        """Wait for a slot. *Cancellation*: at any time; then it is somebody else's."""
        slot = Slot(self, url, urgency)
        granted = self._waiting[slot] = trio.Event()
        try:
            self._grant()
            while not granted.is_set():
                with trio.move_on_at(self._next_stall()):
                    await granted.wait()
                self._grant()
        except BaseException:
            self._waiting.pop(slot, None)
            self.give_back(slot)
            raise
        return slot

    def give_back(self, slot: Slot) -> None:
        """Take a slot back, and give it on."""
        self._held.discard(slot)
        self._grant()

    def answered(self, seconds: float, *, refused: bool) -> None:
        """Note how long an answer took to begin, and whether it said that it is too much."""
        now = trio.current_time()
        if refused:
            self.limit.refused(now)
            return
        self.latencies.note(seconds)
        self.limit.answered(seconds, sum(self._counts(slot, now) for slot in self._held))

    @property
    def pace(self) -> Pace | None:
        """How fast the origin delivers; None while too little is known."""
        rate = self.meter.rate
        if rate is None:
            return None
        return Pace(min(rate, self.throttle.rate) if self.throttle else rate, self.latencies.least)

    @property
    def allowed(self) -> int:
        """How many requests may be under way now, those not counted that are stalled."""
        return min(int(self.limit.value), self._most or HOLDERS)

    @property
    def held(self) -> int:
        """How many slots are taken."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._waiting)

    def state(self) -> list[SlotState]:
        """Return the requests that have a slot, the oldest first, and then those that wait for one."""
        now = trio.current_time()
        held = sorted(self._held, key=lambda slot: slot.wanted_at)
        return [
            SlotState(urls.redact(slot.url), slot.urgency(), waiting, now - slot.wanted_at, now - slot.heard_at)
            for slots, waiting in ((held, False), (self._waiting, True))
            for slot in slots
        ]

    def demanded(self, but: Slot) -> bool:
        """Say whether somebody waits for an answer, other than for that to `but`."""
        now = trio.current_time()
        return any(slot is not but and self._counts(slot, now) and not slot.urgency() for slot in self._held)

    def _grant(self) -> None:
        """Hand out what is free: the most urgent first, then whose URL is not stalled, then who came first."""
        while self._waiting:
            now = trio.current_time()
            stalled = {held.url for held in self._held if not self._counts(held, now)}
            crowd = sum(held.url in stalled and self._counts(held, now) for held in self._held)
            full = crowd >= max(1, int(self.limit.value) // 2)
            waiting = [slot for slot in self._waiting if not (full and slot.url in stalled)]
            if not waiting:
                return
            slot = min(waiting, key=lambda one: (one.urgency(), one.url in stalled))
            urgency = slot.urgency()
            if self._most is not None:
                kept_free = self._most > 1 and urgency is not Urgency.DEMAND
                if len(self._held) >= self._most - kept_free:
                    return
            against = [held for held in self._held if self._counts(held, now)]
            if urgency is Urgency.DEMAND:
                against = [held for held in against if held.urgency() is Urgency.DEMAND]
            elif len(self._held) >= HOLDERS:
                return
            if len(against) >= int(self.limit.value):
                return
            self._held.add(slot)
            slot.heard()
            self._waiting.pop(slot).set()

    def _counts(self, slot: Slot, now: float) -> bool:
        return now - slot.heard_at < self._stalled

    @property
    def _stalled(self) -> float:
        return max(STALLED, 4 * self.latencies.usual)

    def _next_stall(self) -> float:
        """Return when the next of those that count would be stalled."""
        now = trio.current_time()
        stalls = (slot.heard_at + self._stalled for slot in self._held if self._counts(slot, now))
        return max(now + _LOOK_AGAIN, min(stalls, default=now + self._stalled))
