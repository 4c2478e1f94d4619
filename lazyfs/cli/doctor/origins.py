"""The origin of a URL: whether it answers, says what it has, and honours ranges, which takes two small requests.

They go the way that a mount's go: with the same headers, credentials, trust and proxy, and what they prove is decided
in the same place (`ranges`).
"""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from typing import Final

import trio

from lazyfs import ranges, urls
from lazyfs.cli.doctor.findings import Finding, note, ok, problem
from lazyfs.counters import Counters
from lazyfs.errors import LazyfsError, OriginDenied, OriginError, OriginUnreachable, first_reason
from lazyfs.extents import Extent
from lazyfs.options import DIRECT, ENVIRONMENT, ClientOptions, Settings
from lazyfs.origin.own import Own
from lazyfs.origin.sender import Attempt, Sender, demanded
from lazyfs.sizes import format_size
from lazyfs.times import http_date_ns
from lazyfs.versions import Version

ASTRAY: Final = 60.0
"""Seconds by which a clock may be wrong before it is worth a word."""

SLOW: Final = 1.0
"""Seconds for the first byte on a connection that is there."""


def ask(url: str, settings: Settings) -> Iterator[Finding]:
    """Ask for a byte at the start and one in the middle."""
    shown = urls.redact(url)
    yield from _proxy(shown, url, settings.client)
    found: list[Finding] = []
    try:
        trio.run(_ask, url, settings.client, found)
    except BaseException as exc:
        reason = first_reason(exc)
        if reason is None:
            raise
        found.append(_failed(shown, reason))
    yield from found


async def _ask(url: str, options: ClientOptions, found: list[Finding]) -> None:
    shown = urls.redact(url)
    async with trio.open_nursery() as nursery, aclosing(Sender(options, Counters(), nursery)) as sender:
        began = trio.current_time()
        first = {"range": ranges.range_header(Extent(0, 1))}
        async with aclosing(await sender.follow(url, first, demanded, Attempt())) as request:
            took, headers = trio.current_time() - began, request.reply.headers
            led = "" if request.reply.url == url else f" at {urls.redact(request.reply.url)}, where it redirects"
            found += _clock(shown, headers.get("date"), headers.get("age"))
            version, whole = request.proven(Extent(0, 1), None).version, request.reply.status == 200
        tls = "over TLS, " if request.reply.url.lower().startswith("https:") else ""
        found.insert(0, ok(shown, f"it answers{led}, {tls}in {took:.2f} s; {format_size(version.size)}"))
        found.append(_validator(shown, version))
        if whole:
            found.append(_unranged(shown))
        elif version.size > 1:
            found.append(await _middle(url, version, sender))


async def _middle(url: str, version: Version, sender: Sender) -> Finding:
    """Ask for a byte in the middle, of this version, as reads do."""
    shown, wanted = urls.redact(url), Extent(version.size // 2, version.size // 2 + 1)
    condition = {"if-match": version.condition} if version.condition else {}
    began = trio.current_time()
    try:
        asked = await sender.open(url, {"range": ranges.range_header(wanted), **condition}, demanded, Attempt())
        async with aclosing(asked) as request:
            took = trio.current_time() - began
            if request.proven(wanted, version).extent != wanted:
                return _unranged(shown)
    except OriginError as exc:
        return problem(shown, f"a byte at its start is to be had, and none from the middle: {exc.reason}")
    if took > SLOW:
        remedy = "name a mirror that is nearer: --mirror FROM=TO"
        return note(shown, f"ranges are honoured, in {took:.2f} s each: reads will be slow", remedy)
    return ok(shown, f"ranges are honoured, in {took * 1000:.0f} ms")


def _unranged(shown: str) -> Finding:
    remedy = "serve it with ranges, or fetch it before it is needed: lazyfs fetch URL"
    return note(shown, "ranges are not honoured: the first read fetches all of it", remedy)


def _validator(shown: str, version: Version) -> Finding:
    """Say by what a change of the file is seen."""
    if version.strong_etag:
        return ok(shown, f"its versions are told apart by a strong ETag, {version.etag}")
    what = "a weak ETag and the size" if version.etag else "the size alone"
    if version.last_modified:
        return ok(shown, "its versions are told apart by Last-Modified and size")
    remedy = "have the server send an ETag, or give its digest in a manifest"
    return note(shown, f"its versions are told apart by {what}: a change may go unseen", remedy)


def _clock(shown: str, date: str | None, age: str | None) -> Iterator[Finding]:
    """Compare our clock with the origin's; what a cache has kept is older by its Age."""
    at = http_date_ns(date) if date else None
    if at is None:
        return
    with contextlib.suppress(ValueError):
        at += int(age or "0") * 10**9
    off = time.time() - at / 1e9
    if abs(off) > ASTRAY:
        what = f"the clock here is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the origin's"
        yield note(shown, what, "set the one that is wrong; here, as root: timedatectl set-ntp true")


def _proxy(shown: str, url: str, options: ClientOptions) -> Iterator[Finding]:
    """Say through which proxy it is asked, or that one is named which is not used."""
    scheme, host, _ = urls.origin_of(url)
    named = urllib.request.getproxies_environment().get(scheme)
    excepted = bool(named) and bool(urllib.request.proxy_bypass(host))
    proxy = Own(options.origins).of(urls.origin_of(url)).proxy or options.transport.proxy
    if proxy == ENVIRONMENT:
        proxy = None if excepted else named
    if proxy and proxy != DIRECT:
        yield ok(shown, f"asked through the proxy {urls.redact(proxy if '://' in proxy else f'http://{proxy}')}")
    elif named and not excepted and proxy is None:
        what = f"the environment names a proxy for {scheme}, which is not used"
        yield note(shown, what, "if it is needed: --proxy env")


def _failed(shown: str, reason: LazyfsError) -> Finding:
    """Say what to do when there is no answer of use."""
    what, _, remedy = (reason.reason if isinstance(reason, OriginError) else str(reason)).partition("; ")
    if isinstance(reason, OriginDenied):
        remedy = remedy or "give credentials: --header-file, --netrc-file or --credential-command"
    elif isinstance(reason, OriginUnreachable):
        remedy = remedy or "see whether the host is right and up, and whether a proxy is needed: --proxy env"
    return problem(shown, what, remedy)
