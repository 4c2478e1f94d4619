"""`tools/bound`: readers of a blob that is far larger than the store may be, every byte compared, disk use sampled."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from lazyfs.sizes import format_size, parse_size
from tests.mounts import Leftovers, Mounts, reap, start
from tests.processes import random_readers, sharing
from tests.processes.random_readers import Compared
from tests.servers import Nginx

SAMPLE_EVERY = 0.1
"""Units: seconds."""


class DiskUse:
    """Samples what `du` says of a directory, in a thread, while inside."""

    def __init__(self, directory: Path) -> None:
        self.samples: list[int] = []
        self._directory = directory
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> DiskUse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_EVERY):
            done = subprocess.run(
                ["du", "--summarize", "--block-size=1", self._directory], capture_output=True, text=True, check=False
            )
            if done.stdout:  # it says 1 when a file goes while it looks
                self.samples.append(int(done.stdout.split()[0]))


@dataclass(frozen=True)
class Outcome:
    """What a run did. *Units*: bytes."""

    compared: list[Compared]
    disk: list[int]
    counters: list[dict[str, int]]
    bound: int

    @property
    def reads(self) -> int:
        """How many reads were compared."""
        return sum(reader.reads for reader in self.compared)

    @property
    def wrong(self) -> list[int]:
        """Where reads were wrong, or failed."""
        return [place for reader in self.compared for place in (*reader.wrong, *reader.errors)]

    def counted(self, name: str) -> int:
        """One of the counters, over the mounts."""
        return sum(counters[name] for counters in self.counters)

    @property
    def within(self) -> bool:
        """Whether the store was never larger than it may be."""
        return max(self.disk) <= self.bound + max(self.bound // 20, 16 << 20)


def run(mounts: Mounts, nginx: Nginx, truth: Path, *, bound: int, readers: int, seconds: float, block: int) -> Outcome:
    """Read random parts of the blob through two mounts of one store with a bound."""
    options = ["--max-cache", str(bound), "--block-size", str(block)]
    made = [mounts(f"{nginx.url}/{sharing.BLOB}", options=options) for _ in range(2)]
    with DiskUse(mounts.store) as disk:
        tasks = [
            start(
                random_readers.compare, made[number % 2].path(sharing.BLOB), str(truth), number, seconds,
                direct=number % 4 < 2,
            )
            for number in range(readers)
        ]  # fmt: skip
        compared = [task.result(seconds + 60) for task in tasks]
    return Outcome(compared, disk.samples, [mount.counters() for mount in made], bound)


def main() -> None:
    """Run, print what happened, and end with 1 when it was not right."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-bound-", dir=options.directory) as name:
        directory = Path(name)
        docroot = directory / "docroot"
        docroot.mkdir()
        sharing.make_blob(docroot, options.size)
        mounts = Mounts(directory)
        try:
            with Nginx(directory / "nginx", docroot) as nginx:
                outcome = run(
                    mounts, nginx, docroot / sharing.BLOB, bound=options.bound, readers=options.readers,
                    seconds=options.seconds, block=options.block_size,
                )  # fmt: skip
        finally:
            mounts.end()
            Leftovers.below(directory).remove()
            reap()
    print(
        f"{outcome.reads} reads, {len(outcome.wrong)} wrong; a bound of {format_size(options.bound)}, du at the most "
        f"{format_size(max(outcome.disk))} in {len(outcome.disk)} samples; "
        + ", ".join(f"{outcome.counted(name)} {name}" for name in ("reads", "blocks_fetched", "blocks_hit"))
        + f", {outcome.counted('blocks_bypassed')} bypassed, {outcome.counted('blocks_corrupt')} corrupt"
    )
    sys.exit(0 if outcome.within and not outcome.wrong else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/bound", description=__doc__)
    parser.add_argument("--size", type=parse_size, default="640M", help="of the blob (640M)")
    parser.add_argument("--bound", type=parse_size, default="64M", help="on the store (64M)")
    parser.add_argument("--block-size", type=parse_size, default="64K", help="of the blob (64K)")
    parser.add_argument("--readers", type=int, default=8, help="in processes of their own, on two mounts (8)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which they read (60)")
    parser.add_argument("--directory", help="where the store is made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
