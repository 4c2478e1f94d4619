"""`tools/boot-profile`: how long the reads of a boot take over a slow link, without a profile and with one.

A made-up boot reads an image as a guest does: pieces of 4 to 512 KiB, one after the other, some near each other, most
anywhere, with a little work between them. Each round reads it cold, each time from an empty store: with `--no-profile`;
with a profile of that very boot; with one of another boot, which is wrong. They take turns; medians count. Prints a
line for each and the share of the time without; beside them is the time in which the link carries just the bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path

from tests import under
from tests.mounts import Leftovers, Mount, Mounts, lazyfs, reap, start
from tests.servers import Nginx
from tools.benching.origin import LASTING, Linked

MIB = 1 << 20
LONGEST = 600.0
"""Seconds that one boot may take."""

WAYS = ("without", "right", "wrong")


def boot(size: int, wanted: int, seed: int) -> list[tuple[int, int]]:
    """Return the places that a boot reads, in order, offset and length in bytes; so many bytes in all."""
    chance, places, read, at = random.Random(seed), list[tuple[int, int]](), 0, 0
    while read < wanted:
        length = 4096 * chance.choice((1, 1, 4, 8, 16, 32, 64, 128))
        at = at if chance.random() < 0.4 and at + length < size else chance.randrange(0, size - length, 4096)
        places.append((at, length))
        at += length
        read += length
    return places


def main() -> None:
    """Measure, and print."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-booting-", dir=options.work) as name:
        directory = Path(name)
        try:
            took, fetched = run(directory, options)
        finally:
            Leftovers.below(directory).remove()
            reap()
    alone = statistics.median(took["without"])
    for way in WAYS:
        seconds, received = statistics.median(took[way]), statistics.median(fetched[way])
        least, rounds = received / _rate(options), " ".join(f"{each:.2f}" for each in took[way])
        print(
            f"{way:8} {seconds:6.2f} s  {seconds / alone:4.2f}  {received / MIB:6.1f} MiB fetched"
            f"  ({least:.2f} s on the link)  rounds: {rounds}"
        )


def run(directory: Path, options: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Return the seconds that each way took, and the bytes that it fetched, round by round."""
    docroot, size = directory / "boots" / "docroot", options.size * MIB
    docroot.mkdir(parents=True)
    with (docroot / "image").open("wb") as file:
        for _ in range(options.size):
            file.write(random.randbytes(MIB))
    places = {
        "right": boot(size, options.read * MIB, options.seed),
        "wrong": boot(size, options.read * MIB, options.seed + 1),
    }
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    fetched: dict[str, list[int]] = {way: [] for way in WAYS}
    mounts = Mounts(directory)
    with Nginx(docroot.parent / "nginx", docroot, http=LASTING) as nginx, _linked(nginx, options) as link:
        url = f"{link.url}/image"
        for way in ("right", "wrong"):
            mount = mounts(url, store=directory / f"recorded-{way}")
            _read(mount, places[way], 0.0)
            mount.umount()
            _export(directory / f"recorded-{way}", directory / way)
        for number in range(options.rounds):
            for way in WAYS if number % 2 else WAYS[::-1]:
                words: list[str | Path] = ["--no-profile"] if way == "without" else ["--profile", directory / way]
                mount = mounts(url, store=directory / f"store-{way}-{number}", options=words)
                took[way].append(_read(mount, places["right"], options.work_ms / 1000))
                fetched[way].append(mount.counters()["origin_bytes"])
                mount.umount()
    return took, fetched


def _linked(nginx: Nginx, options: argparse.Namespace) -> Linked:
    return Linked(nginx.port, options.rtt, _rate(options))


def _rate(options: argparse.Namespace) -> float:
    return float(options.mbit * 125_000)


def _read(mount: Mount, places: list[tuple[int, int]], pause: float) -> float:
    return start(under.timed_places, mount.path("image"), places, pause).result(LONGEST)


def _export(store: Path, to: Path) -> None:
    (row,) = json.loads(lazyfs("ls", "--store", store, "--json").stdout)
    done = lazyfs("profile", "export", "--store", store, row["blob"], "-o", to)
    assert done.returncode == 0, done.stderr


def parser() -> argparse.ArgumentParser:
    """Return what reads the words of the command line."""
    parser = argparse.ArgumentParser(prog="tools/boot-profile", description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="MiB of the image (512)")
    parser.add_argument("--read", type=int, default=12, help="MiB that the boot reads (12)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--rtt", type=float, default=0.02, help="seconds of a round trip (0.02)")
    parser.add_argument("--mbit", type=float, default=100, help="of the link in a second (100)")
    parser.add_argument("--work-ms", type=float, default=2, help="milliseconds between two reads (2)")
    parser.add_argument("--seed", type=int, default=1, help="of what the boot reads (1)")
    parser.add_argument("--work", type=Path, help="a directory with room for all that (the system's)")
    return parser


if __name__ == "__main__":
    main()
