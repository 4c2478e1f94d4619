"""What is done with a subject to get its figures: each scenario starts from nothing and leaves nothing."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lazyfs.records import DEFAULT_BLOCK_SIZE
from tools.benching.origin import Ground, Place, name_size
from tools.benching.processes import MOMENT, Trouble, reap, run, timed
from tools.benching.reading import MIB, WAYS, check, fio, one_way, read_all
from tools.benching.subjects import Curl, Lazyfs, Local, Mounting, Own, Subject

GIB = 1 << 30

RESERVE = 64 * MIB
"""Bytes between what is read of an incomplete blob and its missing block: more than anyone reads ahead."""

MOUNTS = 4
"""As many as tools/fio/four.fio reads."""


@dataclass
class Turn:
    """One subject's turn at a scenario; `lines` are those asked for, `checked` the subjects whose bytes were right."""

    subject: Subject
    ground: Ground
    own: Own
    lines: frozenset[str]
    seed: int
    checked: set[str]
    figures: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def mounted(self, place: Place, number: int = 0) -> Iterator[Path]:
        """Mount the subject, with everything before on the disk, so that its writing back does not count here."""
        assert isinstance(self.subject, Mounting)
        run(["sync", "-f", self.own.directory])
        with self.subject.mounted(place, self.own, number) as path:
            yield path

    def check(self, path: Path, directory: str) -> None:
        """Compare all bytes, once in a run. *Raises*: Trouble."""
        if self.subject.name not in self.checked:
            check(path, self.ground.digests[directory], self.ground.scale.of(directory))
            self.checked.add(self.subject.name)


def loopback(turn: Turn) -> None:
    """Read a blob over loopback from nothing, and then again in every way, with what that takes."""
    size = turn.ground.scale.size
    if isinstance(turn.subject, Curl):
        seconds, used = _download(turn, turn.ground.plain("whole"), "whole")
        turn.figures |= {"cold": size / seconds / MIB, "cpu_cold": used * GIB / size}
        return
    if isinstance(turn.subject, Local):
        path = turn.ground.file("whole")
        read_all(path, size)  # so that it is all in the page cache
        turn.check(path, "whole")
        _warm(turn, path, size, forget=False)
        return
    with turn.mounted(turn.ground.plain("whole")) as path:
        used = turn.own.group.cpu()
        with turn.own.group.watch_memory() as memory:
            turn.figures["cold"] = size / MIB / read_all(path, size).elapsed
        turn.figures["cpu_cold"] = (turn.own.group.cpu() - used) * GIB / size
        turn.figures["memory"] = max(memory) / MIB
        turn.check(path, "whole")
        run(["sync", "-f", turn.own.directory])
        _warm(turn, path, size, forget=True)


def _warm(turn: Turn, path: Path, size: int, *, forget: bool) -> None:
    ways = WAYS if turn.lines & {"warm", "short"} else ("sequential",) if "cpu" in turn.lines else ()
    for way in ways:
        used = turn.own.group.cpu()
        turn.figures[f"warm_{way}"] = one_way(way, path, size, turn.ground.scale.runtime, forget=forget)
        if way == "sequential" and isinstance(turn.subject, Mounting):
            turn.figures["cpu_warm"] = (turn.own.group.cpu() - used) * GIB / size


