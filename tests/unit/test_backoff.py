"""How long it takes until an origin is asked again."""

from __future__ import annotations

import pytest

from lazyfs.origin.backoff import FIRST, LARGEST, OBEYED, Backoff


def test_pauses_double_up_to_the_largest_and_begin_anew_after_progress() -> None:
    backoff = Backoff()
    for _ in range(2):
        for number in range(40):
            ceiling = min(LARGEST, FIRST * 2**number)
            assert ceiling / 2 <= backoff.after_failure(None) <= ceiling
        backoff.after_progress()


def test_two_who_fail_together_do_not_come_back_together() -> None:
    assert len({Backoff().after_failure(None) for _ in range(10)}) > 5


@pytest.mark.parametrize(("said", "waited"), [(7.0, 7.0), (OBEYED, OBEYED), (3600.0, OBEYED), (1e9, OBEYED)])
def test_a_retry_after_is_obeyed_but_not_for_hours(said: float, waited: float) -> None:
    assert Backoff().after_failure(said) == waited


def test_a_short_retry_after_is_no_leave_to_hurry() -> None:
    assert Backoff().after_failure(0.0) >= FIRST / 2
