"""`tools/powerloss`: replays of recorded runs in which whatever was not synced may be lost, reordered or torn.

Ends with 1 when anything unsound is served after one of them, or when a fault that was planted is not found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.powerloss.planting import SEEN_AS
from tests.powerloss.recording import quick_directory, record
from tests.powerloss.replay import described, replay


def main() -> None:
    """Record, replay, print, and end with 1 when something was wrong."""
    options = _parser().parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="lazyfs-powerloss-", dir=options.directory or quick_directory()) as name:
        for seed in range(options.seed, options.seed + options.runs):
            wrong += not _run(options.replays, seed, "", Path(name))
        for fault in SEEN_AS if options.faults else ():
            wrong += not _run(options.replays, options.seed, fault, Path(name))
    sys.exit(1 if wrong else 0)


def _run(replays: int, seed: int, fault: str, directory: Path) -> bool:
    """Replay one run, and say whether it is as it should be."""
    ops = record(seed, fault)
    outcome = replay(ops, replays, seed, directory, fault)
    right = outcome.lost > 0 and (outcome.shows(SEEN_AS[fault]) if fault else not outcome.found)
    print(f"{'ok' if right else 'WRONG'}: run {seed}{', planted: ' * bool(fault)}{fault}: {described(ops)}; {outcome}")
    for what, times in outcome.found.most_common(5 if fault else None):
        print(f"  {times} times: {what}", flush=True)
    return right


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/powerloss", description=__doc__)
    parser.add_argument("--replays", type=int, default=200, help="of each run (200)")
    parser.add_argument("--runs", type=int, default=4, help="that are recorded (4)")
    parser.add_argument("--seed", type=int, default=0, help="of the first of them (0)")
    parser.add_argument("--faults", action="store_true", help="then plant faults, each of which must be found")
    parser.add_argument("--directory", help="where stores are made (in memory, if there is room)")
    return parser


if __name__ == "__main__":
    main()
