"""What processes do with a store at the same time, for the explorer: the store's own code, and the fetcher's.

`explorer` makes an explorer of a scenario. The origin is a fake, worker threads are none, and who polls waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast
from unittest import mock

import trio

from lazyfs import records
from lazyfs.causes import Fetches
from lazyfs.counters import Counters
from lazyfs.errors import DigestMismatch
from lazyfs.extents import Extent
from lazyfs.fetch import Fetcher
from lazyfs.memory import CheckedBlocks
from lazyfs.store import layout as layouts
from lazyfs.store import passage, quota, trash
from lazyfs.urgency import Urgency
from lazyfs.versions import Known
from lazyfs.ways import Ways
from tests.fakes import FakeAnswer, FakeOrigin, inline_threads
from tests.model.interleavings import Explorer
from tests.model.kernel import Kernel, installed
from tests.model.protocol import BLOCK, Body, Host, Scenario, World


class _Origin:
    """Stands where the fetcher has the blob's ways to its origins."""

    shown = "http://origin/blob"

    def __init__(self, world: World, content: bytes, *, ranged: bool) -> None:
        self._world = world
        self._origin = FakeOrigin(content, piece=BLOCK, ranged=ranged)

    @property
    def known(self) -> Known:
        """What the fetcher is told of the blob."""
        return dataclasses.replace(self._origin.known, head=b"")

    async def ask(self, extent: Extent, urgency: Callable[[], Urgency]) -> FakeAnswer:
        """As `Ways.ask`."""
        self._world.asked.append(extent)
        return await self._origin.ask(self.shown, extent, self._origin.version, urgency)


def fetch(*blocks: int, wrong: bool = False, ranged: bool = True) -> Body:
    """Have blocks fetched, as one flight of the real fetcher."""

    def body(host: Host) -> None:
        origin = _Origin(host.world, host.world.wrong if wrong else host.world.content, ranged=ranged)
        memory, counters = CheckedBlocks(0), Counters()

        async def main() -> None:
            ways = cast("Ways", origin)
            fetcher = Fetcher(host.store, host.blob, origin.known, ways, memory, counters, Fetches())
            flight = fetcher.flights.launch(blocks)
            await fetcher.lead(flight)
            with contextlib.suppress(DigestMismatch):
                await flight.done()
            assert not fetcher._locked
            if fetcher.mismatch is not None:
                host.blob.set_aside(host.layout)

        trio.run(main)

    return body


def read(*blocks: int) -> Body:
    """Read blocks: they are right or missing."""

    def body(host: Host) -> None:
        for index in blocks:
            found = host.blob.read(index, wait=True)
            assert found is None or bytes(found) == host.world.block(index), f"block {index} is read wrong"

    return body


def evict(blocks: int = 1) -> Body:
    """Make room, from candidates that were found before."""
    return lambda host: _nothing(host.evictor._free(blocks * BLOCK))


def remove(host: Host) -> None:
    """Remove the blob if nobody has it open."""
    staged = trash.stage(host.layout, host.world.blob_id)
    if staged is not None:
        trash.delete(host.layout, staged)


def set_aside(host: Host) -> None:
    """Take the blob out of the store although others may have it open."""
    host.blob.set_aside(host.layout)


def sweep(host: Host) -> None:
    """Delete what was left behind."""
    trash.sweep(host.layout)


def pin(host: Host) -> None:
    """Pin the blob; no eviction that begins from then on may take any of it."""
    directory = layouts.blob_directory(host.layout, host.world.blob_id, create=False)
    layouts.open_file("pin", directory, create=True)
    host.world.pinned = _count(host)


def lease(host: Host) -> None:
    """Keep the blob from eviction for a while."""
    host.blob.locks.take_lease()
    host.world.leased_by, host.world.pinned = host.number, _count(host)
    _count(host)
    host.world.pinned = 0
    host.blob.locks.end_lease()


def pass_by(host: Host) -> None:
    """Look the blob through, and have the kernel read it from then on."""
    seen = passage.glance(host.blob)
    whole = passage.check(host.blob, Extent(0, host.world.scenario.blocks)) is not None
    if whole and (fd := passage.take(host.layout, host.blob, seen)) is not None:
        host.world.kernel.keep(fd)
        host.world.pinned = host.world.scenario.blocks + 1  # not one may go
        _count(host)


def _count(host: Host) -> int:
    """Return how many blocks are present now."""
    entries = host.blob.entries(Extent(0, host.world.scenario.blocks))
    return len(entries) - entries.count(records.MISSING)


def recount(host: Host) -> None:
    """Tidy up, and count what is there."""
    host.store.tidy()


def leave(host: Host) -> None:
    """Close the store as a process does that ends."""
    host.left = True
    host.quota.close()


