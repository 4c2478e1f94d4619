"""`tools/swaps`: an origin that swaps a blob at a random moment under eight readers, as often as one likes.

Prints what they saw, for each kind of origin; ends with 1 when any of it should not have been seen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.faults.swapping import KINDS, RATE, Ground, Tally, rounds
from tests.mounts import Leftovers, Mounts, reap
from tests.servers import MisbehavingOrigin, Nginx


def main() -> None:
    """Run, print, and end with 1 when something was wrong."""
    options = _parser().parse_args()
    wrong = sum(
        _run(options, revalidate, seed)
        for seed in range(options.seed, options.seed + options.seeds)
        for revalidate in options.revalidate or ["0", "1", "60"]
    )
    sys.exit(1 if wrong else 0)


def _run(options: argparse.Namespace, revalidate: str, seed: int) -> int:
    """Do so many swaps under one mount and return how much was wrong."""
    due = rounds(options.swaps, seed, options.kind or tuple(KINDS))
    total, tallies, wrong = Tally(), defaultdict[str, Tally](Tally), 0
    with tempfile.TemporaryDirectory(prefix="lazyfs-swaps-", dir=options.directory) as name:
        directory = Path(name)
        (directory / "docroot").mkdir()
        mounts = Mounts(directory)
        nginx = Nginx(directory / "nginx", directory / "docroot", server=f"limit_rate {RATE};")
        try:
            with MisbehavingOrigin() as origin, nginx:
                ground = Ground(mounts, origin, nginx, due, revalidate)
                for each in due:
                    outcome = ground.run(each)
                    for what in outcome.wrong():
                        wrong += 1
                        print(f"WRONG: {what}", flush=True)
                    tallies[each.kind].add(outcome)
                    total.add(outcome)
        finally:
            mounts.end()
            Leftovers.below(directory).remove()
            reap()
    print(f"--revalidate {revalidate}, seed {seed}:")
    for kind, tally in tallies.items():
        print(f"  {kind}: {tally}")
    print(f"{'WRONG' if wrong else 'ok'}: {total}", flush=True)
    return wrong


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/swaps", description=__doc__)
    parser.add_argument("--swaps", type=int, default=200, help="under each mount (200)")
    parser.add_argument("--revalidate", action="append", help="the mount's option; repeatable (0, 1 and 60)")
    parser.add_argument("--kind", action="append", choices=tuple(KINDS), help="of origin; repeatable (all, in turn)")
    parser.add_argument("--seed", type=int, default=0, help="of sizes, moments and bytes (0)")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from that one on (1)")
    parser.add_argument("--directory", help="where the stores are made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
