"""What a mount has under way at one moment: as numbers for `status`, and in lines for whoever sends SIGUSR1.

All of it is looked at, nothing is waited for and nothing changes, so it works while every read is stuck.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

import trio

from lazyfs import urls
from lazyfs.extents import runs
from lazyfs.flight import FlightState
from lazyfs.origin.client import OriginState
from lazyfs.origin.tally import Tally
from lazyfs.session import Session
from lazyfs.tree import File
from lazyfs.vfs import LOOKED_AT_ONCE

LINES: Final = 100
"""Lines for each kind of thing; the log must not lose what was in it before."""

ORIGINS: Final = 64
"""Origins that are told apart; what came of further ones, which a source may name by the thousand, is added up."""

OTHERS: Final = "others"

_RUNS: Final = 8
"""Runs of blocks that are written out."""


def origins(session: Session) -> list[OriginState]:
    """Return the origins that were asked so far, the first one first; those beyond ORIGINS as one."""
    found = list(session.client.origins())
    if len(found) <= ORIGINS:
        return found
    return [*found[:ORIGINS], _together(found[ORIGINS:])]


def _together(found: list[OriginState]) -> OriginState:
    tally = Tally()
    for one in found:
        tally.add(one.tally)
    return OriginState(
        OTHERS,
        tally,
        sum(one.under_way for one in found),
        sum(one.waiting for one in found),
        sum(one.limit for one in found),
        any(one.failing for one in found),
        lambda: [request for one in found for request in one.requests()],
    )


def numbers(session: Session) -> dict[str, Any]:
    """Return what `status` shows of it."""
    blobs = session.blobs.opened
    return {
        "origins": {
            one.shown: {
                "bytes": one.tally.received,
                "requests": sum(one.tally.outcomes.values()),
                "faults": sum(one.tally.faults.values()),
                "under_way": one.under_way,
                "waiting": one.waiting,
                "failing": one.failing,
            }
            for one in origins(session)
        },
        "open_files": len(session.vfs.opened),
        "open_blobs": len(blobs),
        "flights": sum(len(blob.flights) for blob in blobs),
        "blocks_evicted": session.store.evictor.evicted,
        "slow_reads": [slow.as_dict() for slow in session.blobs.slow.slowest()],
    }


async def fetches(session: Session) -> list[dict[str, Any]]:
    """Return the last fetches, the oldest first, each with a path that leads to its blob, if there is one now."""
    found = [fetch.as_dict() for fetch in session.blobs.fetches]
    blobs, paths = {fetch["blob"] for fetch in found}, dict[str, str]()
    for number, node in enumerate(session.vfs.tree.nodes()):
        if isinstance(node, File) and node.blob_id is not None and node.blob_id in blobs:
            paths.setdefault(node.blob_id, node.path)
        if number % LOOKED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return [{**fetch, "path": paths.get(fetch["blob"])} for fetch in found]


def lines(session: Session, locks: Iterable[str]) -> Iterator[str]:
    """Yield all that is under way, in lines; `locks` are those that are held (held.py)."""
    found = origins(session)
    yield from _section("flights", _flights(session))
    yield from _section("locks", locks)
    yield from _section("open files", _open_files(session))
    yield from _section("origins", map(_origin, found))
    yield from _section("requests", (line for one in found for line in _requests(one)))


def _section(title: str, items: Iterable[str]) -> Iterator[str]:
    items = list(items)
    yield f"{title}: {len(items)}"
    yield from (f"  {item}" for item in itertools.islice(items, LINES))
    if len(items) > LINES:
        yield f"  and {len(items) - LINES} more"


def _flights(session: Session) -> Iterator[str]:
    for blob in session.blobs.opened:
        states = sorted((flight.state() for flight in blob.flights), key=lambda state: -state.age)
        yield from (f"{blob.blob_id} ({urls.redact(blob.known.url)}): {_flight(state)}" for state in states)


def _flight(state: FlightState) -> str:
    wanted = " and ".join(urgency.name.lower() for urgency in state.wanted_for)
    awaited = f"; {_blocks(state.awaited)} waited for" if state.awaited else ""
    dying = "; ends" if state.dying else ""
    return (
        f"{_blocks(state.blocks)}, {state.landed} of them landed; for {state.age:.1f} s; "
        f"wanted for {wanted or 'nothing'}{awaited}{dying}"
    )


def _blocks(blocks: tuple[int, ...]) -> str:
    """Return indexes of blocks, in order, as runs."""
    if not blocks:
        return "no blocks"
    found = [f"{run.start}-{run.stop - 1}" if len(run) > 1 else f"{run.start}" for run in runs(blocks, len(blocks))]
    more = f" and {len(found) - _RUNS} more runs" if len(found) > _RUNS else ""
    return f"block{'s' * (len(blocks) > 1)} {','.join(found[:_RUNS])}{more}"


def _open_files(session: Session) -> Iterator[str]:
    for inode, (blob, opens) in session.vfs.opened.items():
        node = session.vfs.tree.node(inode)
        path = node.path if node is not None else f"inode {inode}"
        yield f"{path}: {opens} open, {blob.blob_id}"


def _origin(one: OriginState) -> str:
    failing = ", failing" if one.failing else ""
    return f"{one.shown}: {one.under_way} slots of {one.limit} taken, {one.waiting} requests wait for one{failing}"


def _requests(one: OriginState) -> Iterator[str]:
    for request in one.requests():
        what = "waits for a slot" if request.waiting else f"the origin was heard {request.silent:.1f} s ago"
        yield f"{request.url}: {request.urgency.name.lower()}, for {request.age:.1f} s, {what}"
