"""`tools/passing`: files are read past two daemons and by them, while their blobs are evicted and fetched again.

Readers open, map and close files of two mounts of one store at random; beside them all is evicted that may be, and
made whole again. Prints what was wrong and a tally; ends with 1 when anything was: bytes, or any error at all.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.mounts import Leftovers, Mounts, lazyfs, reap, start
from tests.processes.opening import use_at_random
from tests.servers import Nginx

MIB = 1 << 20
SIZES = {"one": MIB, "two": 2 * MIB + 4096, "three": 6 * MIB}


def main() -> None:
    """Run, print, and end with 1 when something was wrong."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-passing-") as name:
        directory = Path(name)
        try:
            opens, past, rounds, wrong = _run(directory, options.seconds, options.readers, options.seed)
        finally:
            Leftovers.below(directory).remove()
            reap()
    for line in wrong:
        print(f"WRONG: {line}")
    print(
        f"{'WRONG' if wrong else 'ok'}: {opens} opens, {past} of them past a daemon, beside {rounds} evictions of all"
    )
    sys.exit(bool(wrong))


def _run(directory: Path, seconds: float, readers: int, seed: int) -> tuple[int, int, int, list[str]]:
    docroot, mounts = directory / "docroot", Mounts(directory)
    docroot.mkdir()
    for name, size in SIZES.items():
        (docroot / name).write_bytes(random.Random(f"{name} {seed}").randbytes(size))
    with Nginx(directory / "nginx", docroot) as nginx:
        made = [mounts(*(f"{nginx.url}/{name}" for name in SIZES), options=["--passthrough"]) for _ in range(2)]
        files = [(mount.path(name), str(docroot / name)) for mount in made for name in SIZES]
        began, rounds, wrong = time.monotonic(), 0, list[str]()
        tasks = [start(use_at_random, files, seconds, seed * 1000 + number) for number in range(readers)]
        while time.monotonic() < began + seconds:
            for words in (
                ["gc", "--store", mounts.store, "--max-cache", "64K"],
                ["fetch", *(path for path, _ in files)],
            ):
                done = lazyfs(*words)
                wrong += [done.stderr] if done.returncode else []
            rounds += 1
        found = [task.result(seconds + 60) for task in tasks]
        counters = [mount.counters() for mount in made]
        mounts.end()
    wrong += [line for _, lines in found for line in lines]
    wrong += [f"a daemon counts {count['errors']} errors" for count in counters if count["errors"]]
    return sum(opens for opens, _ in found), sum(count["passthrough_opens"] for count in counters), rounds, wrong


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/passing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--readers", type=int, default=3, help="processes that read (3)")
    parser.add_argument("--seed", type=int, default=0, help="of bytes and of what readers do (0)")
    return parser


if __name__ == "__main__":
    main()
