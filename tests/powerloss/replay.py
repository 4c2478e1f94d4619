"""Replays of a recorded run: the power goes at random moments, and what may be left is looked at."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.powerloss.checks import faults
from tests.powerloss.disk import Disk
from tests.powerloss.planting import IN_READER, planted
from tests.powerloss.recording import Kind, Op


@dataclass
class Outcome:
    """What a number of replays came to."""

    replays: int = 0
    lost: int = 0  # operations, and sectors of torn ones
    at_risk: int = 0  # replays in which there was something to lose
    found: Counter[str] = field(default_factory=Counter)  # what was wrong, and how often

    def shows(self, words: str) -> bool:
        """Say whether something was wrong that is said in these words."""
        return any(words in what for what in self.found)

    def __str__(self) -> str:
        return f"{self.replays} replays, {self.at_risk} with something to lose, {self.lost} operations or sectors lost"


def replay(ops: Sequence[Op], count: int, seed: int, directory: Path, fault: str = "") -> Outcome:
    """Let the power go so many times, on file systems of both kinds, and look at what is left.

    `fault` may be one that is planted in who looks.
    """
    outcome = Outcome()
    for strict in (True, False):
        dice = random.Random(f"{seed} {strict}")
        moments = Counter(dice.randint(0, len(ops)) for _ in range(count // 2))
        disk = Disk(strict=strict)
        for number in range(len(ops) + 1):
            for _ in range(moments[number]):
                outcome.replays += 1
                outcome.at_risk += disk.at_risk > 0
                with planted(IN_READER, fault):
                    outcome.found.update(set(_faults(disk, dice, directory)))
            if number < len(ops):
                disk.do(ops[number])
        outcome.lost += disk.lost
    return outcome


def _faults(disk: Disk, dice: random.Random, directory: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=directory) as name:
        store = Path(name) / "store"
        disk.image(dice, store)
        for fault in faults(store, disk.marks, dice):
            yield fault.replace(name, "...")


def described(ops: Sequence[Op]) -> str:
    """Say what a run did."""
    kinds = Counter(op.kind for op in ops)
    return ", ".join(f"{kinds[kind]} {kind.name.lower()}" for kind in Kind if kind is not Kind.MARK)
