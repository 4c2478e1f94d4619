"""`tools/bench`: lazyfs beside the local file, curl and its peers, line by line, and what each line must show.

The origin is nginx on loopback, or behind a link of the bench's own with a round trip and a rate. All subjects take
turns, several rounds in one run, so that figures of one machine in one hour are compared, and each begins with an
empty cache. Page caches of the mounts are dropped before each reading; those of the local file and of what a subject
keeps on the disk are not, and no page is read twice. What each subject gives is compared with the blob once.
Processor time is that of a subject's own processes: the readers' is not counted, what the kernel does in the name of a
daemon is. Ends with 1 when a line is not met, or could not be compared.

Subjects that are not installed are left out, and said to be. All of them, on Debian:
    apt-get install curl rclone nbdkit libnbd-bin httpdirfs qemu-system-common qemu-block-extra
"""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lazyfs.sizes import format_size, parse_size
from tests.mounts import ROOT
from tools.benching import chart, results
from tools.benching.origin import Ground, Scale
from tools.benching.processes import Trouble
from tools.benching.reading import MIB
from tools.benching.running import Bench, say
from tools.benching.subjects import SUBJECTS, Lazyfs, Subject

FULL = {"size": 512 << 20, "link_size": 256 << 20, "wide_size": 8 << 30, "reads": 200, "names": 10_000, "runtime": 3.0}

QUICK = {"size": 32 << 20, "link_size": 16 << 20, "wide_size": 1 << 30, "reads": 10, "names": 200, "runtime": 0.2}
"""Enough for every line to come out, too little for it to mean anything."""


def main() -> None:
    """Do what the command line asks for."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("tools/bench: terminated"))
    lines = options.only or frozenset(results.LINES)
    subjects = _installed(options.subjects)
    scale = _scale(options)
    about = _about(options, scale, subjects)
    compileall.compile_dir(ROOT / "lazyfs", quiet=2)  # as pip does; Python may not be allowed to
    try:
        with (
            tempfile.TemporaryDirectory(prefix="lazyfs-bench-", dir=options.dir) as work,
            Ground(Path(work).resolve(), scale) as ground,
        ):
            bench = Bench(ground, subjects, lines)
            for number in range(options.rounds):
                bench.round(number)
                judged = results.judge(bench.measured, scale, lines)
                about |= {"rounds": number + 1, "failed": bench.failed, "link": ground.link.counts()}
                _write(options, results.as_json(bench.measured, judged, about))
    except Trouble as trouble:
        sys.exit(f"tools/bench: {trouble}")
    print(_title(about, scale))
    print("\n".join(results.table(bench.measured, judged)))
    for failure in bench.failed:
        print(f"failed: {failure}")
    met = sum(each.met for each in judged)
    print(f"{met} of {len(judged)} lines are met; all figures are in {options.json}")
    sys.exit(0 if met == len(judged) else 1)


def _write(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what there is so far, after each round: a run takes long."""
    options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.chart:
        options.chart.write_text(chart.draw(found))


def _installed(names: frozenset[str] | None) -> list[Subject]:
    """Return the subjects that are asked for and installed; lazyfs always is."""
    chosen = []
    for subject in SUBJECTS:
        if names is None or subject.name in names or isinstance(subject, Lazyfs):
            program = subject.missing()
            if program is None:
                chosen.append(subject)
            else:
                say(f"{subject.name} is left out: {program} is not installed")
    return chosen


def _scale(options: argparse.Namespace) -> Scale:
    values: dict[str, Any] = dict(QUICK if options.quick else FULL)
    if options.size:
        values |= {"size": options.size, "link_size": options.size // 2}
    return Scale(**values, rtt=options.rtt / 1000, rate=options.rate * 1e6 / 8)


def _about(options: argparse.Namespace, scale: Scale, subjects: list[Subject]) -> dict[str, Any]:
    """Return what one has to know beside the figures."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "scale": dataclasses.asdict(scale),
        "versions": {subject.name: subject.version() for subject in subjects},
    }


def _title(about: dict[str, Any], scale: Scale) -> str:
    return (
        f"{about['rounds']} rounds, {format_size(scale.size)} on loopback, {format_size(scale.link_size)} over "
        f"{scale.rtt * 1000:g} ms and {scale.rate * 8 / 1e6:g} Mbit/s; {about['cores']} cores, "
        f"kernel {about['kernel']}, load {about['load_before']:.1f} when it began"
    )


def _names(known: tuple[str, ...]) -> Callable[[str], frozenset[str]]:
    """Return what parses a list of names with commas between them."""

    def names(text: str) -> frozenset[str]:
        found = frozenset(text.split(","))
        if unknown := found - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
        return found

    return names


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a number from 1 on")
    return int(text)


def _size(text: str) -> int:
    size = parse_size(text)
    if size < MIB or size % (2 * MIB):
        raise argparse.ArgumentTypeError(f"{text}: not a multiple of 2M")
    return size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = tuple(subject.name for subject in SUBJECTS)
    parser.add_argument(
        "--only", type=_names(results.LINES), metavar="LINE,...", help=f"of {', '.join(results.LINES)} (all)"
    )
    parser.add_argument("--subjects", type=_names(known), metavar="NAME,...", help=f"of {', '.join(known)} (all)")
    parser.add_argument("--rounds", type=_rounds, default=3, help="over all subjects (3)")
    parser.add_argument("--size", type=_size, help="of the blob on loopback; over the link it is half of that (512M)")
    parser.add_argument("--rtt", type=float, default=20, metavar="MS", help="of the link, milliseconds (20)")
    parser.add_argument("--rate", type=float, default=1000, metavar="MBIT", help="of the link, Mbit/s (1000)")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")
    parser.add_argument("--dir", type=Path, help="where caches and blobs lie (the system's temporary directory)")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where all figures go (bench.json)")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the medians, too")
    return parser


if __name__ == "__main__":
    main()
