"""`tools/crash`: three mounts of one store whose daemons are killed, as often as one likes, and what is left then.

Ends with 1 when any byte or any store was not right, or when the kills hit nothing.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.mounts import Leftovers, reap
from tests.processes.crashing import MUST_HIT, Life, Tally, serving

ENOUGH: Final = 100
"""Kills of which some must have hit everything."""


def campaign(directory: Path, kills: int, seed: int, *, scale: int, kills_a_life: int) -> Tally:
    """Let so many daemons be killed, in stores with and without a bound in turn. *Units*: `scale` as `serving`."""
    tally, dice = Tally(), random.Random(seed)
    with serving(directory, scale) as (nginx, blobs):
        try:
            while tally.kills < kills:
                place = directory / f"life{tally.lives}"
                place.mkdir()
                life = Life(place, blobs, dice, tally, bounded=tally.lives % 2 == 0)
                life.live(min(kills_a_life, kills - tally.kills))
                tally.hit["answers cut short"] += sum(not request.complete for request in nginx.requests())
                nginx.forget()
        finally:
            Leftovers.below(directory).remove()
            reap()
    return tally


def main() -> None:
    """Run, print, and end with 1 when something was wrong."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-crash-", dir=options.directory) as name:
        tally = campaign(Path(name), options.kills, options.seed, scale=options.scale, kills_a_life=options.life)
    for what in tally.wrong:
        print(f"WRONG: {what}")
    missed = [what for what in (MUST_HIT if options.kills >= ENOUGH else MUST_HIT[:2]) if not tally.hit[what]]
    if missed:
        print(f"WRONG: the kills did not hit: {', '.join(missed)}")
    wrong = tally.wrong or missed
    print(f"{'WRONG' if wrong else 'ok'}: {tally}")
    sys.exit(1 if wrong else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="in all (300)")
    parser.add_argument("--life", type=int, default=25, help="kills of each store before it is checked (25)")
    parser.add_argument("--scale", type=int, default=8, help="MiB of the smallest blob; all are 6 times that (8)")
    parser.add_argument("--seed", type=int, default=0, help="of victims and moments (0)")
    parser.add_argument("--directory", help="where the stores are made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
