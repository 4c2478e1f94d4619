"""The daemon's log: lines of text or of JSON, and never a flood of them.

An origin that is down fails as often as it is asked. So of each *kind* of line, that is, the same words from the same
place about the same kind of fault of the same origin, only the first few are written. The rest are counted:

    first BURST ── written ──> the rest of PERIOD ── counted ──> "N more like this in the last M s: the last of them"
         ^                                                             │ and so for each PERIOD with any
         └──────────────────── a PERIOD without any ───────────────────┘

What a line says is one line, whatever the names in it are: control characters are escaped. No line has a secret in it,
because no message of ours has one (errors.py).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from lazyfs import urls
from lazyfs.errors import OriginError, kind_of
from lazyfs.options import WatchOptions

BURST: Final = 3
"""Lines of a kind that are written at once."""

PERIOD: Final = 30.0
"""Seconds for which the others are counted."""

KINDS: Final = 256
"""Kinds that are told apart; with more of them, the one that came first is forgotten."""

UNBOUNDED: Final = {"unbounded": True}
"""As `extra` of a line that somebody has asked for: it is written in any case."""

Key = tuple[str, int, str, str, str]
"""What makes a kind: logger, level, words, fault, origin."""


def log_to(handler: logging.Handler, options: WatchOptions) -> None:
    """Have what the daemon logs go there. Libraries have nothing to say below INFO that is ours to show."""
    handler.setFormatter(JsonLines() if options.log_json else Text())
    handler.addFilter(Limiter(handler))
    root, level = logging.getLogger(), getattr(logging, options.log_level.upper())
    root.addHandler(handler)
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("lazyfs").setLevel(level)


def say_more(*, all_of_it: bool = False) -> None:
    """Write how many lines were counted where that is due, or `all_of_it`, at the end."""
    for handler in logging.getLogger().handlers:
        for limiter in handler.filters:
            if isinstance(limiter, Limiter):
                limiter.say_more(all_of_it=all_of_it)


class Text(logging.Formatter):
    """`TIME LEVEL WHERE: what happened`; the traceback of an unforeseen failure is on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line."""
        record.message = _escaped(record.message)
        return super().formatMessage(record)


class JsonLines(logging.Formatter):
    """One JSON object a line, with `time` (RFC 3339), `level`, `logger` and `message`.

    Where there are some also `fault` and `origin`, `more` (how many lines it stands for) and `exception`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fault, origin = getattr(record, "about", None) or _about(record)
        line |= {name: value for name, value in (("fault", fault), ("origin", origin)) if value}
        if (more := getattr(record, "more", 0)) > 0:
            line["more"] = more
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


@dataclass(slots=True)
class _Kind:
    """The lines of one kind since `began`; `more` were not written, the last of which said `words`."""

    began: float
    written: int = 0
    more: int = 0
    words: str = ""


class Limiter(logging.Filter):
    """Lets through the first few lines of each kind, and what is `UNBOUNDED`; counts the rest. For one handler.

    What is logged for whoever looks for a fault in lazyfs itself (DEBUG) goes through. Any thread may log.
    """

    def __init__(self, handler: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._handler = handler
        self._clock = clock
        self._mutex = threading.Lock()
        self._kinds: dict[Key, _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a line is written."""
        if record.levelno < logging.INFO or getattr(record, "unbounded", False):
            return True
        key = (record.name, record.levelno, str(record.msg), *_about(record))
        with self._mutex:
            now, said = self._clock(), []
            if key not in self._kinds:
                if len(self._kinds) >= KINDS:
                    first = next(iter(self._kinds))
                    said = list(self._take([first], now))
                    self._kinds.pop(first, None)
                self._kinds[key] = _Kind(now)
            kind = self._kinds[key]
            if written := kind.written < BURST:
                kind.written += 1
            else:
                kind.more += 1
                kind.words = record.getMessage()  # not the record, which keeps an exception and all its frames
        self._write(said)
        return written

    def say_more(self, *, all_of_it: bool = False) -> None:
        """Write how many lines were counted, for the kinds whose period is over, or for all; forget the quiet ones."""
        with self._mutex:
            now = self._clock()
            due = [key for key, kind in self._kinds.items() if all_of_it or now - kind.began >= PERIOD]
            said = list(self._take(due, now))
        self._write(said)

    def _take(self, keys: Iterable[Key], now: float) -> Iterator[logging.LogRecord]:
        """Yield the lines for what was counted, and begin a new period; a kind without any is forgotten."""
        for key in keys:
            kind = self._kinds[key]
            if not kind.more:
                del self._kinds[key]
                continue
            name, level, _, *about = key
            yield logging.makeLogRecord(
                {
                    "name": name,
                    "levelno": level,
                    "levelname": logging.getLevelName(level),
                    "msg": "%d more like this in the last %.0f s: %s",
                    "args": (kind.more, max(1.0, now - kind.began), kind.words),
                    "more": kind.more,
                    "about": tuple(about),
                    **UNBOUNDED,
                }
            )
            kind.began, kind.more, kind.words = now, 0, ""

    def _write(self, records: Iterable[logging.LogRecord]) -> None:
        for record in records:
            self._handler.handle(record)


def _about(record: logging.LogRecord) -> tuple[str, str]:
    """Return the kind of the fault that a line is about, and its origin; empty where there is none."""
    given = record.args if isinstance(record.args, tuple) else ()
    raised = record.exc_info[1] if record.exc_info else None
    fault = next((one for one in (*given, raised) if isinstance(one, BaseException)), None)
    if fault is None:
        return "", ""
    origin = urls.shown_origin(urls.origin_of(fault.url)) if isinstance(fault, OriginError) else ""
    return kind_of(fault), origin


def _escaped(text: str) -> str:
    """Return text that is one line of UTF-8: names may have control characters in them, and bytes that are none."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
