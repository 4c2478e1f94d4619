"""How the subjects are read: by fio with the job files in tools/fio, and never by the bench's own process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tests.mounts import ENVIRONMENT
from tools.benching.processes import Trouble, Words, limit, run

MIB = 1 << 20

WAYS = ("random", "direct", "sequential", "jobs")
"""Of reading what is warm: pages by one, past the page cache, from end to end, and pages by four at once."""

JOBS = Path(__file__).resolve().parents[1] / "fio"


@dataclass(frozen=True)
class Reading:
    """What fio saw. *Units*: bytes, reads a second, seconds."""

    done: int
    iops: float
    elapsed: float
    reading: float
    """Seconds in reads: without opening and fio's own work, and not rounded to milliseconds, as `elapsed` is."""
    mean: float
    p99: float


def fio(job: str, size: int = 0, /, **variables: object) -> Reading:
    """Run a job file, whose variables are given, and return what its group of jobs did. *Raises*: Trouble.

    `size` is how much it reads, where no time ends it.
    """
    environment = {**ENVIRONMENT, **{name: str(value) for name, value in variables.items()}}
    words: Words = ["fio", "--output-format=json", JOBS / f"{job}.fio"]
    output = run(words, limit(size), environment=environment)
    notes, brace, found = output.partition("{")
    jobs = json.loads(brace + found)["jobs"]
    if any(each["error"] for each in jobs):
        raise Trouble(f"fio {job}: a read failed: {' '.join(notes.split())[-300:]}")
    return _reading([each["read"] for each in jobs])


def _reading(jobs: list[dict[str, Any]]) -> Reading:
    latency, reads = jobs[0]["clat_ns"], sum(job["total_ios"] for job in jobs)  # a group of jobs is one here
    elapsed = max(1, *(job["runtime"] for job in jobs)) / 1000
    return Reading(
        done=sum(job["io_bytes"] for job in jobs),
        iops=reads / elapsed,
        elapsed=elapsed,
        reading=latency["mean"] * jobs[0]["total_ios"] / 1e9,
        mean=latency["mean"] / 1e9,
        p99=cast("int", latency.get("percentile", {}).get("99.000000", 0)) / 1e9,
    )


def read_all(path: Path, size: int, *, job: str = "sequential") -> Reading:
    """Read a file once. *Raises*: Trouble."""
    done = fio(job, size, FILE=path, SIZE=size)
    if done.done != size:
        raise Trouble(f"{path}: fio read {done.done} bytes, not {size}")
    return done


def one_way(way: str, path: Path, size: int, runtime: float, *, forget: bool) -> float:
    """Read a file whose bytes are all at hand; return reads a second or, of big reads, MiB/s.

    `forget` has the mount's page cache dropped first, so that each page is asked of whoever is behind the mount.
    """
    if forget:
        drop(path)
    if way in ("random", "jobs"):
        return fio(way, FILE=path, SIZE=size, QUARTER=size // 4, MILLISECONDS=int(runtime * 1000)).iops
    return size / MIB / read_all(path, size, job=way).reading


def drop(path: Path) -> None:
    """Have the kernel forget what it has cached of a file on a mount; what is behind the mount keeps its cache.

    *Source*: dd(1), "Ensure drop cache for the whole file".
    """
    run(["dd", f"if={path}", "iflag=nocache", "count=0", "status=none"])


def check(path: Path, digest: str, size: int) -> None:
    """Compare all bytes. *Raises*: Trouble."""
    found = run(["sha256sum", path], limit(size)).split()[0].removeprefix("\\")
    if found != digest:
        raise Trouble(f"{path}: wrong bytes: their SHA-256 is {found}, not {digest}")
