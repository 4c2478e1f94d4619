"""`tools/soak`: several mounts on one store, of any size and as often as one likes, with what it measured."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from lazyfs.sizes import format_size, parse_size
from tests.mounts import Leftovers, Mounts, reap
from tests.processes import sharing
from tests.servers import Nginx


def main() -> None:
    """Run, print a line for each run, and end with 1 when one of them was not right."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lazyfs-soak-", dir=options.directory) as name:
        directory = Path(name)
        (directory / "docroot").mkdir()
        digest = sharing.make_blob(directory / "docroot", options.size)
        failed = 0
        for run in range(options.runs):
            failed += not _run(options, directory, digest, run, kill=False)
        for run in range(options.kills):
            failed += not _run(options, directory, digest, run, kill=True)
    sys.exit(1 if failed else 0)


def _run(options: argparse.Namespace, directory: Path, digest: str, run: int, *, kill: bool) -> bool:
    """Do one run on an empty store and say whether it was right."""
    place = directory / f"{'kill' if kill else 'run'}{run}"
    place.mkdir()
    mounts, size = Mounts(place), options.size
    rate = f"limit_rate {options.rate};" if options.rate else ""
    try:
        with Nginx(place / "nginx", directory / "docroot", server=rate) as nginx:
            if kill:
                outcome = sharing.lose_one(
                    mounts, nginx, digest, size=size, seed=options.seed + run, count=options.mounts,
                    readers=options.readers, patience=options.patience,
                )  # fmt: skip
                right = outcome.longest_gap <= options.pause
            else:
                outcome = sharing.share(
                    mounts, nginx, digest, count=options.mounts, readers=options.readers, patience=options.patience
                )
                right = not outcome.fetched_twice() and size <= outcome.body_bytes <= size + options.mounts
            right = right and not outcome.wrong()
    finally:
        mounts.end()
        Leftovers.below(place).remove()
        reap()
    print(
        f"{'ok' if right else 'WRONG'}: {'one killed, ' if kill else ''}{options.readers} readers of "
        f"{format_size(size)} in {outcome.seconds:.2f} s, longest pause {outcome.longest_gap:.3f} s; "
        f"the origin sent {outcome.body_bytes} bytes ({outcome.body_bytes - size:+})"
        f" in {len(outcome.requests)} answers, {outcome.cut_short} of them cut short",
        flush=True,
    )
    return right


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/soak", description=__doc__)
    parser.add_argument("--size", type=parse_size, default="256M", help="of the blob (256M)")
    parser.add_argument("--mounts", type=int, default=4, help="on one empty store (4)")
    parser.add_argument("--readers", type=int, default=8, help="in processes of their own, dealt out to the mounts (8)")
    parser.add_argument("--runs", type=int, default=1, help="how often everybody lives (1)")
    parser.add_argument("--kills", type=int, default=5, help="how often one daemon is killed at a random moment (5)")
    parser.add_argument("--seed", type=int, default=0, help="of the first of these moments (0)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds that a reader may wait then, at the most (1)")
    parser.add_argument("--rate", default="", help="nginx's limit_rate for each connection, as in 40m (none)")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for one run (600)")
    parser.add_argument("--directory", help="where the stores are made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
