"""What the figures must show: each line of the table, its ratio, and whether it is met; as text and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazyfs.records import DEFAULT_BLOCK_SIZE
from tools.benching.origin import Scale
from tools.benching.reading import MIB
from tools.benching.subjects import CACHING_PEERS, PEERS, Lazyfs

Measured = Mapping[str, Mapping[str, Sequence[float]]]
"""The values of each round, by figure and by subject."""

OURS = Lazyfs.name


@dataclass(frozen=True)
class Figure:
    """What is measured, and whether more of it is better."""

    title: str
    unit: str
    more: bool


FIGURES = {
    "cold": Figure("cold, sequential, loopback", "MiB/s", True),
    "tls": Figure("cold, sequential, TLS", "MiB/s", True),
    "link": Figure("cold, sequential, link", "MiB/s", True),
    "random_mean": Figure("cold, random 4 KiB, link: mean", "ms", False),
    "random_p99": Figure("cold, random 4 KiB, link: p99", "ms", False),
    "first": Figure("mount and first byte, link", "ms", False),
    "warm_sequential": Figure("complete: sequential", "MiB/s", True),
    "warm_random": Figure("complete: random 4 KiB", "IOPS", True),
    "warm_jobs": Figure("complete: random, 4 jobs", "IOPS", True),
    "warm_direct": Figure("complete: direct", "MiB/s", True),
    "short_sequential": Figure("one block short: sequential", "MiB/s", True),
    "short_random": Figure("one block short: random 4 KiB", "IOPS", True),
    "short_jobs": Figure("one block short: random, 4 jobs", "IOPS", True),
    "short_direct": Figure("one block short: direct", "MiB/s", True),
    "alone": Figure("one process, link", "s", False),
    "four": Figure("4 processes at once, link", "s", False),
    "four_origin": Figure("4 processes: origin bytes / size", "x", False),
    "ls": Figure("mount and ls -l of an index", "s", False),
    "cpu_cold": Figure("processor time, cold", "s/GiB", False),
    "cpu_warm": Figure("processor time, complete", "s/GiB", False),
    "memory": Figure("memory of all processes", "MiB", False),
}


@dataclass(frozen=True)
class Requirement:
    """A line: our figure is held against `beside`, the best subject of some or a value, and `bound` is the ratio."""

    line: str
    figure: str
    beside: str
    bound: float
    reference: Callable[[Measured, Scale], float | None]

    @property
    def title(self) -> str:
        """What is measured."""
        return FIGURES[self.figure].title

    @property
    def required(self) -> str:
        """The ratio that is required."""
        return f"{'>=' if FIGURES[self.figure].more else '<='} {self.bound:g}"


def best(figure: str, of: frozenset[str]) -> Callable[[Measured, Scale], float | None]:
    """Return what finds the best median of these subjects."""

    def find(measured: Measured, _scale: Scale) -> float | None:
        values = [statistics.median(values) for name, values in measured.get(figure, {}).items() if name in of]
        return (max if FIGURES[figure].more else min)(values, default=None)

    return find


def value(of: Callable[[Scale], float]) -> Callable[[Measured, Scale], float | None]:
    """Return what finds a value that is known without measuring."""
    return lambda _measured, scale: of(scale)


def block_over_the_link(scale: Scale) -> float:
    """Return the milliseconds that a block needs: a round trip, and its transfer."""
    return 1000 * (scale.rtt + DEFAULT_BLOCK_SIZE / scale.rate)


def _one(figure: str, name: str) -> Callable[[Measured, Scale], float | None]:
    return best(figure, frozenset({name}))


REQUIREMENTS = (
    Requirement("cold", "cold", "curl to disk", 1.0, _one("cold", "curl")),
    Requirement("cold", "cold", "best caching peer", 1.3, best("cold", CACHING_PEERS)),
    Requirement("tls", "tls", "curl to disk", 0.8, _one("tls", "curl")),
    Requirement("link", "link", "the link", 0.95, value(lambda scale: scale.rate / MIB)),
    Requirement("random", "random_mean", "RTT + block", 1.1, value(block_over_the_link)),
    Requirement("random", "random_p99", "RTT + block", 2.0, value(block_over_the_link)),
    Requirement("first", "first", "300 ms", 1.0, value(lambda _: 300.0)),
    *(
        Requirement("warm", f"warm_{way}", "local file", 0.9, _one(f"warm_{way}", "local"))
        for way in ("sequential", "random", "jobs", "direct")
    ),
    *(
        Requirement("short", f"short_{way}", "best peer, warm", 1.0, best(f"warm_{way}", PEERS))
        for way in ("sequential", "random", "jobs", "direct")
    ),
    Requirement("four", "four", "one process", 1.15, _one("alone", OURS)),
    Requirement("four", "four_origin", "1 byte for each", 1.0005, value(lambda _: 1.0)),
    Requirement("ls", "ls", "best peer", 1.0, best("ls", PEERS)),
    Requirement("cpu", "cpu_cold", "best caching peer", 1.0, best("cpu_cold", CACHING_PEERS)),
    Requirement("cpu", "cpu_warm", "best caching peer", 0.1, best("cpu_warm", CACHING_PEERS)),
    Requirement("memory", "memory", "rclone", 1.0, _one("memory", "rclone")),
)

LINES = tuple(dict.fromkeys(requirement.line for requirement in REQUIREMENTS))


@dataclass(frozen=True)
class Judged:
    """A requirement beside what was measured; when one of the two was not, it is not met."""

    requirement: Requirement
    ours: float | None
    reference: float | None

    @property
    def ratio(self) -> float | None:
        """Our figure over the reference."""
        return self.ours / self.reference if self.reference and self.ours is not None else None

    @property
    def met(self) -> bool:
        """Say whether it is met. What costs nothing is met beside what costs nothing."""
        if self.ours is None or self.reference is None:
            return False
        if FIGURES[self.requirement.figure].more:
            return self.ours >= self.requirement.bound * self.reference
        return self.ours <= self.requirement.bound * self.reference

    def verdict(self) -> str:
        """Return one word or two."""
        if self.ours is None:
            return "NOT measured"
        if self.reference is None:
            return "NOT compared"
        return "met" if self.met else "NOT met"


def judge(measured: Measured, scale: Scale, lines: frozenset[str]) -> list[Judged]:
    """Hold what was measured against the requirements of these lines."""
    return [
        Judged(each, best(each.figure, frozenset({OURS}))(measured, scale), each.reference(measured, scale))
        for each in REQUIREMENTS
        if each.line in lines
    ]


def as_json(measured: Measured, judged: Sequence[Judged], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of it, for programs."""
    return {
        "about": about,
        "figures": {
            key: {
                "title": FIGURES[key].title,
                "unit": FIGURES[key].unit,
                "subjects": {
                    name: {"median": statistics.median(values), "rounds": list(values)}
                    for name, values in subjects.items()
                },
            }
            for key, subjects in measured.items()
        },
        "lines": [
            {
                "line": each.requirement.line,
                "title": each.requirement.title,
                "ours": each.ours,
                "beside": each.requirement.beside,
                "reference": each.reference,
                "ratio": each.ratio,
                "required": each.requirement.required,
                "met": each.met,
            }
            for each in judged
        ],
    }


