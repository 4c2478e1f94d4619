"""Measure lazyfs beside its peers: every subject in turn, several rounds in one run, medians and ratios.

The machine's speed drifts, so only figures of one run are compared, round by round. Subjects that are not installed
are left out and said to be. The origin is nginx on loopback with a file of random bytes; every subject reads it all,
sequentially, from nothing, and what it read is compared by its SHA-256 once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lazyfs.sizes import format_size, parse_size
from tests.servers import Nginx

LIMIT = 600.0
"""Seconds for one reading: a bound, not an expectation."""


@dataclass(frozen=True)
class Subject:
    """Something that gives a file's bytes; `prepare` yields the path to read, from an empty cache."""

    name: str
    needs: str
    prepare: Callable[[str, Path], contextlib.AbstractContextManager[Path]]


def run(*command: str | Path) -> str:
    """Run a command that must succeed and return what it prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def lazyfs(url: str, work: Path) -> Iterator[Path]:
    """A lazyfs mount with an empty store."""
    mountpoint = work / "mount"
    mountpoint.mkdir()
    command = [sys.executable, "-m", "lazyfs"]
    run(*command, "mount", "--store", work / "store", url, mountpoint)
    try:
        yield mountpoint / "blob"
    finally:
        run(*command, "umount", mountpoint)


@contextlib.contextmanager
def rclone(url: str, work: Path) -> Iterator[Path]:
    """An rclone mount with an empty full cache."""
    mountpoint = work / "mount"
    mountpoint.mkdir()
    base = url.rpartition("/")[0]
    flags = ("--vfs-cache-mode", "full", "--cache-dir", work / "cache", "--config", "")
    run("rclone", "mount", "--daemon", *flags, "--http-url", base, ":http:", mountpoint)
    try:
        yield mountpoint / "blob"
    finally:
        run("fusermount3", "-u", mountpoint)


@contextlib.contextmanager
def curl(url: str, work: Path) -> Iterator[Path]:
    """curl to the disk: its pipe stands for the file, so that the download is what is timed."""
    pipe = work / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f'curl -s "$1" | tee "$2" > "{pipe}"', "sh", url, str(work / "copy")]):
        yield pipe


SUBJECTS = (
    Subject("lazyfs", "fusermount3", lazyfs),
    Subject("rclone", "rclone", rclone),
    Subject("curl", "curl", curl),
)


def read_all(path: Path, digest: str | None) -> float:
    """Read a file to its end in another process; return the seconds it took. With a digest, check it instead."""
    if digest is not None:
        found = run("sha256sum", path).split()[0]
        if found != digest:
            sys.exit(f"{path}: wrong bytes: sha256 {found}, not {digest}")
    began = time.monotonic()
    run("dd", f"if={path}", "of=/dev/null", "bs=1M")
    return time.monotonic() - began


def cold_sequential(size: int, rounds: int, work: Path) -> dict[str, list[float]]:
    """Return MiB/s for each subject and round."""
    served = work / "served"
    served.mkdir()
    run("dd", "if=/dev/urandom", f"of={served / 'blob'}", "bs=1M", f"count={size >> 20}")
    digest = run("sha256sum", served / "blob").split()[0]
    subjects = [subject for subject in SUBJECTS if shutil.which(subject.needs)]
    for subject in SUBJECTS:
        if subject not in subjects:
            print(f"{subject.name}: left out, {subject.needs} is not installed", file=sys.stderr)
    rates: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    with Nginx(work / "nginx", served) as origin:
        for number in range(rounds):
            for subject in subjects[number % len(subjects) :] + subjects[: number % len(subjects)]:
                own = work / f"{subject.name}-{number}"
                own.mkdir()
                with subject.prepare(f"{origin.url}/blob", own) as path:
                    rates[subject.name].append((size >> 20) / read_all(path, None))
                    if number == 0 and not path.is_fifo():
                        read_all(path, digest)
                shutil.rmtree(own)
                print(f"round {number + 1}, {subject.name}: {rates[subject.name][-1]:.0f} MiB/s", file=sys.stderr)
    return rates


def table(rates: dict[str, list[float]]) -> str:
    """Return the medians, the ranges, and lazyfs's rate beside each: the median of the rounds' ratios."""
    lines = ["subject   median MiB/s   range        lazyfs / subject"]
    for name, values in rates.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["lazyfs"], values, strict=True))
        shown = f"{min(values):.0f}-{max(values):.0f}"
        lines.append(f"{name:8}  {statistics.median(values):12.0f}   {shown:11}  {ratio:.2f}")
    return "\n".join(lines)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="tools/bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=parse_size, default=parse_size("512M"), help="bytes to read (512M)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all subjects (5)")
    parser.add_argument(
        "--dir", type=Path, help="where caches and the served file lie (the system's temporary directory)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-bench-", dir=options.dir) as work:
        rates = cold_sequential(options.size, options.rounds, Path(work))
    print(f"cold sequential reading, {format_size(options.size)}, nginx on loopback, {options.rounds} rounds")
    print(table(rates))
    if options.json:
        options.json.write_text(json.dumps({"cold_sequential_mib_per_s": rates}, indent=2))


if __name__ == "__main__":
    main()
