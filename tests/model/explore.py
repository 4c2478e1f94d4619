"""`tools/interleavings`: the protocol of the store's locks in more orders than the tests have time for."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.model.interleavings import Wrong
from tests.model.protocol import Scenario
from tests.model.scenarios import SCENARIOS, explorer


def main() -> None:
    """Explore, print a line for each scenario, and end with 1 when one of them goes wrong."""
    options = _parser().parse_args()
    memory = "/dev/shm"
    failed = 0
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        for scenario in SCENARIOS:
            if options.scenario in (None, scenario.name):
                failed += not _explore(scenario, Path(name) / "store", options)
    sys.exit(1 if failed else 0)


def _explore(scenario: Scenario, place: Path, options: argparse.Namespace) -> bool:
    """Explore one scenario and say whether nothing went wrong."""
    began, right = time.monotonic(), True
    bound = options.preemptions if options.preemptions >= 0 else None
    with explorer(scenario, place, kills=options.kills, preemptions=bound, most=options.most) as exploring:
        try:
            exploring.explore()
        except Wrong as exc:
            right = False
            print(exc)
    print(
        f"{'ok' if right else 'WRONG'}: {scenario.name}: {exploring.schedules - exploring.pruned} schedules"
        f"{', all there are' if exploring.exhausted else ''}, of up to {exploring.longest} calls, "
        f"in {time.monotonic() - began:.1f} s",
        flush=True,
    )
    return right


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/interleavings", description=__doc__)
    parser.add_argument("--scenario", choices=[scenario.name for scenario in SCENARIOS], help="only this one (all)")
    parser.add_argument("--preemptions", type=int, default=2, help="in one schedule, at the most; -1: no bound (2)")
    parser.add_argument("--kills", type=int, default=1, help="in one schedule, at the most (1)")
    parser.add_argument("--most", type=int, default=20_000, help="schedules of each scenario (20000)")
    return parser


if __name__ == "__main__":
    main()
