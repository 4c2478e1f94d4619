"""Readers of blobs whose origin stalls, and what they cost the readers of another blob at the same origin.

For tests; with figures: python -m tests.faults.stalls --help
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests import under
from tests.mounts import Leftovers, Mount, Mounts, Task, on_mount, reap, start
from tests.servers import MisbehavingOrigin

GOOD = "random-16G-good"
STALLED = "random-16G-stalled"
BLOCK = 256 << 10
LOOKS = [f"no-such-name-{number}" for number in range(8)]
"""Names that are looked for: those that are there the kernel knows by heart, for these it asks the daemon."""


@dataclass(frozen=True)
class Round:
    """One round. *Units*: seconds; of reads of the good blob the median, and the longest."""

    alone: tuple[float, float]
    beside: tuple[float, float]
    looked: float
    listed: float
    stalled: list[under.Timed]

    @property
    def ratio(self) -> float:
        """How much longer a read takes beside the stalled ones."""
        return self.beside[0] / self.alone[0]


class Stalls:
    """A mount with a good blob, and for each round one that stalls before the head and one that stalls in mid-body."""

    def __init__(self, origin: MisbehavingOrigin, directory: Path, rounds: int) -> None:
        self._origin = origin
        # A name's first request is for its metadata. The rest is for as many paths of the same behaviour.
        self._stalling = [
            [origin.url(f"{how}@2-,delay@{9000 + number}-{9000 + number}", STALLED) for how in ("stall", "stall-body")]
            for number in range(rounds)
        ]
        entries = {"good": origin.plain(GOOD)}
        for number, urls in enumerate(self._stalling):
            entries |= {f"head{number}": urls[0], f"body{number}": urls[1]}
        self.names = len(entries)
        self.manifest = directory / "stalls.jsonl"
        lines = (json.dumps({"path": path, "url": url}) + "\n" for path, url in entries.items())
        self.manifest.write_text("".join(lines))

    def stall(self, mount: Mount, number: int, readers: int) -> Task[list[under.Timed]]:
        """Start readers of the blobs that stall, each for a block of its own; return when both have begun to stall."""
        names = (f"head{number}", f"body{number}")
        places = [(mount.path(names[reader % 2]), (1 + reader) * 16 * BLOCK) for reader in range(readers)]
        task = start(under.timed_reads_together, places)
        task.wait_until_open()
        for url in self._stalling[number]:
            self._origin.wait(url, requests=2)
        return task

    def round(self, mount: Mount, number: int, readers: int, reads: int) -> Round:
        """Time reads of the good blob, and then again while so many readers are stalled."""
        dice = random.Random(number)
        offsets = [4096 * dice.randrange((16 << 30) // 4096) for _ in range(2 * reads)]
        alone = self._good(mount, offsets[:reads])
        stalled = self.stall(mount, number, readers)
        beside = self._good(mount, offsets[reads:])
        looked, listed = on_mount(under.timed_look, mount.path(), LOOKS)
        return Round(alone, beside, looked, listed, stalled.result())

    def _good(self, mount: Mount, offsets: list[int]) -> tuple[float, float]:
        reads = on_mount(under.timed_reads, mount.path("good"), offsets)
        for offset, read in zip(offsets, reads, strict=True):
            assert read.content == self._origin.expected(GOOD, offset, offset + 4096), (offset, read.error)
        return statistics.median(read.seconds for read in reads), max(read.seconds for read in reads)


def main() -> None:
    """Measure, and print a line for each round and the median ratio."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.stalls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readers", type=int, default=8, help="that are stalled (8)")
    parser.add_argument("--reads", type=int, default=100, help="of the good blob (100)")
    parser.add_argument("--read-timeout", type=float, default=8.0, metavar="SECONDS", help="of the mount (8)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-stalls-") as name, MisbehavingOrigin() as origin:
        mounts = Mounts(Path(name))
        try:
            stalls = Stalls(origin, Path(name), options.rounds)
            mount = mounts(stalls.manifest, options=("--read-timeout", str(options.read_timeout)))
            on_mount(under.wait_for_names, mount.path(), stalls.names, 20.0)
            rounds = [stalls.round(mount, number, options.readers, options.reads) for number in range(options.rounds)]
        finally:
            mounts.end()
            Leftovers.below(Path(name)).remove()
            reap()
    for one in rounds:
        ends = sorted(read.seconds for read in one.stalled)
        print(
            f"alone {one.alone[0] * 1e3:.2f} ms (longest {one.alone[1] * 1e3:.0f}), beside {options.readers} stalled "
            f"{one.beside[0] * 1e3:.2f} ms (longest {one.beside[1] * 1e3:.0f}), ratio {one.ratio:.2f}; "
            f"ls {one.listed * 1e3:.1f} ms, stat {one.looked * 1e3:.1f} ms; stalled ones ended after "
            f"{ends[0]:.2f} to {ends[-1]:.2f} s with errors {sorted({read.error for read in one.stalled})}"
        )
    alone, beside = (statistics.median(getattr(one, kind)[0] for one in rounds) for kind in ("alone", "beside"))
    print(
        f"medians: alone {alone * 1e3:.2f} ms, beside {beside * 1e3:.2f} ms, "
        f"ratio of each round {statistics.median(one.ratio for one in rounds):.2f}"
    )


if __name__ == "__main__":
    main()
