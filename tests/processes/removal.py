"""`tools/removal`: what a gc of many GiB does to reads and listings through a live mount beside it.

The store gets a mount whose files are read and listed all the time, and blobs made up for it: of allocated, unwritten
blocks, laid down in a random order, so that their extents are as many as their blocks. First they are removed, then as
many are evicted block by block. Prints how long the reads and listings took without and with the gc beside them, and
naps, which show how late the machine was to wake anybody.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lazyfs.sizes import format_size, parse_size
from lazyfs.store import Store
from lazyfs.versions import BlobId
from tests import under
from tests.mounts import Leftovers, Mount, Mounts, Task, lazyfs, on_mount, reap, start
from tests.processes import sampling
from tests.servers import Nginx

KEPT = "kept.img"
FRESH = "fresh.img"
FRESH_PART = 8 << 30
"""Bytes of it that are there to be read from the origin at a time; they are a hole."""

CALLS = ("reads from the store", "reads from the origin", "listings")

Times = dict[str, list[float]]


def main() -> None:
    """Run, print, and end with 1 when a read or a listing took longer than it may."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-removal-", dir=options.directory) as name:
        directory = Path(name)
        (directory / "docroot").mkdir()
        mounts = Mounts(directory)
        try:
            with Nginx(directory / "nginx", directory / "docroot") as nginx:
                late = measure(mounts, nginx, options.size, options.blobs, options.idle, options.most / 1000)
        finally:
            mounts.end()
            Leftovers.below(directory).remove()
            reap()
    sys.exit(1 if late else 0)


def measure(mounts: Mounts, nginx: Nginx, size: int, blobs: int, idle: float, most: float) -> int:
    """Do all of it and return how many calls beside a gc took longer than `most`. *Units*: bytes, seconds."""
    (nginx.docroot / KEPT).write_bytes(random.Random(1).randbytes(64 << 20))
    with (nginx.docroot / FRESH).open("wb") as file:
        file.truncate(3 * FRESH_PART)
    mount = mounts(f"{nginx.url}/{KEPT}", f"{nginx.url}/{FRESH}")
    on_mount(under.sha256, mount.path(KEPT))
    _show("alone", _sampled(mount, 0, lambda: time.sleep(idle)))
    late = 0
    for number, what in enumerate(("removal", "eviction"), 1):
        evicting = what == "eviction"
        _make(mount.store, size, blobs, orphans=not evicting)
        times = _sampled(mount, number, partial(_collect, mount, ["--max-cache", "1G"] if evicting else []))
        _show(f"beside the {what} of {format_size(size)}", times)
        late += sum(taken > most for name in CALLS for taken in times[name])
    return late


def _make(path: Path, size: int, blobs: int, *, orphans: bool) -> None:
    """Put blobs into a store, all their blocks marked present; as orphans, or as blobs that the catalogue knows."""
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
                store.catalogue.drop_blob(blob_id)
    print(f"made {blobs} blobs of {format_size(size)} together in {time.monotonic() - began:.1f} s", flush=True)


def _collect(mount: Mount, arguments: list[str]) -> None:
    began = time.monotonic()
    done = lazyfs("gc", "--store", mount.store, *arguments, timeout=600)
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
    return {name: task.result() for name, task in tasks.items()}


def _show(when: str, times: Times) -> None:
    for name, taken in times.items():
        ordered = sorted(taken)
        p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        print(
            f"{name} {when}: p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, max {ordered[-1] * 1e3:.1f} ms,"
            f" of {len(ordered)}",
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/removal", description=__doc__)
    parser.add_argument("--size", type=parse_size, default="8G", help="of what goes, twice (8G)")
    parser.add_argument("--blobs", type=int, default=2, help="how many blobs that is (2)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of samples without a gc (10)")
    parser.add_argument("--most", type=float, default=50.0, help="milliseconds that a call may take beside a gc (50)")
    parser.add_argument("--directory", help="where the store is made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
