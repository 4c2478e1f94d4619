"""`tools/removal`: what a gc of many GiB does to reads and listings through a live mount beside it.

The store gets a mount whose files are read and listed all the time, and blobs made up for it: of allocated, unwritten
blocks, laid down in a random order, so that their extents are as many as their blocks. First they are removed, then as
many are evicted block by block; if so wanted, again and again. Prints how long the reads and listings took without and
with the gc beside them, and naps, which show how late the machine was to wake anybody. So does what is late without a
gc: on a machine that has other things to do, only the two together say something.

100 GiB are made in 10 s. Nothing is written into them, so a sparse file with a file system in it has room for them on
a smaller disk:

    truncate -s 112G disk && mkfs.ext4 -q -m 0 disk && mount -o loop disk DIR
    tools/removal --size 100G --directory DIR
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from lazyfs.sizes import format_size, parse_size
from lazyfs.store import BlobRow, Store
from lazyfs.versions import BlobId
from tests import under
from tests.mounts import Leftovers, Mount, Mounts, Task, lazyfs, on_mount, reap, start
from tests.processes import sampling
from tests.servers import Nginx

KEPT = "kept.img"
FRESH = "fresh.img"
FRESH_PART = 32 << 30
"""Bytes of it that are there to be read from the origin at a time; they are a hole."""

PATIENCE = 1800
"""Seconds for one gc."""

GCS: Final[dict[str, list[str]]] = {"removal": [], "eviction": ["--max-cache", "1G"]}
"""With what arguments gc does what."""

CALLS = ("reads from the store", "reads from the origin", "listings")


class Times:
    """How long calls of each kind took. *Units*: seconds."""

    def __init__(self, taken: Mapping[str, list[float]] | None = None) -> None:
        self._taken = dict(taken or {})

    def __iadd__(self, more: Times) -> Times:
        for name, taken in more._taken.items():
            self._taken[name] = self._taken.get(name, []) + taken
        return self

    def late(self, name: str, most: float) -> int:
        """Return how many calls of a kind took longer than `most`."""
        return sum(taken > most for taken in self._taken[name])

    def show(self, when: str, most: float) -> None:
        """Print them."""
        for name, taken in self._taken.items():
            ordered = sorted(taken)
            p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
            print(
                f"{name} {when}: p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, max {ordered[-1] * 1e3:.1f} ms,"
                f" {self.late(name, most)} of {len(ordered)} over {most * 1e3:g} ms",
                flush=True,
            )


def main() -> None:
    """Run, print, and end with 1 when a read or a listing took longer than it may."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-removal-", dir=options.directory) as name:
        directory = Path(name)
        (directory / "docroot").mkdir()
        mounts = Mounts(directory)
        try:
            with Nginx(directory / "nginx", directory / "docroot") as nginx:
                measured = Measured(mounts, nginx, options.size, options.blobs, options.idle, options.most / 1000)
                late = measured.run(options.rounds, options.only)
        finally:
            mounts.end()
            Leftovers.below(directory).remove()
            reap()
    sys.exit(1 if late else 0)


class Measured:
    """A mount and what goes from its store. *Units*: bytes, seconds."""

    def __init__(self, mounts: Mounts, nginx: Nginx, size: int, blobs: int, idle: float, most: float) -> None:
        (nginx.docroot / KEPT).write_bytes(random.Random(1).randbytes(64 << 20))
        self._fresh = nginx.docroot / FRESH
        self._mounts = mounts
        self._nginx = nginx
        self._size, self._blobs, self._idle, self._most = size, blobs, idle, most

    def run(self, rounds: int, only: list[str] | None) -> int:
        """Do all of it and return how many calls beside a gc took longer than they may."""
        with self._fresh.open("wb") as file:
            file.truncate(4 * rounds * FRESH_PART)
        # Past the daemon it would be the disk that is timed, whose reads wait for the journal that the gc fills.
        options = ["--no-passthrough"]
        mount = self._mounts(f"{self._nginx.url}/{KEPT}", f"{self._nginx.url}/{FRESH}", options=options)
        on_mount(under.sha256, mount.path(KEPT))
        parts = itertools.count()
        late = 0
        for what in only or GCS:
            alone, beside = Times(), Times()
            for _ in range(rounds):
                _make(mount.store, self._size, self._blobs, orphans=what == "removal")
                alone += _sampled(mount, next(parts), lambda: time.sleep(self._idle))
                beside += _sampled(mount, next(parts), partial(_collect, mount, GCS[what]))
            alone.show("alone", self._most)
            beside.show(f"beside the {what} of {format_size(self._size)}", self._most)
            late += sum(beside.late(name, self._most) for name in CALLS)
        return late


def _make(path: Path, size: int, blobs: int, *, orphans: bool) -> None:
    """Put blobs into a store, all their blocks marked present; as orphans of long ago, or as blobs that are known."""
    began, dice = time.monotonic(), random.Random(size)
    with contextlib.closing(Store.open(path)) as store:
        for _ in range(blobs):
            blob_id = BlobId(f"url-{dice.randbytes(32).hex()}")
            with contextlib.closing(store.open_blob(blob_id, f"http://made.up/{blob_id}", size // blobs)) as blob:
                fd, unit = blob.files.data, blob.geometry.block_size
                for index in dice.sample(range(blob.geometry.blocks), blob.geometry.blocks):
                    os.posix_fallocate(fd, index * unit, blob.geometry.length(index))
                    blob.record(index, 1)
                blob.sync()
            if orphans:
                store.behind.settle()
                store.catalogue.correct(BlobRow(blob_id, "", size // blobs, unit, False, last_used=0.0))
    print(f"made {blobs} blobs of {format_size(size)} together in {time.monotonic() - began:.1f} s", flush=True)


def _collect(mount: Mount, arguments: list[str]) -> None:
    began = time.monotonic()
    done = lazyfs("gc", "--store", mount.store, *arguments, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    print(f"gc took {time.monotonic() - began:.2f} s: {'; '.join(done.stdout.splitlines())}", flush=True)


def _sampled(mount: Mount, number: int, meanwhile: Callable[[], None]) -> Times:
    """Return how long calls of each kind took while something else went on; `number` says for which time."""
    fresh = number * FRESH_PART, (number + 1) * FRESH_PART
    tasks: dict[str, Task[list[float]]] = {
        CALLS[0]: start(sampling.hits, mount.path(KEPT)),
        CALLS[1]: start(sampling.misses, mount.path(FRESH), *fresh),
        CALLS[2]: start(sampling.listings, mount.path()),
        "naps of 1 ms": start(sampling.wake_ups, mount.path()),
    }
    for task in tasks.values():
        task.wait_until_open()
    meanwhile()
    for task in tasks.values():
        task.go()
    return Times({name: task.result() for name, task in tasks.items()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/removal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=parse_size, default="8G", help="of what goes, twice (8G)")
    parser.add_argument("--blobs", type=int, default=2, help="how many blobs that is (2)")
    parser.add_argument("--only", action="append", choices=tuple(GCS), help="repeatable (both)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each, with a time without a gc before (1)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of samples without a gc (10)")
    parser.add_argument("--most", type=float, default=50.0, help="milliseconds that a call may take beside a gc (50)")
    parser.add_argument("--directory", help="where the store is made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
