"""What a run of tools/outlive has found, and how it is shown."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from tests.outlive.keeping import Vitals
from tests.outlive.loads import Seen


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
    starved: float = 0.0  # the part of the time in which some process waited for a processor
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
        found = [f"  for {self.starved:.0%} of the time some process waited for a processor"] if self.starved else []
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
