"""`tools/outlive`: a mount whose daemons are killed, stopped or upgraded under load, and outlives all of them.

Ends with 1 when a call failed, a byte was wrong, a call took longer than it may, or something was left. What an idle
process was held up by meanwhile is taken off, and what the next daemon and its supervisor waited for a processor.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.outlive import ending
from tests.outlive.campaign import WAYS, Plan, outlive
from tests.outlive.outcome import Outcome
from tests.outlive.scene import serving


def main() -> None:
    """Run, print, and end with 1 when something was wrong."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # and clean up
    with tempfile.TemporaryDirectory(prefix="lazyfs-outlive-", dir=options.directory) as name:
        with serving(Path(name) / "scene", options.scale) as scene:
            if options.how in WAYS:
                plan = Plan(WAYS[options.how], options.every, options.seconds, passthrough=options.passthrough)
                outcome = outlive(scene, plan)
            else:
                outcome = ending.WAYS[options.how](scene)
        _show(outcome, options)


def _show(outcome: Outcome, options: argparse.Namespace) -> None:
    print(*outcome.lines(), sep="\n")
    longest = options.pause
    if longest is None:
        longest = 15.0 if options.how in ("stop", "mixed") else 1.0
    judged, late = outcome.pauses(longest)
    wrong = outcome.wrong + judged
    for what in late:
        print(f"  not judged, since the machine was late itself: {what}")
    for what in wrong:
        print(f"WRONG: {what}")
    print("WRONG" if wrong else f"ok: {options.how}")
    sys.exit(bool(wrong))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/outlive", description=__doc__)
    parser.add_argument("--how", choices=[*WAYS, *ending.WAYS], default="kill", help="what ends the daemons (kill)")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two ends, at the least (2)")
    parser.add_argument("--seconds", type=float, default=300.0, help="of load (300)")
    parser.add_argument("--pause", type=float, help="seconds that a call may take (1; 15 where daemons are stopped)")
    parser.add_argument("--no-passthrough", dest="passthrough", action="store_false", help="and erofs from the file")
    parser.add_argument("--scale", type=int, default=8, help="MiB of the smallest blob; all are 18 times that (8)")
    parser.add_argument("--directory", help="where the store is made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
