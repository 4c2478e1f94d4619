"""A mount under load whose daemons are killed, stopped or upgraded: what that does to who reads from it."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lazyfs.errors import LazyfsError
from lazyfs.store import running
from tests.mounts import Leftovers, Mounts, lazyfs, reap, wait_for_end
from tests.outlive import keeping
from tests.outlive.keeping import Vitals
from tests.outlive.loads import Seen
from tests.outlive.scene import Scene, Stage
from tests.processes.holding import files_of

PATIENCE: Final = 40.0
"""Seconds for the next daemon to answer: one that hangs is given 9 of them, and asked every 4."""

SETTLES: Final = 10.0
"""Seconds within which what nobody uses any more is let go of."""

Way = Callable[[Stage], None]
"""Has the daemon end."""


@dataclass
class Outcome:
    """What a run did, and what was wrong. *Units*: seconds; `taken` is from a death to the next daemon's answer."""

    taken: list[float] = field(default_factory=list)
    seen: dict[str, Seen] = field(default_factory=dict)
    past: int = 0  # opens that went past the daemons that were asked just before their end
    before: Vitals | None = None
    after: Vitals | None = None
    rest: Vitals | None = None  # when nothing was in use any more
    began: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def take(self, seen: dict[str, Seen], dead: float = math.inf, then: frozenset[int] = frozenset()) -> None:
        """Take in what loads saw: no errors at all, or, once the mount was `dead` (monotonic), only these errnos."""
        for name, load in seen.items():
            self.seen[name] = load
            if load.errors and (load.first_error < dead or load.numbers - then):
                self.wrong.append(f"{name}: {load.errors} errors: {'; '.join(load.failed[:5])}")
            self.wrong += [f"{name}: {what}" for what in load.wrong]

    def pauses(self, most: float) -> tuple[list[str], list[str]]:
        """Return what took longer than it may, and what did so while the machine itself was late by as much."""
        judged, late = list[str](), list[str]()
        for name, load in self.seen.items():
            for began, took, what in load.pauses if name != "idle" else ():
                if took > most:
                    shown = f"{name}: {took:.2f} s, {began - self.began:.1f} s after the begin, to {what}"
                    (judged if took - self._late(began, began + took) > most else late).append(shown)
        return judged, late

    def _late(self, start: float, stop: float) -> float:
        """Return how much of some time a process was not let run that had nothing to do."""
        idle = self.seen.get("idle", Seen()).pauses
        return sum(max(0.0, min(stop, began + took) - max(start, began)) for began, took, _ in idle)

    def lines(self) -> list[str]:
        """Say what was measured."""
        found = []
        for name, load in self.seen.items():
            at, took, what = load.longest
            where = f", {at - self.began:.1f} s after the begin: {what}" if took else ""
            found.append(
                f"  {name}: {load.calls} calls, {load.size >> 20} MiB compared, {load.errors} errors; "
                f"longest {took:.3f} s{where}"
            )
        if self.taken:
            found.append(
                f"  {len(self.taken)} takeovers: median {statistics.median(self.taken):.2f} s, "
                f"longest {max(self.taken):.2f} s; {self.past} opens past the daemons"
            )
        for name in ("before", "after", "rest"):
            if (vitals := getattr(self, name)) is not None:
                found.append(f"  the supervisor, {name}: {vitals}")
        return found


def kill(stage: Stage) -> None:
    """Kill the daemon."""
    os.kill(keeping.daemon(stage.mount), signal.SIGKILL)


def stop(stage: Stage) -> None:
    """Stop the daemon, for ever: it hangs."""
    os.kill(keeping.daemon(stage.mount), signal.SIGSTOP)


def upgrade(stage: Stage) -> None:
    """Have the next daemon take over in good order."""
    done = lazyfs("upgrade", stage.mount.at)
    assert done.returncode == 0, done.stderr


WAYS: Final[dict[str, list[Way]]] = {
    "kill": [kill],
    "stop": [stop],
    "upgrade": [upgrade],
    "mixed": [kill, kill, stop, kill, upgrade],
}
"""How daemons end, in turn."""


@dataclass(frozen=True)
class Plan:
    """What is done to daemons, in turn: one end `every` so many seconds at the most, for `seconds`, or `times`."""

    ways: list[Way]
    every: float
    seconds: float = 0.0
    times: int | None = None
    passthrough: bool = True

    def is_over(self, number: int, elapsed: float) -> bool:
        """Say whether there were enough of them."""
        return elapsed > self.seconds if self.times is None else number == self.times


