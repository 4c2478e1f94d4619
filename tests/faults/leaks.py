"""`tools/leaks`: thousands of requests to an origin that fails most of them; then nothing of them may be left.

Ten times all readers leave, and all has to be back where it was after the first tenth, the warm-up: what can be counted
to the last one, memory with some slack.
"""

from __future__ import annotations

import argparse
import collections
import gc
import logging
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import trio

from lazyfs.blob import Limits
from lazyfs.origin.client import ClientOptions
from lazyfs.process import open_as_many_files_as_allowed
from lazyfs.session import Settings, open_session
from lazyfs.tuning import keep_freed_memory
from tests.faults import campaign
from tests.faults.campaign import HELD, Campaign, Unforeseen
from tests.servers import MisbehavingOrigin

STAGES = 10
STAGE_LEAST = 500
"""Requests in a stage, at the least."""

SLACK = {"resident": (4 << 20, 64.0), "objects": (10_000, 0.02)}
"""What memory may come on top of what there was, a fixed part and one for each request: bytes of resident memory, and
Python's small objects. These say more: whatever a request leaves is one at the least."""

TYPES_SHOWN = 15

READ_TIMEOUT, PATIENCE, FRESH_FOR = 3.0, 12.0, 2.0
"""Seconds; so that names break and are well again, and are revalidated now and then."""

MEMORY = 8 << 20
"""Bytes of checked blocks in memory: few, so that most reads go on to the store and to the origin."""

Counts = dict[str, int]


def main() -> None:
    """Run, print what was counted on the way, and end with 1 when something is left."""
    options = _parser().parse_args()
    began, unforeseen = time.monotonic(), Unforeseen()
    logging.getLogger().addHandler(unforeseen)
    open_as_many_files_as_allowed()
    keep_freed_memory()
    campaign.hasten()
    if options.trace:
        tracemalloc.start(options.trace)
    with MisbehavingOrigin() as origin, tempfile.TemporaryDirectory(prefix="lazyfs-leaks-") as store:
        descriptors = len(os.listdir("/proc/self/fd"))
        left = trio.run(_campaign, options, origin, Path(store) / "store")
        if (now := len(os.listdir("/proc/self/fd"))) > descriptors:
            left.append(f"descriptors after the end: {now}, not {descriptors}")
        origin.wait(most_open=0, most_connected=0)
    left += unforeseen.found
    print(
        *(f"LEFT: {line}" for line in left), f"{'FAILED' if left else 'ok'}, {time.monotonic() - began:.0f} s", sep="\n"
    )
    sys.exit(1 if left else 0)


async def _campaign(options: argparse.Namespace, origin: MisbehavingOrigin, store: Path) -> list[str]:
    """Run all stages and return what is left or wrong."""
    client, limits = ClientOptions(patience=PATIENCE), Limits(READ_TIMEOUT, MEMORY)
    settings = Settings(store, client, limits, campaign.BLOCK_SIZE, fresh_for=FRESH_FOR)
    left: list[str] = []
    async with open_session(settings) as session:
        run = Campaign(session, origin, options.seed)
        await run.hold()
        base = await _stage(run, options, 1, {})
        types, trace = _types(), tracemalloc.take_snapshot() if options.trace else None
        for stage in range(2, _stages(options.requests) + 1):
            counts = await _stage(run, options, stage, base)
            left = _left(counts, base)
        if trace is not None:
            for grown in tracemalloc.take_snapshot().compare_to(trace, "traceback")[:TYPES_SHOWN]:
                print(f"{grown.size_diff:+} bytes, {grown.count_diff:+} pieces", *grown.traceback.format(), sep="\n")
        if left:
            print("there is more of", dict((_types() - types).most_common(TYPES_SHOWN)))
        kept = campaign.bounded(session).items()
        left += [f"{name}: {count}, more than {most}" for name, (count, most) in kept if count > most]
        run.let_go()
        await campaign.quiet(session, origin, lambda counts: not counts["blobs open"])
        left += [f"blob {name} is locked" for name in campaign.locked_blobs(session)]
        _report(run)
    return left + [f"wrong bytes: {line}" for line in run.wrong]


async def _stage(run: Campaign, options: argparse.Namespace, stage: int, base: Counts) -> Counts:
    """Run a part of the requests, wait until all is over, and return what there is then."""
    await run.run(options.requests * stage // _stages(options.requests), options.readers)
    began = time.monotonic()
    session = run.session
    counts = await campaign.quiet(session, run.origin, lambda counts: not _left(counts, base))
    settled = time.monotonic() - began
    counts |= campaign.memory() | {"requests": session.counters.origin_requests}
    kept = {name: count for name, (count, _) in campaign.bounded(session).items()}
    print(f"{_shown(counts | kept)}; over in {settled:.1f} s", flush=True)
    return counts


def _stages(requests: int) -> int:
    return max(2, min(STAGES, requests // STAGE_LEAST))


def _left(counts: Counts, base: Counts) -> list[str]:
    """Say what there is more of than there was, or than there should be."""
    since = counts.get("requests", 0) - base.get("requests", 0)
    most: dict[str, float] = {"blobs open": HELD, "handles": HELD, "look-ups": HELD, "requests": sys.maxsize}
    for name, slack in {**SLACK, "tasks": (0, 0), "descriptors": (0, 0)}.items():
        most[name] = base.get(name, sys.maxsize) + slack[0] + slack[1] * since
    return [
        f"{name}: {count}, not {most.get(name, 0):.0f}" for name, count in counts.items() if count > most.get(name, 0)
    ]


def _shown(counts: Counts) -> str:
    """Show all counts that are not 0."""
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _types() -> collections.Counter[str]:
    return collections.Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


def _report(run: Campaign) -> None:
    """Print what happened."""
    met, asked = collections.Counter[str](), run.session.counters.origin_requests
    for name in run.names:
        for fault, count in name.met(run.origin):
            met[fault] += count
    print("faults:", ", ".join(f"{fault} {count / asked:.1%}" for fault, count in met.items()))
    print(
        f"{run.reads} reads with the right bytes, {len(run.wrong)} with wrong ones; {run.cancelled} readers cancelled; "
        f"{run.swaps} new versions; {run.forgotten} times forgotten; {dict(run.errors)}"
    )
    print(_shown(run.session.counters.as_dict()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/leaks", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="to the origin, in all (50000)")
    parser.add_argument("--readers", type=int, default=256, help="at a time (256)")
    parser.add_argument("--seed", type=int, default=0, help="of all dice (0)")
    parser.add_argument("--trace", type=int, default=0, metavar="FRAMES", help="say where memory grew: slow (0: no)")
    return parser


if __name__ == "__main__":
    main()
