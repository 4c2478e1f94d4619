"""The table of behaviours, still empty: what a row is, how a URL names rows, and what a row may work on.

There are two kinds.  `@before` functions run first: they may change the request as the origin sees it, the
blob it has, wait, or give an answer that ends the matter (a refusal, a redirect).  If none does, the right
answer is worked out, and the `@after` functions bend it.  Each kind runs in the order of the URL.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from .answers import Answer, Request
from .contents import Blob
from .ledger import Lease, Ledger


class HangUpError(Exception):
    """The connection is to be closed now, with a RST if `reset`; or the client has closed it."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


@dataclass(frozen=True)
class Spec:
    """One behaviour as a URL names it: `text` is `name=argument@when`, still percent-encoded."""

    text: str
    behaviour: Behaviour
    argument: str
    first: int
    last: int | None
    every: int = 1

    def applies(self, nth: int) -> bool:
        """Say whether the path's nth request is among those it is meant for."""
        return self.first <= nth and (self.last is None or nth <= self.last) and (nth - self.first) % self.every == 0


@dataclass
class Exchange:
    """One request and what a behaviour may want to know of its surroundings.

    `nth` counts the requests for this path, from 1; `reused` says that the connection has served another
    before.  `base` and `other` are the URLs of the port in use and of the second one.  `pause` waits (None:
    until released) and raises HangUpError when the client goes.
    """

    request: Request
    specs: list[Spec]
    raw_name: str
    nth: int
    connection: int
    reused: bool
    base: str
    other: str
    ledger: Ledger
    pause: Callable[[float | None], None]
    version_of: Callable[[int, int | None], Blob | None]
    version: int
    blob: Blob

    def show(self, version: int, size: int | None = None) -> None:
        """Have another version of the blob."""
        blob = self.version_of(version, size)
        if blob is not None:
            self.version, self.blob = version, blob

    def path_with(self, name: str, text: str | None) -> str:
        """Return this path with `text` in place of the behaviour called `name`, or without it."""
        texts = [text if spec.behaviour.name == name else spec.text for spec in self.specs]
        kept = ",".join(each for each in texts if each is not None)
        return f"/b/{kept}/{self.raw_name}" if kept else f"/plain/{self.raw_name}"


Before = Callable[[Exchange, str], Answer | None]
After = Callable[[Exchange, Answer, str], None]


@dataclass(frozen=True)
class Behaviour:
    """A row of the table; `usage` is the argument's name, `default` what is used without one."""

    name: str
    usage: str
    default: str
    before: Before | None
    after: After | None

    @property
    def help(self) -> str:
        """The behaviour in one line, as a URL names it and as its docstring explains it."""
        name = self.name + (f"[={self.usage}]" if self.usage else "")
        explained = ((self.before or self.after).__doc__ or "").partition("\n")[0]
        return f"{name:34} {explained}{f' [{self.default}]' if self.default else ''}"


BEHAVIOURS: dict[str, Behaviour] = {}


def before(name: str, usage: str = "", default: str = "") -> Callable[[Before], Before]:
    """Enter the function into the table as one that runs before the right answer is worked out."""

    def enter(function: Before) -> Before:
        BEHAVIOURS[name] = Behaviour(name, usage, default, function, None)
        return function

    return enter


def after(name: str, usage: str = "", default: str = "") -> Callable[[After], After]:
    """Enter the function into the table as one that bends the right answer."""

    def enter(function: After) -> After:
        BEHAVIOURS[name] = Behaviour(name, usage, default, None, function)
        return function

    return enter


def parse_specs(segment: str) -> list[Spec]:
    """Parse the behaviours of a URL.  Raises ValueError."""
    specs = []
    for text in segment.split(","):
        match = re.fullmatch(r"([a-z0-9-]+)(?:=([^@]*))?(?:@(\d+)(-\d*|\+\d+)?)?", text)
        if match is None or match[1] not in BEHAVIOURS:
            raise ValueError(f"no such behaviour: {text!r}; GET / lists them")
        behaviour = BEHAVIOURS[match[1]]
        argument = behaviour.default if match[2] is None else unquote(match[2])
        first, last, every = 1, None, 1
        if match[4] and match[4].startswith("+"):
            first, every = int(match[3]), max(int(match[4][1:]), 1)
        elif match[3]:
            first, last = (int(match[3]), int(match[4][1:] or 0) or None) if match[4] else (1, int(match[3]))
        specs.append(Spec(text, behaviour, argument, first, last, every))
    return specs


def parse_time(text: str) -> float:
    """Return seconds: `0.5`, `2s` or `200ms`.  Raises ValueError."""
    if match := re.fullmatch(r"(\d*\.?\d+)(ms|s)?", text):
        return float(match[1]) / (1000 if match[2] == "ms" else 1)
    raise ValueError(f"not a time: {text!r}")


def parse_limit(text: str) -> Lease:
    """Return a lease: `5` uses, `2s` or `200ms` from now, or for ever when empty.  Raises ValueError."""
    if not text:
        return Lease()
    if text.isdigit():
        return Lease(uses=int(text))
    return Lease(until=time.monotonic() + parse_time(text))


def describe() -> str:
    """Return the table as text, a line for each behaviour."""
    return "".join(f"  {row.help}\n" for row in BEHAVIOURS.values())
