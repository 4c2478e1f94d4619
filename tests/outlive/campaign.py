"""A mount under load whose daemons are killed, stopped or upgraded: what that does to who reads from it."""

from __future__ import annotations

import contextlib
import itertools
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

QUIET: Final = 0.1
"""Seconds that an idle process may be late on a machine on which pauses say something."""


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

    def take(self, seen: dict[str, Seen], *, tolerated: frozenset[int] = frozenset()) -> None:
        """Take in what loads saw. `tolerated` are errnos that they were to see."""
        for name, load in seen.items():
            self.seen[name] = load
            if load.numbers - tolerated:
                self.wrong.append(f"{name}: {load.errors} errors: {'; '.join(load.failed[:5])}")
            self.wrong += [f"{name}: {what}" for what in load.wrong]

    def pauses(self, longest: float) -> list[str]:
        """Say which loads were held up for longer than that."""
        found = [(name, load.longest) for name, load in self.seen.items() if name != "idle"]
        return [f"{name}: {took:.2f} s to {what}" for name, (_, took, what) in found if took > longest]

    @property
    def quiet(self) -> bool:
        """Whether pauses say something of the mount, not of the machine."""
        return self.seen["idle"].longest[1] < QUIET

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


def options() -> list[str]:
    """Return the options of a mount that outlives its daemons."""
    return ["--takeover"] if "--takeover" in lazyfs("mount", "--help").stdout else []


def can_upgrade() -> bool:
    """Say whether there is such a command."""
    return " upgrade " in lazyfs("--help").stdout


def outlive(scene: Scene, ways: list[Way], *, every: float, seconds: float, times: int | None = None) -> Outcome:
    """Have daemons end in these ways, in turn, for so long, or so often."""
    outcome, dice = Outcome(), random.Random(0)
    with made(scene) as stage:
        supervisor = keeping.supervisor(stage.mount)
        stage.begin(images=True)
        outcome.began = time.monotonic()
        last = keeping.daemon(stage.mount)
        for number in itertools.count():
            due = outcome.began + (number + 1) * every
            if number == times or (times is None and due > outcome.began + seconds):
                break
            time.sleep(max(0.0, due - time.monotonic()) + dice.uniform(0, 0.1))
            try:
                last = _end_one(stage, ways[number % len(ways)], last, outcome)
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
def made(scene: Scene, store: Path | None = None) -> Iterator[Stage]:
    """Mount, with what is to be in the store; in the end nothing is left, however that comes."""
    at, mounts = scene.directory / "mount", Mounts(scene.directory)
    at.mkdir(exist_ok=True)
    mounts.store = store or mounts.store
    try:
        stage = Stage(scene, mounts, options(), at)
        stage.warm()
        yield stage
    finally:
        clear(scene.directory)


def clear(directory: Path) -> None:
    """End and unmount whatever there is below a directory, the supervisors first."""
    keeping.kill(keeping.supervisors(directory))
    Leftovers.below(directory).remove()
    reap()


def end(scene: Scene, stage: Stage, outcome: Outcome) -> None:
    """Unmount, and see that nothing is left."""
    pids = [keeping.daemon(stage.mount), keeping.supervisor(stage.mount)]
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
    if pids := keeping.supervisors(directory):
        wrong.append(f"left: the supervisors {pids}")
    if sockets := running.sockets(store):
        wrong.append(f"left: {', '.join(map(str, sockets))}")
    if trash := os.listdir(store / "trash"):
        wrong.append(f"in the trash: {trash}")
    checked = lazyfs("fsck", "--store", store, timeout=PATIENCE * 3)
    if checked.returncode:
        wrong.append(f"fsck ends with {checked.returncode}: {checked.stdout}{checked.stderr}")
    return wrong
