"""`tools/damage`: any damage to any file of the store, and what sessions and mounts make of it.

Prints what came out wrong, and a tally; ends with 1 when anything was wrong: bytes, a hang, a traceback.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from tests import under
from tests.faults import damaging
from tests.faults.damaging import Case, Ground, Outcome
from tests.mounts import Leftovers, Mount, Mounts, on_mount, reap
from tests.servers import Nginx

PATIENCE = 100
"""Seconds for one case; the alarm that ends it is the only thing that a hang cannot hold up."""


def main() -> None:
    """Run, print, and end with 1 when something was wrong."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-damage-", dir=options.directory) as name:
        directory = Path(name)
        with Nginx(directory / "nginx", directory / "docroot") as nginx:
            ground = damaging.make_ground(directory, nginx.url)
            wrong, tally = 0, Counter[str]()
            for seed in range(options.seed, options.seed + options.seeds):
                due = [case for case in damaging.cases(ground.store) if options.only in str(case)]
                random.Random(seed).shuffle(due)
                for case in due[: options.cases]:
                    wrong += _report(case, seed, _in_child(ground, case, directory, seed), tally, options.verbose)
                for case in due[: options.mounts]:
                    wrong += _report(case, seed, _mounted(ground, case, directory, seed), tally, options.verbose)
    print(f"{'WRONG' if wrong else 'ok'}: " + ", ".join(f"{count} {what}" for what, count in sorted(tally.items())))
    sys.exit(1 if wrong else 0)


def _report(case: Case, seed: int, outcome: Outcome, tally: Counter[str], verbose: bool) -> int:
    tally["cases"] += 1
    tally["files read rightly"] += outcome.right
    tally["reads that failed"] += len(outcome.errors)
    tally["stores refused"] += bool(outcome.refused)
    for text in outcome.wrong:
        print(f"WRONG: {case} (seed {seed}): {text}", flush=True)
    if verbose:
        print(f"{case}: {outcome.right} right, {outcome.refused or outcome.errors}", flush=True)
    return len(outcome.wrong)


def _in_child(ground: Ground, case: Case, directory: Path, seed: int) -> Outcome:
    """Run a case in a process of its own: one that hangs or crashes is an outcome, too."""
    place = directory / "case"
    place.mkdir()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(PATIENCE)
            os.write(send, pickle.dumps(damaging.run_case(ground, case, place, seed)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as answer:
        data = answer.read()
    _, status = os.waitpid(child, 0)
    shutil.rmtree(place)
    if not data:
        return Outcome(wrong=[f"it ended with signal {os.WTERMSIG(status)}"])
    outcome: Outcome = pickle.loads(data)
    return outcome


def _mounted(ground: Ground, case: Case, directory: Path, seed: int) -> Outcome:
    """The same with a real mount, which is read by processes of their own."""
    place, outcome = directory / "mounted", Outcome()
    shutil.copytree(ground.store, place / "store", symlinks=True, copy_function=damaging.copy_file)
    mounts, spoil, dice = Mounts(place), damaging.spoil_of(ground, case), random.Random(f"{seed} {case}")
    options = ("--block-size", "64K", "--read-timeout", "5", *(["--offline"] if case.offline else []))
    options += ("--max-cache", "320K") if case.bounded else ()
    try:
        if not case.in_use:
            spoil(place / "store" / case.target, dice)
        try:
            mount = mounts(*ground.sources, options=options)
        except AssertionError as exc:
            outcome.refused = str(exc)
            if not outcome.refused.startswith("lazyfs: ") or outcome.refused.strip().count("\n"):
                outcome.wrong.append(f"it was not mounted: {outcome.refused}")
            return outcome
        log = Path("/proc") / str(mount.pid) / "fd"
        if case.in_use:
            _compare(ground, mount, damaging.HALF, outcome)
            spoil(place / "store" / case.target, dice)
        _compare(ground, mount, 1 << 30, outcome)
        for file in log.iterdir():
            if os.readlink(file).partition(" (")[0].endswith(".log") and "Traceback" in file.read_text():
                outcome.wrong.append("a traceback in the log")
    finally:
        try:
            mounts.end()
        finally:
            Leftovers.below(place).remove()
            reap()
            shutil.rmtree(place)
    return outcome


def _compare(ground: Ground, mount: Mount, length: int, outcome: Outcome) -> None:
    """Read the first bytes of every file under a mount."""
    for name in damaging.NAMES:
        try:
            found = on_mount(under.read, mount.path(name), 0, length)
        except OSError as exc:
            outcome.errors.append(f"{name}: {exc.strerror}")
            continue
        outcome.right += found == ground.right(name)[:length]
        if found != ground.right(name)[:length]:
            outcome.wrong.append(f"{name}: wrong bytes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/damage", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of bits, places and bytes (0)")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from that one on (1)")
    parser.add_argument("--cases", type=int, help="for each seed, in sessions (all)")
    parser.add_argument("--mounts", type=int, default=40, help="for each seed, in real mounts (40)")
    parser.add_argument("--only", default="", help="cases whose line has this text in it")
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    parser.add_argument("--directory", help="where the stores are made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