def outlive(scene: Scene, plan: Plan) -> Outcome:
    """Have daemons end under load."""
    outcome, dice = Outcome(), random.Random(0)
    with made(scene, passthrough=plan.passthrough) as stage:
        supervisor = stage.mount.supervisor
        stage.begin(images=True)
        outcome.began = time.monotonic()
        last = keeping.daemon(stage.mount)
        for number in itertools.count():
            due = max(outcome.began + (number + 1) * plan.every, time.monotonic())
            if plan.is_over(number, due - outcome.began):
                break
            time.sleep(max(0.0, due - time.monotonic() + dice.uniform(0, plan.every / 10)))
            try:
                last = _end_one(stage, plan.ways[number % len(plan.ways)], last, outcome)
            except (TimeoutError, LazyfsError, AssertionError, ProcessLookupError) as exc:
                outcome.wrong.append(f"after {len(outcome.taken)} takeovers: {exc}")
                break
            if outcome.before is None:  # the first one has it load what it needs
                outcome.before = Vitals.of(supervisor)
        outcome.after = Vitals.of(supervisor) if Path(f"/proc/{supervisor}").exists() else None
        seen, wrong = stage.end()
        outcome.take(seen)
        outcome.wrong += wrong + stage.unmount_images(lazy=False)
        if outcome.before is not None and outcome.after is not None:
            outcome.wrong += outcome.after.grown(outcome.before)
            _settle(stage, supervisor, outcome)
        end(scene, stage, outcome)
    return outcome


def _end_one(stage: Stage, way: Way, last: int, outcome: Outcome) -> int:
    """Have the daemon end, and return the next one."""
    status = keeping.status(stage.mount)
    if status["pid"] != last:
        outcome.wrong.append(f"the daemon {last} has ended by itself")
        last = status["pid"]
    outcome.past += status["counters"]["passthrough_opens"]
    began = time.monotonic()
    way(stage)
    found = keeping.next_daemon(stage.mount, last, PATIENCE)
    outcome.taken.append(time.monotonic() - began)
    return found


def _settle(stage: Stage, supervisor: int, outcome: Outcome) -> None:
    """See that nothing is in use any more that nobody uses."""
    deadline = time.monotonic() + SETTLES
    while True:
        outcome.rest = Vitals.of(supervisor)
        files = files_of(keeping.daemon(stage.mount), stage.mount.store / "blobs")
        left = {
            "opens in the journal": outcome.rest.opened,
            "backings in the journal": outcome.rest.backings,
            "requests under way in the kernel": keeping.waiting(stage.mount),
            "files of the store open": len(files),
        }
        if not any(left.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    outcome.wrong += [f"nobody uses the mount, and there are {count} {what}" for what, count in left.items() if count]


@contextlib.contextmanager
def made(scene: Scene, store: Path | None = None, *, passthrough: bool = True) -> Iterator[Stage]:
    """Mount, with what is to be in the store; in the end nothing is left, however that comes."""
    at, mounts = scene.directory / "mount", Mounts(scene.directory)
    at.mkdir(exist_ok=True)
    mounts.store = store or mounts.store
    try:
        stage = Stage(scene, mounts, [] if passthrough else ["--no-passthrough"], at)
        stage.warm()
        yield stage
    finally:
        clear(scene.directory)


def clear(directory: Path) -> None:
    """End and unmount whatever there is below a directory."""
    Leftovers.below(directory).remove()
    reap()


def end(scene: Scene, stage: Stage, outcome: Outcome) -> None:
    """Unmount, and see that nothing is left."""
    pids = [keeping.daemon(stage.mount), stage.mount.supervisor]
    done = lazyfs("umount", stage.mount.at)
    if done.returncode:
        outcome.wrong.append(f"it could not be unmounted: {done.stderr.strip()}")
        return
    wait_for_end(pids)
    outcome.wrong += left(scene.directory, stage.mount.store)


def left(directory: Path, store: Path) -> list[str]:
    """Say what is left of mounts that have ended, below a directory and in their store."""
    wrong = []
    if found := Leftovers.settled(directory):
        wrong.append(f"left: {found}")
    if sockets := running.sockets(store):
        wrong.append(f"left: {', '.join(map(str, sockets))}")
    if trash := os.listdir(store / "trash"):
        wrong.append(f"in the trash: {trash}")
    checked = lazyfs("fsck", "--store", store, timeout=PATIENCE * 3)
    if checked.returncode:
        wrong.append(f"fsck ends with {checked.returncode}: {checked.stdout}{checked.stderr}")
    return wrong
