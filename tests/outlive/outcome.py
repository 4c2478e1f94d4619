"""What a run of tools/outlive has found, and how it is shown."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from tests.outlive.keeping import Vitals
from tests.outlive.loads import Seen


@dataclass(frozen=True)
class Takeover:
    """From a death, at `began` (monotonic), to the next daemon's answer.

    So long that and its supervisor `waited` for a processor.
    """

    began: float
    seconds: float
    waited: float


@dataclass
class Outcome:
    """What a run did, and what was wrong. *Units*: seconds."""

    takeovers: list[Takeover] = field(default_factory=list)
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
        """Return who waited longer than one may, and who did so since the machine was late itself, and was not."""
        judged, late = list[str](), list[str]()
        for name, load in self.seen.items():
            long = [pause for pause in load.pauses if pause[1] > most and name != "idle"]
            ours = [pause for pause in long if pause[1] - self._late(pause[0], pause[0] + pause[1]) > most]
            for found, shown in ((ours, judged), ([pause for pause in long if pause not in ours], late)):
                if found:
                    began, took, what = max(found, key=lambda pause: pause[1])
                    times = f"{len(found)} pauses over {most:g} s, the longest of {took:.2f} s"
                    shown.append(f"{name}: {times}, {began - self.began:.1f} s after the begin, to {what}")
        return judged, late

    def _late(self, start: float, stop: float) -> float:
        """Return how much of some time a process was not let run that had nothing to do, or the daemon that started."""
        idle = self.seen.get("idle", Seen()).pauses
        late = sum(max(0.0, min(stop, began + took) - max(start, began)) for began, took, _ in idle)
        over = [takeover for takeover in self.takeovers if start < takeover.began + takeover.seconds]
        return late + sum(takeover.waited for takeover in over if takeover.began < stop)

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
        if self.takeovers:
            taken, waited = ([getattr(one, name) for one in self.takeovers] for name in ("seconds", "waited"))
            found += [
                f"  {len(taken)} takeovers: median {statistics.median(taken):.2f} s, longest {max(taken):.2f} s",
                f"  of that no processor was free for it: {statistics.median(waited):.2f} s, {max(waited):.2f} s",
                f"  {self.past} opens went past the daemons",
            ]
        for name in ("before", "after", "rest"):
            if (vitals := getattr(self, name)) is not None:
                found.append(f"  the supervisor, {name}: {vitals}")
        return found
