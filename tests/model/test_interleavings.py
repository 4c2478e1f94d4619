"""The protocol of the store's locks, in every order that matters, up to a bound (tools/interleavings goes further)."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.model.interleavings import Access, Accesses, Explorer, Mode, Wrong
from tests.model.planted import FAULTS
from tests.model.protocol import Scenario
from tests.model.scenarios import SCENARIOS, explorer

STEPS = ["load x", "load y", "store x", "store y"]
MOST = 60
"""Schedules of a scenario here, with each bound."""


@pytest.fixture
def place() -> Iterator[Path]:
    """Where stores are made and thrown away: in memory, where there is such a place."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name) / "store"


@pytest.mark.parametrize(("kills", "preemptions"), [(0, 1), (1, 0)], ids=["preempted", "killed"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_protocol_holds(kills: int, preemptions: int, scenario: Scenario, place: Path) -> None:
    with explorer(scenario, place, kills=kills, preemptions=preemptions, most=MOST) as exploring:
        exploring.explore()
    assert exploring.schedules > 3, "its processes have nothing to do with each other"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_explorer_finds_a_planted_fault(fault: str, place: Path) -> None:
    name, kills, plant = FAULTS[fault]
    (scenario,) = (one for one in SCENARIOS if one.name == name)
    exploring = explorer(scenario, place, kills=kills, preemptions=1, most=300)
    with exploring as explores, plant(), pytest.raises(Wrong):
        explores.explore()


class Registers:
    """Processes that load, store and add up registers: each has a word of its own."""

    def __init__(self, programs: Sequence[Sequence[str]], found: set[tuple[int, ...]]) -> None:
        self.explorer: Explorer
        self.values = {"x": 0, "y": 0}
        self.words = [0] * len(programs)
        self.bodies: Sequence[Callable[[], None]] = [partial(self._run, *item) for item in enumerate(programs)]
        self._found = found

    def _run(self, number: int, program: Sequence[str]) -> None:
        for step in program:
            self.explorer.before()
            self.explorer.after(step, self.do(number, step))

    def do(self, number: int, step: str) -> Accesses:
        """Do a step, as `load x`, `store y`."""
        what, name = step.split()
        if what == "load":
            self.words[number] = self.words[number] * 3 + self.values[name]
            return (Access(name, 0, 1, Mode.LOOK),)
        self.values[name] = self.words[number] + number + 1
        return (Access(name, 0, 1, Mode.CHANGE),)

    @property
    def state(self) -> tuple[int, ...]:
        """All there is to know."""
        return (*self.values.values(), *self.words)

    def release(self, process: int) -> Accesses:
        """As `Play.release`."""
        return ()

    def ended(self, process: int) -> None:
        """As `Play.ended`."""

    def check(self, touched: Accesses) -> None:
        """As `Play.check`."""

    def finish(self) -> None:
        """As `Play.finish`."""
        self._found.add(self.state)


def outcomes(programs: Sequence[Sequence[str]], *, kills: int = 0) -> tuple[set[tuple[int, ...]], int]:
    """Return what an explorer finds that programs may come to, and in how many schedules."""
    found: set[tuple[int, ...]] = set()

    def begin() -> Registers:
        play = Registers(programs, found)
        play.explorer = exploring
        return play

    exploring = Explorer(begin, kills=kills)
    exploring.explore()
    assert exploring.exhausted
    return found, exploring.schedules - exploring.pruned


def every_outcome(programs: Sequence[Sequence[str]]) -> tuple[set[tuple[int, ...]], int]:
    """Return what programs may come to, from really all orders, and how many these are."""
    orders = set(itertools.permutations(number for number, program in enumerate(programs) for _ in program))
    found: set[tuple[int, ...]] = set()
    for order in orders:
        play, steps = Registers(programs, found), [iter(program) for program in programs]
        for number in order:
            play.do(number, next(steps[number]))
        found.add(play.state)
    return found, len(orders)


def some_programs(seed: int) -> list[list[str]]:
    """Return three short programs."""
    return [random.Random(seed * 3 + number).choices(STEPS, k=2) for number in range(3)]


@pytest.mark.parametrize("seed", range(30))
def test_every_outcome_is_found_in_fewer_schedules(seed: int) -> None:
    programs = some_programs(seed)
    found, schedules = outcomes(programs)
    expected, orders = every_outcome(programs)
    assert found == expected
    assert schedules < orders


@pytest.mark.parametrize("seed", range(10))
def test_every_outcome_of_a_kill_is_found(seed: int) -> None:
    """A process that was killed has done a part of its program; what it knew by then nobody can ask it."""
    programs = some_programs(seed)
    expected: set[tuple[int, ...]] = set()
    for victim, program in enumerate(programs):
        for done in range(len(program) + 1):
            cut = [program[:done] if number == victim else other for number, other in enumerate(programs)]
            expected |= {state[:2] for state in every_outcome(cut)[0]}
    assert {state[:2] for state in outcomes(programs, kills=1)[0]} == expected


def test_who_waits_for_each_other_is_a_deadlock() -> None:
    class Waiting(Registers):
        def _run(self, number: int, program: Sequence[str]) -> None:
            while not self.values["xy"[number]]:
                super()._run(number, [f"load {'xy'[number]}"])
                self.explorer.wait()
            super()._run(number, program)

    def begin() -> Waiting:
        play = Waiting([["store y"], ["store x"]], set())
        play.explorer = exploring
        return play

    exploring = Explorer(begin)
    with pytest.raises(Wrong, match="deadlock"):
        exploring.explore()