def table(measured: Measured, judged: Sequence[Judged]) -> Iterator[str]:
    """Yield the lines of the two tables: medians with their ranges, and what they must show."""
    names = list(dict.fromkeys(name for subjects in measured.values() for name in subjects))
    yield f"{'medians, ranges below':40}" + "".join(f"{name:>14}" for name in names)
    for key, figure in FIGURES.items():
        if key in measured:
            rows = [measured[key].get(name, []) for name in names]
            medians = "".join(f"{number(statistics.median(row) if row else None):>14}" for row in rows)
            yield f"{figure.title + ', ' + figure.unit:40}{medians}"
            if max(map(len, rows)) > 1:
                yield " " * 40 + "".join(f"{_range(row):>14}" for row in rows)
    yield ""
    yield f"{'lazyfs beside':36}{'':20}{'ours':>10}{'theirs':>10}{'ratio':>9}{'required':>11}"
    for each in judged:
        ratio = "-" if each.ratio is None else f"{each.ratio:.3f}"
        yield (
            f"{each.requirement.title:36}{each.requirement.beside:20}{number(each.ours):>10}"
            f"{number(each.reference):>10}{ratio:>9}{each.requirement.required:>11}  {each.verdict()}"
        )


def number(of: float | None) -> str:
    """Return a number with three digits that mean something."""
    if of is None:
        return "-"
    if of >= 100:
        return f"{of:,.0f}"
    return f"{of:.1f}" if of >= 10 else f"{of:.3f}" if of < 2 else f"{of:.2f}"


def _range(values: Sequence[float]) -> str:
    return f"{number(min(values))}-{number(max(values))}" if len(values) > 1 else ""
