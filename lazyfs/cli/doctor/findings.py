"""What a check finds, and checks as processes that end in time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from lazyfs.cli.apart import Apart, begin
from lazyfs.errors import LazyfsError

SECONDS: Final = 10.0
"""For a check of this host: what answers at all does so in a fraction of it."""

STUCK: Final = "nothing was to be learnt in time; who looks there may wait for ever"


class State(StrEnum):
    """How bad it is: fine, worth knowing, or such that lazyfs cannot work."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of something, and what to do about it, if anything; each is one line without a secret."""

    subject: str
    state: State
    what: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` shows of it."""
        return {"subject": self.subject, "state": self.state, "what": self.what, "remedy": self.remedy or None}


def ok(subject: str, what: str) -> Finding:
    """All is well."""
    return Finding(subject, State.OK, what)


def note(subject: str, what: str, remedy: str = "") -> Finding:
    """It works, and could be better."""
    return Finding(subject, State.NOTE, what, remedy)


def problem(subject: str, what: str, remedy: str = "") -> Finding:
    """It cannot work so."""
    return Finding(subject, State.PROBLEM, what, remedy)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A check in a process of its own."""

    subject: str
    told: Apart

    def findings(self) -> Iterator[Finding]:
        """Yield what it finds; in place of what does not come in time, a problem that says so."""
        try:
            for line in self.told.lines():
                subject, state, *words = json.loads(line)
                yield Finding(subject, State(state), *words)
        except TimeoutError:
            yield problem(self.subject, STUCK)


def under_way(subject: str, seconds: float, check: Callable[..., Iterator[Finding]], *args: Any) -> UnderWay:
    """Start a check. What goes wrong in it is a problem with its subject. *Units*: seconds."""
    return UnderWay(subject, begin(seconds, _lines, subject, check, *args))


def _lines(subject: str, check: Callable[..., Iterator[Finding]], *args: Any) -> Iterator[str]:
    for finding in _checked(subject, check(*args)):
        yield json.dumps([finding.subject, finding.state, finding.what, finding.remedy])


def _checked(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from findings
    except LazyfsError as exc:
        what, _, remedy = str(exc).partition("; ")
        yield problem(subject, what, remedy)
    except OSError as exc:
        yield problem(subject, f"{exc.filename or subject}: {exc.strerror or exc}")
    except Exception as exc:
        yield problem(subject, f"it could not be looked at: {type(exc).__name__}: {exc}")