def write(*blocks: int) -> Body:
    """Put blocks in place and record them, with their locks, and nothing else."""

    def body(host: Host) -> None:
        for index in blocks:
            run = Extent(index, index + 1)
            if host.blob.locks.try_blocks(run):
                if host.blob.entries(run)[0] == records.MISSING:
                    checksum = host.store.write(host.blob, index, [host.world.block(index)])[0]
                    if checksum != records.MISSING:
                        host.blob.record(index, checksum)
                host.blob.locks.release_blocks(run)

    return body


def then(*bodies: Body) -> Body:
    """Do one after the other."""

    def body(host: Host) -> None:
        for one in bodies:
            one(host)

    return body


def _nothing(_: object) -> None:
    """Return nothing."""


def all_there(world: World) -> None:
    """See that all blocks are there, if anybody is left: who was killed had its part taken over."""
    if world.survivors:
        assert world.present() == list(range(world.scenario.blocks)), "a block is missing"


def all_there_once(world: World) -> None:
    """See that no more was fetched than there is, if nobody was killed."""
    all_there(world)
    if len(world.survivors) == len(world.hosts):
        assert sum(map(len, world.asked)) == world.size, "a block was fetched twice"


SCENARIOS = (
    Scenario("fetch, fetch", [fetch(0, 1), fetch(0, 1)], at_end=all_there_once),
    Scenario("pass, pass", [fetch(0, 1, ranged=False), fetch(0, 1, ranged=False)], at_end=all_there),
    Scenario("write, write, write", [write(0), write(0), write(0)]),
    Scenario("fetch, evict", [fetch(1), evict()], present=[0]),
    Scenario("read, evict", [read(0), evict()], present=[0]),
    Scenario("read, evict, write", [read(0), evict(), write(0)], present=[0]),
    Scenario("evict, evict", [evict(), evict()], present=[0, 1]),
    Scenario("pin, evict", [pin, evict(2)], present=[0, 1]),
    Scenario("lease, evict", [lease, evict(2)], present=[0, 1]),
    Scenario("evict, pass by", [evict(2), pass_by], present=[0, 1]),
    Scenario("pass by, evict, write", [pass_by, evict(), write(0)], present=[0, 1]),
    Scenario("open, open", [write(0), write(0)], opened=False),
    Scenario("open, remove", [write(0), remove], opened=False, present=[0]),
    Scenario("remove, remove", [remove, remove], opened=False, present=[0]),
    Scenario("remove, sweep, sweep", [remove, sweep, sweep], opened=False, present=[0]),
    Scenario("remove, set aside", [remove, set_aside], opened=False, present=[0]),
    Scenario("set aside, set aside", [set_aside, set_aside], present=[0]),
    Scenario("open, set aside, sweep", [write(0), then(set_aside, sweep)], opened=False, present=[0]),
    Scenario("take, take", [write(0), write(1)], bound=3),
    Scenario("take, recount", [write(0), recount]),
    Scenario("take, take, recount", [write(0), write(1), recount], bound=3),
    Scenario("evict, recount", [evict(), recount], present=[0, 1]),
    Scenario("remove, recount", [remove, recount], present=[0], opened=False),
    Scenario("set aside, recount", [set_aside, recount], present=[0], opened=False),
    Scenario("evict, remove, recount", [evict(2), then(remove, recount, write(0))], present=[0, 1], opened=False),
    Scenario("leave, recount", [then(write(0), leave), recount]),
    Scenario("digest", [fetch(0), fetch(1)], digest=True),
    Scenario("digest, evict", [fetch(0), fetch(1), evict()], present=[2], blocks=3, digest=True),
    Scenario("wrong digest", [fetch(0, wrong=True), fetch(1)], digest=True),
    Scenario("wrong digest, evict", [fetch(1), then(evict(), fetch(0, wrong=True))], present=[0], digest=True),
)


@contextlib.contextmanager
def explorer(
    scenario: Scenario, path: Path, *, kills: int = 0, preemptions: int | None = None, most: int | None = None
) -> Iterator[Explorer]:
    """Make an explorer of a scenario, whose stores are made at `path`."""
    explorer = Explorer(lambda: _begin(scenario, kernel, path), kills=kills, preemptions=preemptions, most=most)
    kernel = Kernel(explorer)
    with (
        installed(kernel),
        inline_threads(),
        mock.patch.object(records, "MIN_BLOCK_SIZE", BLOCK),
        mock.patch.object(quota, "BATCHES", 4),
    ):
        yield explorer


def _begin(scenario: Scenario, kernel: Kernel, path: Path) -> World:
    """Begin a play; trio runs its tasks in the same order every time."""
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio._core._run._r.seed(0)
    return World(scenario, kernel, path)
