"""What fails is left alone, and comes back; what is slow is found out, and asked for twice only so often."""

from __future__ import annotations

import math

import pytest

from lazyfs.origin.health import (
    PAUSE_FIRST,
    PAUSE_LARGEST,
    REST,
    SAMPLES_LEAST,
    SLOW_AT_FIRST,
    SLOW_LEAST,
    Health,
    HedgeBudget,
    Latencies,
)

PATIENCE = 60.0


def broken(health: Health) -> float:
    """Fail until it is refused; return when that was."""
    now = 0.0
    while health.refusal("key", now) is None:
        health.failed("key", now, now)
        now += 1
    return now - 1


def failing_for(health: Health, seconds: float, start: float = 0.0, every: float = 1.0) -> float:
    """Fail at once, again and again; return when it failed last."""
    now = start
    while now <= start + seconds:
        health.failed("key", now, now)
        now += every
    return now - every


def test_a_failure_is_a_reason_to_ask_others_first_but_not_to_refuse() -> None:
    health = Health(PATIENCE)
    assert not health.resting("key", 0)
    health.failed("key", 0, 1)
    assert health.resting("key", 1)
    assert not health.resting("other", 1)
    assert health.refusal("key", 1) is None
    assert not health.resting("key", 1 + REST)


def test_what_fails_for_as_long_as_a_read_may_take_is_refused_at_once() -> None:
    health = Health(PATIENCE)
    last = failing_for(health, PATIENCE - 10)
    assert health.refusal("key", last) is None
    now = broken(health)
    assert PATIENCE - 10 < now <= PATIENCE
    assert health.refusal("key", now) == PAUSE_FIRST
    assert health.refusal("other", now) is None
    assert health.resting("key", now + 1000)


def test_one_attempt_that_takes_a_whole_deadline_is_enough() -> None:
    health = Health(PATIENCE)
    health.failed("key", 5, 5 + PATIENCE)
    assert health.refusal("key", 5 + PATIENCE) is not None


def test_attempts_beside_each_other_are_not_counted_twice() -> None:
    health = Health(PATIENCE)
    for _ in range(10):
        health.failed("key", 0, 10)
    assert health.refusal("key", 10) is None


def test_time_in_which_nobody_tried_proves_nothing() -> None:
    health = Health(PATIENCE)
    for hour in range(5):
        health.failed("key", hour * 3600, hour * 3600)
    assert health.refusal("key", 4 * 3600) is None


def test_one_at_a_time_is_let_through_after_a_pause_that_grows() -> None:
    health = Health(PATIENCE)
    now, pauses = broken(health), []
    for _ in range(6):
        pause = health.refusal("key", now)
        assert pause is not None
        pauses.append(pause)
        assert health.refusal("key", now + pause - 0.1) is not None
        now += pause
        assert health.refusal("key", now) is None
        assert health.refusal("key", now) is not None, "a second one beside it"
        health.failed("key", now, now)
        health.failed("key", now, now)  # of one that was under way already
    assert pauses == [2, 4, 8, 16, PAUSE_LARGEST, PAUSE_LARGEST]


def test_one_success_and_all_is_well() -> None:
    health = Health(PATIENCE)
    now = broken(health)
    health.succeeded("key")
    assert health.refusal("key", now) is None
    assert not health.resting("key", now)
    health.failed("key", now, now)
    assert health.refusal("key", now) is None


def test_who_waits_for_ever_is_never_refused() -> None:
    health = Health(math.inf)
    assert health.refusal("key", failing_for(health, 10_000)) is None


def test_slow_is_what_95_of_100_are_faster_than() -> None:
    latencies = Latencies()
    for _ in range(SAMPLES_LEAST - 1):
        latencies.note(9)
    assert (latencies.slow, latencies.usual) == (SLOW_AT_FIRST, 0)
    for number in range(64):
        latencies.note(number)
    assert latencies.slow == latencies.usual == 60
    for _ in range(64):
        latencies.note(0.001)
    assert (latencies.slow, latencies.usual) == (SLOW_LEAST, 0.001)


@pytest.mark.parametrize("share", [0.0, 0.03, 1.0])
def test_second_requests_are_a_share_of_all(share: float) -> None:
    budget = HedgeBudget(share)
    sent = 0
    for _ in range(1000):
        budget.earn()
        sent += budget.spend()
    assert sent <= share * 1000 + 1
    assert sent >= share * 1000 - 1


def test_what_is_saved_up_is_bounded() -> None:
    budget = HedgeBudget(0.5)
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(5)] == [True] * 4 + [False]
