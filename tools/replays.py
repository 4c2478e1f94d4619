"""Replay a trace of reads against the store's replacement policy and against LRU, at several sizes of the store.

A trace is a list of block numbers, one a line, in the order in which readers asked the daemon for them; a blob's blocks
are told apart from another's by a number of their own. `--record` makes one: it mounts SOURCE... at MOUNTPOINT until
interrupted, and writes down what was read. `tools/programs.trace.gz` is such a trace: programs started at random from a
squashfs image on a mount, most of them again and again, each time after the page cache was given up, and now and then
another image read from end to end.
"""

from __future__ import annotations

import argparse
import gzip
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from lazyfs import replacement
from lazyfs.records import DEFAULT_BLOCK_SIZE
from lazyfs.sizes import format_size

TRACE = Path(__file__).parent / "programs.trace.gz"

SHARES = (0.1, 0.2, 0.3, 0.5, 0.75)
"""Sizes of the store, as parts of all that is ever read."""


def load(path: Path) -> list[int]:
    """Read a trace."""
    with gzip.open(path, "rt") as file:
        return [int(line) for line in file]


def lru(trace: Sequence[int], room: int) -> int:
    """Return how many reads hit when the least recently used of `room` blocks goes."""
    blocks: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for block in trace:
        if block in blocks:
            hits += 1
            blocks.move_to_end(block)
            continue
        if len(blocks) == room:
            blocks.popitem(last=False)
        blocks[block] = None
    return hits


class TwoQueues:
    """The policy of replacement.py over `room` blocks of one byte, with the queues that eviction.py finds."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._clock = 0
        self._uses: dict[int, int] = {}  # of blocks that are there or were
        self._cold: OrderedDict[int, None] = OrderedDict()  # in the order of their use
        self._hot: OrderedDict[int, None] = OrderedDict()

    def read(self, block: int) -> bool:
        """Read a block and say whether it was there."""
        hit = block in self._cold or block in self._hot
        if hit:
            self._uses[block] = replacement.on_use(self._uses[block], self._clock, self._room)
        else:
            if len(self._cold) + len(self._hot) == self._room:
                self._evict()
            self._clock += 1
            self._uses[block] = replacement.on_arrival(self._uses.get(block, 0), self._clock, self._room)
        if not replacement.is_hot(self._uses[block]):
            self._cold.setdefault(block)
        else:
            self._cold.pop(block, None)
            self._hot[block] = None
            self._hot.move_to_end(block)
        return hit

    def _evict(self) -> None:
        cold = replacement.evict_cold(len(self._cold), len(self._hot), self._room)
        block, _ = (self._cold if cold else self._hot).popitem(last=False)
        self._uses[block] = replacement.on_eviction(self._uses[block], self._clock)


def two_queues(trace: Sequence[int], room: int) -> int:
    """Return how many reads hit with the store's own policy."""
    store = TwoQueues(room)
    return sum(map(store.read, trace))


def report(trace: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the comparison."""
    different = len(set(trace))
    yield (
        f"{len(trace)} reads of {different} blocks ({format_size(different * DEFAULT_BLOCK_SIZE)}); "
        f"{100 * (1 - different / len(trace)):.1f} % could hit"
    )
    yield "store of      LRU hits   2Q hits   fetched with 2Q, of what is fetched with LRU"
    for share in SHARES:
        room = int(share * different)
        old, new = lru(trace, room), two_queues(trace, room)
        yield (
            f"{share:4.0%} of all  {100 * old / len(trace):7.1f} %  {100 * new / len(trace):7.1f} %"
            f"   {100 * (len(trace) - new) / (len(trace) - old):.0f} %"
        )


def record(sources: list[str], mountpoint: Path, store: Path, output: Path) -> None:
    """Mount until interrupted, and write down which blocks were read."""
    from lazyfs.blob import Blob
    from lazyfs.daemon import run_in_foreground
    from lazyfs.options import Settings
    from lazyfs.order import Mount
    from lazyfs.sources.spec import parse_source

    read, numbers, trace = Blob.read, dict[str, int](), list[int]()

    async def noted(blob: Blob, offset: int, length: int) -> bytes | memoryview:
        base = numbers.setdefault(blob.blob_id, len(numbers)) << 32
        for index in blob.geometry.covering(offset, length).blocks():
            if not trace or trace[-1] != base + index:
                trace.append(base + index)
        return await read(blob, offset, length)

    Blob.read = noted  # type: ignore[assignment,method-assign]
    try:
        run_in_foreground(Mount(str(mountpoint.absolute()), tuple(map(parse_source, sources)), Settings(store)))
    finally:
        with gzip.open(output, "wt") as file:
            file.writelines(f"{block}\n" for block in trace)


def main() -> None:
    """Replay, or record."""
    options = _parser().parse_args()
    if options.record:
        *sources, mountpoint = options.arguments
        record(sources, Path(mountpoint), options.store, options.record)
        return
    for path in options.arguments or [TRACE]:
        print("\n".join(report(load(Path(path)))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="mount instead, and write a trace to FILE")
    parser.add_argument("--store", type=Path, metavar="DIR", help="the store to record with")
    parser.add_argument("arguments", nargs="*", metavar="TRACE", help="or SOURCE... MOUNTPOINT, to record")
    return parser


if __name__ == "__main__":
    main()
