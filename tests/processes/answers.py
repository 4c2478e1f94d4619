"""`tools/answers`: how long `lazyfs ls`, `status` and `ls -l` take while four processes pull, and while none does."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from lazyfs.sizes import parse_size
from tests.mounts import ENVIRONMENT, ROOT, Leftovers, Mounts, reap, start
from tests.processes import asking
from tests.servers import Nginx


def shown(name: str, times: list[float]) -> str:
    """One line of figures."""
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return (
        f"{name:24} {len(times):5}  median {1000 * statistics.median(ordered):6.1f}  p99 {1000 * p99:6.1f}"
        f"  max {1000 * ordered[-1]:6.1f} ms"
    )


def measure(mounts: Mounts, at: str, seconds: float) -> None:
    """Print the figures of all of them, one after the other."""
    print(shown("ls -l under the mount", start(asking.listings, at, seconds).result(seconds + 60)))
    for name, times in asking.inside(mounts.store, seconds).items():
        print(shown(name, times))
    for name in ("ls", "status"):
        words = [sys.executable, "-m", "lazyfs", name, "--store", str(mounts.store)]
        print(shown(f"lazyfs {name}", asking.commands(words, seconds)))
    print(
        shown("python -c 'import click'", asking.commands([sys.executable, "-c", "import click"], seconds)), flush=True
    )


def main() -> None:
    """Measure at rest, and while others pull."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-answers-", dir=options.directory) as name, ExitStack() as stack:
        directory = Path(name)
        docroot = directory / "docroot"
        docroot.mkdir()
        for number in range(options.processes):
            with (docroot / f"{number}.img").open("wb") as file:
                for _ in range(options.size >> 20):
                    file.write(os.urandom(1 << 20))
        mounts = Mounts(directory)
        stack.callback(reap)
        stack.callback(lambda: Leftovers.below(directory).remove())
        stack.callback(mounts.end)
        nginx = stack.enter_context(Nginx(directory / "nginx", docroot))
        mount = mounts(f"{nginx.url}/", options=["--max-cache", str(options.bound)])
        print("at rest:")
        start(asking.listings, str(mount.at), 0.1).result()
        measure(mounts, str(mount.at), options.seconds)
        pulling = [
            stack.enter_context(
                subprocess.Popen(
                    ["sh", "-c", 'while "$@"; do :; done', "sh", sys.executable, "-m", "lazyfs", "fetch", "--store",
                     mounts.store, "--max-cache", str(options.bound), "-o", "/dev/null", f"{nginx.url}/{number}.img"],
                    cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL, start_new_session=True,
                )
            )
            for number in range(options.processes)
        ]  # fmt: skip
        for process in pulling:
            stack.callback(os.killpg, process.pid, 9)
        time.sleep(2)
        print(f"while {options.processes} processes pull:")
        measure(mounts, str(mount.at), options.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/answers", description=__doc__)
    parser.add_argument("--processes", type=int, default=4, help="that pull (4)")
    parser.add_argument("--size", type=parse_size, default="256M", help="of what each pulls, again and again (256M)")
    parser.add_argument("--bound", type=parse_size, default="192M", help="on the store, so that nothing stays (192M)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure (10)")
    parser.add_argument("--directory", help="where the store is made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