def short(turn: Turn) -> None:
    """Read a blob that has every block but one. Peers know no such difference: what they do when warm is compared."""
    size, figures = turn.ground.scale.size, dict[str, float]()
    region = size - min(RESERVE, size * 3 // 4)
    with turn.mounted(turn.ground.plain("whole")) as path:
        fio("blocks", size, FILE=path, SIZE=size, BLOCKS=size // DEFAULT_BLOCK_SIZE)
        for way in WAYS:
            figures[f"short_{way}"] = one_way(way, path, region, turn.ground.scale.runtime, forget=True)
        cached = int(run(["getfattr", "--only-values", "--absolute-names", "-n", "user.lazyfs.cached", path]))
        if cached != size - DEFAULT_BLOCK_SIZE:
            raise Trouble(f"{path}: {size - cached} bytes are missing, not one block: what was measured is not that")
    turn.figures |= figures


def tls(turn: Turn) -> None:
    """Read a blob over TLS on loopback from nothing."""
    turn.figures["tls"] = turn.ground.scale.size / _cold(turn, turn.ground.secure("whole"), "whole") / MIB


def link(turn: Turn) -> None:
    """Read a blob over the link from nothing."""
    seconds = _cold(turn, turn.ground.linked("part"), "part")
    turn.figures |= {"link": turn.ground.scale.link_size / seconds / MIB, "alone": seconds}


def _cold(turn: Turn, place: Place, directory: str) -> float:
    """Return the seconds that a blob takes, from nothing."""
    if isinstance(turn.subject, Curl):
        return _download(turn, place, directory)[0]
    size = turn.ground.scale.of(directory)
    with turn.mounted(place) as path:
        seconds = read_all(path, size).elapsed
        turn.check(path, directory)
        return seconds


def _download(turn: Turn, place: Place, directory: str) -> tuple[float, float]:
    """Download with curl; return the seconds it took, and its processor time."""
    assert isinstance(turn.subject, Curl)
    copy = turn.own.directory / "copy"
    run(["sync", "-f", turn.own.directory])
    seconds, used = timed(turn.subject.words(place, copy), turn.ground.scale.of(directory), turn.own.group.environment)
    turn.check(copy, directory)
    return seconds, used


def random(turn: Turn) -> None:
    """Read some pages of a large blob over the link, each from another block."""
    scale = turn.ground.scale
    with turn.mounted(turn.ground.linked("wide")) as path:
        done = fio("cold-random", FILE=path, SIZE=scale.wide_size, READS=scale.reads, SEED=turn.seed)
    turn.figures |= {"random_mean": done.mean * 1000, "random_p99": done.p99 * 1000}


def first(turn: Turn) -> None:
    """Mount over the link and read a page: milliseconds from the command to the page."""
    assert isinstance(turn.subject, Mounting)
    began = time.monotonic()
    with turn.subject.mounted(turn.ground.linked("part"), turn.own) as path:
        run(["dd", f"if={path}", "of=/dev/null", "bs=4096", "count=1", "status=none"], MOMENT)
        turn.figures["first"] = (time.monotonic() - began) * 1000


def four(turn: Turn) -> None:
    """Read a blob over the link through four mounts at once, from nothing."""
    turn.ground.nginx.forget()
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(turn.mounted(turn.ground.linked("part"), number)) for number in range(MOUNTS)]
        files = {f"FILE{number}": str(path) for number, path in enumerate(paths, 1)}
        done = fio("four", MOUNTS * turn.ground.scale.link_size, SIZE=turn.ground.scale.link_size, **files)
        turn.check(paths[0], "part")
        sent = turn.ground.nginx.body_bytes()
    turn.figures |= {"four": done.elapsed, "four_origin": sent / turn.ground.scale.link_size}


def ls(turn: Turn) -> None:
    """Mount an index and list it: seconds from the command to the last line."""
    assert isinstance(turn.subject, Mounting)
    names = turn.ground.scale.names
    began = time.monotonic()
    with turn.subject.mounted(turn.ground.index(), turn.own) as path:
        lines = run(["ls", "-l", path.parent]).splitlines()[1:]
        seconds = time.monotonic() - began
    sizes = sum(int(line.split()[4]) for line in lines)
    right = sum(name_size(number) for number in range(names))
    if (len(lines), sizes) != (names, right):
        raise Trouble(f"{turn.subject.name}: {len(lines)} names of {sizes} bytes, not {names} of {right}")
    turn.figures["ls"] = seconds


@dataclass(frozen=True)
class Scenario:
    """Something to do, the lines that need it, and the subjects that can."""

    lines: frozenset[str]
    run: Callable[[Turn], None]
    takes: Callable[[Subject], bool]


def _mounts(subject: Subject) -> bool:
    return isinstance(subject, Mounting)


SCENARIOS = (
    Scenario(frozenset({"cold", "warm", "short", "cpu", "memory"}), loopback, lambda _: True),
    Scenario(frozenset({"short"}), short, lambda subject: isinstance(subject, Lazyfs)),
    Scenario(
        frozenset({"tls"}),
        tls,
        lambda subject: isinstance(subject, Curl) or (isinstance(subject, Mounting) and subject.secure),
    ),
    Scenario(frozenset({"link", "four"}), link, lambda subject: not isinstance(subject, Local)),
    Scenario(frozenset({"random"}), random, _mounts),
    Scenario(frozenset({"first"}), first, _mounts),
    Scenario(frozenset({"four"}), four, lambda subject: isinstance(subject, Mounting) and subject.caches),
    Scenario(frozenset({"ls"}), ls, lambda subject: isinstance(subject, Mounting) and subject.lists),
)


def take_turn(scenario: Scenario, turn: Turn) -> None:
    """Do a scenario in a directory of its own, and leave nothing but its figures. *Raises*: Trouble."""
    turn.own.directory.mkdir()
    try:
        with turn.own.group:
            scenario.run(turn)
    finally:
        reap()
        shutil.rmtree(turn.own.directory)
