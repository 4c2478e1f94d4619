"""The log: one line for each fault, whatever is in it, and no flood however often it comes."""

from __future__ import annotations

import json
import logging
import re
import threading

import pytest

from lazyfs.errors import LazyfsError, OriginBadAnswer, OriginUnreachable
from lazyfs.logs import BURST, KINDS, PERIOD, UNBOUNDED, JsonLines, Limiter, Text

MORE = re.compile(r"(\d+) more like this in the last (\d+) s: (.*)")


class Log(logging.Handler):
    """A log with a clock of its own; `lines` is what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.lines: list[str] = []
        self.limiter = Limiter(self, lambda: self.now)
        self.addFilter(self.limiter)
        self.logger = logging.Logger("lazyfs.test", logging.DEBUG)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what is written."""
        self.lines.append(record.getMessage())

    def later(self, seconds: float) -> None:
        """Let time pass, as the mount does it: with a look at what was left out now and then."""
        for _ in range(int(seconds)):
            self.now += 1
            self.limiter.say_more()

    def stands_for(self) -> int:
        """Return how many lines were logged, by what is written."""
        return sum(int(more[1]) if (more := MORE.fullmatch(line)) else 1 for line in self.lines)


def fault(host: str = "a", number: int = 0) -> OriginUnreachable:
    return OriginUnreachable(f"http://{host}:80/{number}", "reset")


def test_thousands_of_faults_are_a_few_lines_that_stand_for_all_of_them() -> None:
    log = Log()
    for number in range(5000):
        log.logger.warning("blob %s: %s", number, fault(number=number))
    assert len(log.lines) == BURST
    log.later(PERIOD)
    (line,) = log.lines[BURST:]
    assert line == f"{5000 - BURST} more like this in the last 30 s: blob 4999: http://a:80/4999: reset"
    log.later(10 * PERIOD)
    assert len(log.lines) == BURST + 1, "nothing more came"


def test_while_it_goes_on_there_is_a_line_for_each_period() -> None:
    log = Log()
    for _ in range(int(4 * PERIOD)):
        for _ in range(20):
            log.logger.warning("%s", fault())
        log.later(1)
    assert len(log.lines) == BURST + 4
    assert log.stands_for() == int(4 * PERIOD) * 20
    log.later(PERIOD + 1)
    log.logger.warning("%s", fault(number=9))
    assert log.lines[-1] == "http://a:80/9: reset", "after a quiet period it is news again"


@pytest.mark.parametrize(
    "other",
    [
        lambda log: log.warning("%s", fault("b")),
        lambda log: log.warning("%s", OriginBadAnswer("http://a:80/1", "short")),
        lambda log: log.warning("other words: %s", fault()),
        lambda log: log.error("%s", fault()),
        lambda log: log.warning("%s", LazyfsError("no origin")),
        lambda log: log.warning("%s", fault(), extra=UNBOUNDED),
        lambda log: log.debug("%s", fault()),
    ],
    ids=["origin", "fault", "words", "level", "no origin", "asked for", "debug"],
)
def test_a_flood_of_one_kind_hides_no_other(other: object) -> None:
    assert callable(other)
    log = Log()
    for _ in range(100):
        log.logger.warning("%s", fault())
    other(log.logger)
    assert len(log.lines) == BURST + 1


def test_ever_new_kinds_take_no_ever_more_memory_and_none_is_lost() -> None:
    log = Log()
    for number in range(4 * KINDS):
        for _ in range(BURST + 2):
            log.logger.warning("%s", fault(f"h{number}"))
    assert len(log.limiter._kinds) <= KINDS
    log.limiter.say_more(all_of_it=True)
    assert log.stands_for() == 4 * KINDS * (BURST + 2)


def test_threads_lose_no_line() -> None:
    log = Log()

    def flood() -> None:
        for number in range(1000):
            log.logger.warning("%s", fault(f"h{number % 7}"))

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.limiter.say_more(all_of_it=True)
    assert log.stands_for() == 4000
    assert len(log.lines) == 7 * (BURST + 1)


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    raised = (type(error), error, None) if error else None
    return logging.LogRecord("lazyfs.vfs", logging.WARNING, __file__, 1, message, args, raised)


def test_a_name_cannot_make_a_line_of_its_own() -> None:
    line = Text().format(record("%s: %s", "a\nb\x1b[2J\r\udcff", "gone"))
    assert line.endswith(r"WARNING lazyfs.vfs: a\nb\x1b[2J\r\udcff: gone")
    assert line.encode().isascii()


def test_json_lines_say_what_is_wrong_with_whom() -> None:
    line = JsonLines().format(record("%s; next try in %.1f s", fault("example.org", 7), 0.5))
    found = json.loads(line)
    assert "\n" not in line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "warning",
        "logger": "lazyfs.vfs",
        "message": "http://example.org:80/7: reset; next try in 0.5 s",
        "fault": "unreachable",
        "origin": "http://example.org:80",
    }


def test_a_traceback_is_in_the_json_line() -> None:
    line = JsonLines().format(record("an unforeseen failure", error=ValueError("a\nb")))
    assert "\n" not in line
    assert json.loads(line)["exception"] == "ValueError: a\nb"
    assert json.loads(line)["fault"] == "value_error"


def test_what_was_left_out_keeps_its_facts_as_json() -> None:
    log = Log()
    for _ in range(BURST + 5):
        log.logger.warning("%s", fault())
    written: list[str] = []
    log.emit = lambda record: written.append(JsonLines().format(record))  # type: ignore[method-assign]
    log.limiter.say_more(all_of_it=True)
    (line,) = map(json.loads, written)
    assert (line["more"], line["fault"], line["origin"], line["level"]) == (5, "unreachable", "http://a:80", "warning")
