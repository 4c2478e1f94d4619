"""Sending requests: when it is their turn, with what we say who we are, and after redirects by hand.

    open ── where the URL is known to lead ── says no: the URL again, once for all who wait
         └─ follow ── each hop: introduce ── 401, 403: once more, with the credentials that are asked for
                                     └ send ── not to what is broken (health) ── a slot ── transport

The user's headers go to the origins that they are for (credentials.py), credentials to those that asked for them, and
nothing of either along with a redirect. Where a URL leads is kept, so that each block takes one request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import urljoin

import trio

from lazyfs import urls
from lazyfs.counters import Counters
from lazyfs.errors import OriginDenied, OriginFailing, OriginOffline, OriginRefused, OriginUnreachable
from lazyfs.options import ClientOptions as ClientOptions
from lazyfs.origin.answer import Request, silent_for
from lazyfs.origin.credentials import Credentials
from lazyfs.origin.health import Health
from lazyfs.origin.own import Own
from lazyfs.origin.slots import Slots
from lazyfs.origin.transport import Transport, Unconnected
from lazyfs.origin.wire import Place
from lazyfs.pace import Pace
from lazyfs.turns import Turns
from lazyfs.urgency import Urgency

MAX_HOPS: Final = 10
"""Redirects followed for one request."""

TARGETS_KEPT: Final = 4096
"""URLs of which it is known where they lead."""

_EXPIRED: Final = frozenset({400, 401, 403, 404, 410})
"""What servers say to a signed URL that has expired, or at the place from where something has gone."""

_RESOLVED_ANEW: Final = 3
"""How often a request is sent to where its URL leads: what was learned may have been used up by others meanwhile."""

_TOKEN_MAX: Final = 1024 * 1024
"""Bytes in a token server's answer at the most."""

Urgent = Callable[[], Urgency]
"""Looked at whenever there is a choice, since a reader may arrive at what is fetched ahead."""


def demanded() -> Urgency:
    """Say that somebody waits for it."""
    return Urgency.DEMAND


class Attempt:
    """What its asker may see of a request under way."""

    def __init__(self) -> None:
        self.sent = trio.Event()


