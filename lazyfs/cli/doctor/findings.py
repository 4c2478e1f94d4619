"""What a check finds, and checks as processes that end in time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

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
    """A check in a process of its own, which tells what it finds through a pipe, a line of JSON each, `null` last."""

    subject: str
    pid: int
    pipe: int
    deadline: float

    def findings(self) -> Iterator[Finding]:
        """Yield what it finds; in place of what does not come in time, a problem that says so.

        A process that is stuck in the kernel is left behind: it has nothing of ours open.
        """
        told = b""
        with contextlib.closing(os.fdopen(self.pipe, "rb", buffering=0)) as pipe:
            while select.select([pipe], [], [], max(0.0, self.deadline - time.monotonic()))[0]:
                piece = pipe.read(65536)
                told += piece
                if not piece:
                    break
        os.kill(self.pid, signal.SIGKILL)  # it is there, if only as a zombie: nobody waits for it
        for line in told.splitlines():
            if (found := json.loads(line)) is None:
                return
            yield Finding(found[0], State(found[1]), *found[2:])
        yield problem(self.subject, STUCK)


def under_way(subject: str, seconds: float, check: Callable[..., Iterator[Finding]], *args: Any) -> UnderWay:
    """Start a check. What goes wrong in it is a problem with its subject. *Units*: seconds."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return UnderWay(subject, pid, ours, time.monotonic() + seconds)
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):  # else who reads what we print would wait for a check that is stuck
            os.dup2(nothing, fd)
        with os.fdopen(theirs, "w", buffering=1) as pipe:
            for finding in _checked(subject, check(*args)):
                print(json.dumps([finding.subject, finding.state, finding.what, finding.remedy]), file=pipe)
            print("null", file=pipe)
    finally:
        os._exit(0)


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
