"""A mount under load whose daemons are killed, stopped or upgraded: what that does to who reads from it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lazyfs.errors import LazyfsError
from lazyfs.store import running
from tests.mounts import Leftovers, Mounts, lazyfs, reap, wait_for_end
from tests.outlive import keeping
from tests.outlive.keeping import Vitals
from tests.outlive.outcome import Outcome, Takeover
from tests.outlive.scene import Scene, Stage
from tests.processes.holding import files_of

PATIENCE: Final = 40.0
"""Seconds for the next daemon to answer: one that hangs is given 9 of them, and asked every 4."""

SETTLES: Final = 10.0
"""Seconds within which what nobody uses any more is let go of."""

SERVES: Final = 1.0
"""Seconds for which a daemon is let serve at the least: those that die at once are to end the mount."""

Way = Callable[[Stage], None]
"""Has the daemon end."""


def kill(stage: Stage) -> None:
    """Kill the daemon."""
    os.kill(keeping.daemon(stage.mount), signal.SIGKILL)


def kill_twice(stage: Stage) -> None:
    """Kill the daemon, and the next one while it starts."""
    supervisor, last = stage.mount.supervisor, keeping.daemon(stage.mount)
    os.kill(last, signal.SIGKILL)
    os.kill(keeping.next_child(supervisor, last, PATIENCE), signal.SIGKILL)


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
    "mixed": [kill, kill_twice, stop, kill, upgrade],
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
        stage.begin()
        outcome.began, starved = time.monotonic(), keeping.starved()
        last = keeping.daemon(stage.mount)
        for number in itertools.count():
            due = max(outcome.began + (number + 1) * plan.every, time.monotonic() + SERVES)
            if plan.is_over(number, due - outcome.began):
                break
            time.sleep(max(0.0, due - time.monotonic() + dice.uniform(0, plan.every / 10)))
            try:
                last = _end_one(stage, plan.ways[number % len(plan.ways)], supervisor, last, outcome)
            except (TimeoutError, LazyfsError, AssertionError, ProcessLookupError) as exc:
                outcome.wrong.append(f"after {len(outcome.takeovers)} takeovers: {exc}")
                break
            if outcome.before is None:  # the first one has it load what it needs
                outcome.before = Vitals.of(supervisor)
        outcome.after = Vitals.of(supervisor) if Path(f"/proc/{supervisor}").exists() else None
        outcome.starved = (keeping.starved() - starved) / (time.monotonic() - outcome.began)
        seen, wrong = stage.end()
        outcome.take(seen)
        outcome.wrong += wrong + stage.unmount_images(lazy=False)
        if outcome.before is not None and outcome.after is not None:
            outcome.wrong += outcome.after.grown(outcome.before)
            _settle(stage, supervisor, outcome)
        end(scene, stage, outcome)
    return outcome


def _end_one(stage: Stage, way: Way, supervisor: int, last: int, outcome: Outcome) -> int:
    """Have the daemon end, and return the next one."""
    status = keeping.status(stage.mount)
    if status["pid"] != last:
        outcome.wrong.append(f"the daemon {last} has ended by itself")
        last = status["pid"]
    outcome.past += status["counters"]["passthrough_opens"]
    began, waited = time.monotonic(), keeping.waited(supervisor)
    way(stage)
    found = keeping.next_daemon(stage.mount, last, PATIENCE)
    waited = keeping.waited(found) + keeping.waited(supervisor) - waited
    outcome.takeovers.append(Takeover(began, time.monotonic() - began, waited))
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