class Sender:
    """Sends requests; one for each process. Close it with `aclose`. `nursery` runs what is done for several askers."""

    def __init__(self, options: ClientOptions, counters: Counters, nursery: trio.Nursery) -> None:
        self.health = Health(options.patience)
        self._options = options
        self._counters = counters
        own = Own(options.origins)
        self._transport = Transport(options.transport, own)
        self._credentials = Credentials(options.credentials, self._fetch_token, nursery, own=own)
        self._slots = _AllSlots(own)
        self._targets: dict[str, str] = {}  # where URLs lead; the last TARGETS_KEPT
        self._resolving = Turns[str]()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def slow(self, url: str) -> float:
        """Return after how many seconds without an answer this URL's origin is slow; never, where nothing is hedged."""
        return self._slots[urls.origin_of(url)].latencies.slow if self._options.hedge else math.inf

    def pace(self, url: str) -> Pace | None:
        """Return how fast what a URL leads to is delivered; None while too little is known."""
        return self._slots[urls.origin_of(self._targets.get(url, url))].pace

    def origins(self) -> Iterator[tuple[Place, Slots]]:
        """Yield the origins that were asked so far, the first one first."""
        yield from self._slots.items()

    def forget(self, url: str) -> None:
        """Forget where a URL leads."""
        self._targets.pop(url, None)

    async def open(self, url: str, headers: Mapping[str, str], urgency: Urgent, attempt: Attempt) -> Request:
        """Send a GET to where a URL is known to lead, and when that says no, to the URL."""
        for _ in range(_RESOLVED_ANEW):
            target = self._targets.get(url)
            if target is None:
                break
            try:
                sent = await self._credentials.authorization(target)
                request = await self._send(url, target, self._with_own(target, headers, sent), urgency, attempt)
            except OriginUnreachable:
                self._forget_target(url, target)
                raise
            if request.reply.status not in _EXPIRED and request.moved() is None:
                return request
            await request.discard()
            async with self._resolving.of(url):
                if self._forget_target(url, target):  # else somebody was here before us
                    return await self.follow(url, headers, urgency, attempt)
        return await self.follow(url, headers, urgency, attempt)

    def _forget_target(self, url: str, target: str) -> bool:
        if self._targets.get(url) != target:
            return False
        del self._targets[url]
        return True

    def _remember_target(self, url: str, target: str) -> None:
        self._targets.pop(url, None)
        if target != url:
            self._targets[url] = target
        if len(self._targets) > TARGETS_KEPT:
            del self._targets[next(iter(self._targets))]

    async def follow(
        self,
        url: str,
        headers: Mapping[str, str],
        urgency: Urgent,
        attempt: Attempt,
        *,
        for_token: bool = False,
        method: str = "GET",
    ) -> Request:
        """Send a GET or a HEAD to a URL and follow its redirects; never from https to http.

        `for_token`: the headers are a secret, which goes to the URL's own origin, and nothing else of ours goes along.
        """
        here, seen = url, {url}
        for _ in range(MAX_HOPS + 1):
            if not for_token:
                request = await self._introduce(url, here, headers, urgency, attempt, method)
            else:
                request = await self._send(url, here, _kept_to(url, here, headers), urgency, attempt)
            moved = request.moved()
            if moved is None:
                if request.reply.status in (200, 206, 304):
                    self._remember_target(url, here)
                return request
            request.ended_well()
            await request.discard()
            here = _next_hop(url, here, moved.location)
            if here in seen:  # we keep no cookies, so it would say the same again
                raise OriginRefused(
                    urls.redact(url),
                    "redirects that lead back to where they were; name the URL where they should lead",
                    310,
                )
            seen.add(here)
        raise OriginRefused(
            urls.redact(url), f"more than {MAX_HOPS} redirects; name the URL where they should lead", 310
        )

    async def _fetch_token(self, url: str, headers: Mapping[str, str]) -> bytes:
        """Return the page of a token server. *Raises*: OriginError; OriginRefused for a 401 and a 403."""
        async with aclosing(await self.follow(url, headers, demanded, Attempt(), for_token=True)) as request:
            try:
                return await request.page(_TOKEN_MAX, self._counters)
            except OriginDenied as exc:
                raise OriginRefused(urls.redact(url), exc.reason, request.reply.status) from None

    async def _introduce(
        self, url: str, here: str, headers: Mapping[str, str], urgency: Urgent, attempt: Attempt, method: str
    ) -> Request:
        """Send a request with what is known to be wanted there, and answer when more is asked for."""
        sent = await self._credentials.authorization(here)
        for last in (False, False, True):
            request = await self._send(url, here, self._with_own(here, headers, sent), urgency, attempt, method)
            status = request.reply.status
            if status not in (401, 403):
                if sent is not None:
                    self._credentials.accepted(here, sent)
                return request
            if last:
                return request
            challenge = request.reply.headers.get("www-authenticate", "")
            request.ended_well()
            await request.discard()
            sent = await self._credentials.answer(here, status, challenge, sent)
        raise AssertionError

    def _with_own(self, here: str, headers: Mapping[str, str], authorization: str | None) -> list[tuple[str, str]]:
        own = self._credentials.headers(here)
        if authorization is not None:
            own.append(("authorization", authorization))
        return [*own, *headers.items()]

    async def _send(
        self,
        url: str,
        here: str,
        headers: Sequence[tuple[str, str]],
        urgency: Urgent,
        attempt: Attempt,
        method: str = "GET",
    ) -> Request:
        """Send a request for `url` to `here`, when it is its turn."""
        if self._options.offline:
            raise OriginOffline(
                urls.redact(url),
                "not in the store, and --offline forbids asking the origin; fetch it without --offline first",
            )
        place = urls.origin_of(here)
        slots = self._slots[place]
        self._refuse_broken(url, place)
        slot = await slots.take(url, urgency)
        began = trio.current_time()
        try:
            attempt.sent.set()
            self._counters.origin_requests += 1
            reply = await self._transport.send(here, headers, method)
        except BaseException as exc:
            slot.release()
            slots.tally.unanswered(exc)
            now = trio.current_time()
            if isinstance(exc, Unconnected):
                self.health.failed(place, began, now)
            elif isinstance(exc, OriginUnreachable) or now - began >= silent_for(self._options.patience):
                self.health.failed(url, began, now)
            raise
        slot.heard()
        self.health.succeeded(place)
        seconds = trio.current_time() - began
        slots.answered(seconds, refused=reply.status in (429, 503))
        slots.tally.answered(reply.status, seconds)
        return Request(url, reply, slot, self.health, began, self._options.patience)

    def _refuse_broken(self, url: str, place: Place) -> None:
        for key, what in ((place, f"{place[1]}:{place[2]} cannot be reached"), (url, "no answer that can be used")):
            seconds = self.health.refusal(key, trio.current_time())
            if seconds is not None:
                reason = f"{what}, for longer than a read may take; asked again in {seconds:.0f} s"
                failing = OriginFailing(urls.redact(url), reason)
                self._slots[place].tally.faulted(failing)
                raise failing


class _AllSlots(dict[Place, Slots]):
    """The slots of all origins, made as they are asked."""

    def __init__(self, own: Own) -> None:
        super().__init__()
        self._own = own

    def __missing__(self, place: Place) -> Slots:
        own = self._own.of(place)
        slots = self[place] = Slots(own.connections, own.rate)
        return slots


def _kept_to(url: str, here: str, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return headers that are for the origin of `url`, when that is the one to be asked."""
    return list(headers.items()) if urls.origin_of(here) == urls.origin_of(url) else []


def _next_hop(url: str, here: str, location: str) -> str:
    """Return the URL that a redirect leads to. *Raises*: OriginRefused for a downgrade or nonsense."""
    try:
        target = urljoin(here, location)
    except ValueError:
        target = ""  # such as "http://[", of which no URL can be made
    if not urls.is_http(target):
        raise OriginRefused(
            urls.redact(url), "a redirect to what is not http or https; name the URL where it should lead", 310
        )
    if urls.origin_of(here)[0] == "https" and urls.origin_of(target)[0] == "http":
        raise OriginRefused(
            urls.redact(url),
            "a redirect from https to http, which is not followed; if that is as it should be, name the http URL",
            310,
        )
    return target
