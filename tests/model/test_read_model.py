"""Readers, faults, evictions and rot in any order against a blob that is just bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyfs.errors import BlobChanged, DeadlineExceeded, OriginRefused, StoreError
from lazyfs.extents import Extent
from lazyfs.fetch import PASS_TRIES
from tests.fakes import FINE, NOT_FOUND, FakeOrigin, Fault, run, unavailable
from tests.model.world import BLOCK, World, content_of, world

SIZES = [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 9 * BLOCK]
CONTENTS = {size: content_of(size) for size in SIZES}
TIMEOUT = 20.0

ALLOWED = (DeadlineExceeded, OriginRefused, BlobChanged)


@dataclass(frozen=True)
class Usual:
    """How the origin is when nothing goes wrong."""

    size: int
    piece: int
    ranged: bool
    counted: bool

    def origin(self) -> FakeOrigin:
        """Make it."""
        return FakeOrigin(CONTENTS[self.size], piece=self.piece, ranged=self.ranged, counted=self.counted)


@dataclass(frozen=True)
class Read:
    """Read, with the blob opened for it or before. *Units*: offset and length are parts of the size."""

    at: float
    part: float
    patience: float | None = None  # seconds after which the reader leaves

    def extent(self, size: int) -> tuple[int, int]:
        """Offset and length in bytes."""
        return int(self.at * size), int(self.part * size) + 1


@dataclass(frozen=True)
class Pause:
    """Let time pass. *Units*: seconds."""

    seconds: float


@dataclass(frozen=True)
class Fill:
    """Make the blob whole."""


@dataclass(frozen=True)
class Evict:
    """Another process evicts a block, if it gets its lock."""

    at: float


@dataclass(frozen=True)
class Rot:
    """A byte of the data, or of the map, becomes another."""

    at: float
    of_map: bool


@dataclass(frozen=True)
class Hold:
    """Another process has a run of blocks for a while, and commits them or not."""

    at: float
    part: float
    seconds: float
    commits: bool


parts = st.floats(0, 1, exclude_max=True)
short_whiles = st.sampled_from([0.0, 0.0005, 0.004, 0.1, 1.0, 5.0])
pauses = st.builds(Pause, short_whiles)
reads = st.builds(Read, parts, parts | st.just(0.0), st.none() | short_whiles)
readers = st.lists(st.lists(reads | reads | pauses | st.just(Fill()), max_size=5), min_size=1, max_size=4)
disturbances = st.lists(
    pauses
    | st.builds(Evict, parts)
    | st.builds(Rot, parts, st.booleans())
    | st.builds(Hold, parts, parts, short_whiles, st.booleans()),
    max_size=6,
)
faults = st.lists(
    st.sampled_from([FINE, FINE, unavailable(), unavailable(2), unavailable(9999), Fault(whole=True)])
    | st.builds(Fault, reset_after=st.integers(0, 4 * BLOCK), whole=st.booleans(), counted=st.booleans())
    | st.builds(Fault, short=st.integers(1, 4 * BLOCK), counted=st.booleans())
    | st.sampled_from([Fault(stall=trio.Event()), NOT_FOUND]),
    max_size=PASS_TRIES - 1,  # more, and a pass may be given up: test_read_algorithm.py
)
usuals = st.builds(
    Usual,
    st.sampled_from(SIZES),
    st.sampled_from([10_000, BLOCK, 3 * BLOCK]),
    st.booleans() | st.just(True),
    st.booleans() | st.just(True),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(usuals, faults, readers, disturbances, st.sampled_from([0, 2 * BLOCK, 1 << 25]), st.integers(0, 2**32))
def test_every_read_is_right_or_an_allowed_error(
    tmp_path_factory: pytest.TempPathFactory,
    usual: Usual,
    faults: list[Fault],
    readers: list[list[Read | Pause | Fill]],
    disturbances: list[Pause | Evict | Rot | Hold],
    memory: int,
    seed: int,
) -> None:
    origin = usual.origin()
    origin.faults.extend(faults)

    async def main(path: Path) -> None:
        async with world(path, origin, memory=memory, read_timeout=TIMEOUT) as here:
            async with trio.open_nursery() as nursery:
                for steps in readers:
                    nursery.start_soon(be_a_reader, here, steps)
                nursery.start_soon(disturb, here, disturbances)
            # Whatever happened: without faults from here on, the blob can be read, and made whole.
            origin.faults.clear()
            await trio.sleep(TIMEOUT)
            await here.read(0, len(here.content))
            async with here.opened() as blob:
                await blob.fill()
                await here.settle(blob)
                assert blob.file.present_bytes() == len(here.content)

    run(main, tmp_path_factory.mktemp("store", numbered=True), seed=seed)


async def be_a_reader(here: World, steps: Sequence[Read | Pause | Fill]) -> None:
    """Open the blob, and read."""
    async with here.opened() as blob:
        for step in steps:
            started = trio.current_time()
            match step:
                case Pause(seconds):
                    await trio.sleep(seconds)
                case Fill():
                    try:
                        await blob.fill()
                    except ALLOWED:
                        pass
                    except StoreError as exc:  # another process evicts as fast as we fill
                        assert "does not take" in str(exc)  # noqa: PT017
                case Read():
                    with trio.move_on_after(step.patience or TIMEOUT + 1):
                        with contextlib.suppress(*ALLOWED):
                            await here.check(blob, *step.extent(len(here.content)))
                    assert trio.current_time() - started <= TIMEOUT + 0.01, "a read past its deadline"


async def disturb(here: World, steps: Sequence[Pause | Evict | Rot | Hold]) -> None:
    """Be another process, and the disk."""
    blocks = -(-len(here.content) // BLOCK)
    with here.elsewhere() as file:
        for step in steps:
            match step:
                case Pause(seconds):
                    await trio.sleep(seconds)
                case Evict(at):
                    block = Extent(int(at * blocks), int(at * blocks) + 1)
                    if file.locks.try_blocks(block):
                        here.evict(file, block.start)
                        file.locks.release_blocks(block)
                case Rot(at, of_map=False):
                    here.damage(int(at * len(here.content)), 1)
                case Rot(at):
                    here.damage(64 + int(at * blocks * 8), 1, "map")
                case Hold(at, part, seconds, commits):
                    start = int(at * blocks)
                    run = file.locks.try_blocks(Extent(start, start + int(part * (blocks - start)) + 1))
                    await trio.sleep(seconds)
                    for index in run.blocks():
                        if commits:
                            here.commit(file, index)
                    file.locks.release_blocks(run)
                    await trio.sleep(0)
