"""A run of the bench: every scenario with every subject, round by round."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

from tools.benching import results
from tools.benching.origin import Ground
from tools.benching.processes import Group, Hung, Trouble
from tools.benching.scenarios import SCENARIOS, Scenario, Turn, take_turn
from tools.benching.subjects import Own, Subject


class Bench:
    """A run: who and what is measured, and what was."""

    def __init__(self, ground: Ground, subjects: Sequence[Subject], lines: frozenset[str]) -> None:
        self._ground, self._subjects, self._lines = ground, subjects, lines
        self._checked: set[str] = set()
        self._hung: set[tuple[Scenario, Subject]] = set()
        self.measured: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.failed: list[str] = []

    def round(self, number: int) -> None:
        """Do every scenario with every subject, another one first in each round."""
        for scenario in SCENARIOS:
            takers = [each for each in self._subjects if scenario.takes(each) and (scenario, each) not in self._hung]
            if scenario.lines & self._lines and takers:
                first = number % len(takers)
                for subject in takers[first:] + takers[:first]:
                    self._turn(number, subject, scenario)

    def _turn(self, number: int, subject: Subject, scenario: Scenario) -> None:
        """Let a subject have its turn; when it fails, what it did before counts, and when it hangs, it has no other."""
        own = Own(self._ground.work / "own", Group(self._ground.work / "said"))
        turn = Turn(subject, self._ground, own, self._lines, number + 1, self._checked)
        try:
            take_turn(scenario, turn)
        except Trouble as trouble:
            self.failed.append(f"{subject.name}: {trouble}")
            say(f"round {number + 1}, {self.failed[-1]}")
            if isinstance(trouble, Hung):
                self._hung.add((scenario, subject))
        for key, value in turn.figures.items():
            self.measured[key][subject.name].append(value)
        shown = (f"{key} {results.number(value)} {results.FIGURES[key].unit}" for key, value in turn.figures.items())
        say(f"round {number + 1}, {subject.name}: {', '.join(shown) or 'nothing'}")


def say(line: str) -> None:
    """Tell whoever waits how far it is."""
    print(line, file=sys.stderr, flush=True)
