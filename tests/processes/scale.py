"""`tools/scale`: what large things cost, and whether that grows faster than they do.

Makes a manifest of a million names, a directory of 100,000, an index of as many, a blob of 4 TiB (a hole, at the origin
and in the store), 64 mounts of one store and 10,000 open files, each in two or three sizes, and does with them what
people do. For each step it prints the seconds it took, the processor time and memory of the daemons, what that is for
each unit of the work, and beside it, from the second size on, how much faster than the work it has grown. The work of a
blob is what was read of it, not its size.

Ends with 1 where a figure has clearly grown faster: by more than --most times the growth of the work, beyond two
seconds, half a second of the processor, or 16 MiB, which are the machine's and the interpreter's own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lazyfs.sizes import format_size, parse_size
from tests.mounts import Leftovers, Mounts, reap
from tests.processes.scaling import Scale, Step
from tests.servers import Nginx

SIZES: Final = {
    "names": "100000,1000000",
    "entries": "10000,100000",
    "index": "10000,100000",
    "blob": "40G,400G,4T",
    "mounts": "8,64",
    "files": "1000,10000",
}
"""What there is to measure, and how large."""

SECONDS: Final = 2.0
"""By which a step may take longer, whatever its work: so much comes of others who use the machine."""

PROCESSOR: Final = 0.5
"""Seconds of the daemons' processors, likewise."""

MEMORY: Final = 16 << 20
"""Bytes by which a daemon may grow, whatever its work."""


@dataclass
class Table:
    """Prints steps, and compares each with the same step at the size before."""

    most: float
    grown: list[str] = field(default_factory=list)
    _before: dict[str, Step] = field(default_factory=dict)

    def show(self, step: Step) -> None:
        """Print one."""
        before = self._before.get(step.what)
        self._before[step.what] = step
        each = f"{step.seconds / step.work * 1e6:9.1f} us {step.memory / step.work:10,.0f} B"
        ratio = ""
        if before is not None:
            growth = step.work / before.work
            figures = {
                "seconds": (step.seconds, before.seconds, SECONDS),
                "processor": (step.processor, before.processor, PROCESSOR),
                "memory": (step.memory, before.memory, MEMORY),
            }
            faster = {name: now / (growth * max(then, 1e-9)) for name, (now, then, _) in figures.items()}
            ratio = f"  x{faster['seconds']:.2f} s, x{faster['memory']:.2f} B"
            for name, (now, then, beyond) in figures.items():
                if now > growth * then * self.most + beyond:
                    self.grown.append(f"{step.what}: its {name} grew {faster[name]:.1f} times as fast as its work")
        slowest = f"  (slowest look-up {step.slowest * 1000:.0f} ms)" if step.slowest else ""
        print(
            f"{step.what:36} {step.work:9,} {step.seconds:8.2f} s {step.processor:8.2f} s cpu"
            f" {format_size(step.memory):>10} {each}{ratio}{slowest}",
            flush=True,
        )


def main() -> None:
    """Measure, print, and end with 1 when something grew faster than its work."""
    options = _parser().parse_args()
    table = Table(options.most)
    with tempfile.TemporaryDirectory(prefix="lazyfs-scale-", dir=options.directory) as name:
        directory = Path(name)
        (directory / "docroot").mkdir()
        mounts = Mounts(directory)
        try:
            with Nginx(directory / "nginx", directory / "docroot") as nginx:
                scale = Scale(mounts, nginx, table.show, options.idle)
                for what in options.only or SIZES:
                    for size in getattr(options, what).split(","):
                        print(f"{what}: {size}", flush=True)
                        getattr(scale, what)(parse_size(size))
        finally:
            mounts.end()
            Leftovers.below(directory).remove()
            reap()
    for line in table.grown:
        print(line)
    sys.exit(1 if table.grown else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=tuple(SIZES), help="repeatable (all)")
    for what, sizes in SIZES.items():
        parser.add_argument(f"--{what}", default=sizes, metavar="SIZES", help=f"from small to large ({sizes})")
    parser.add_argument("--most", type=float, default=1.5, help="times that a figure may grow faster (1.5)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds for which mounts are left alone (10)")
    parser.add_argument("--directory", help="where stores and origin are (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
