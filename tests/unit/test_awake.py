"""Who rests when too many blobs have their files open, and how many may be open at all."""

from __future__ import annotations

import pytest

from lazyfs.awake import TRIED, Awake
from lazyfs.store.files import MOST


class Sleeper:
    """A blob; a busy one does not rest."""

    def __init__(self) -> None:
        self.busy = self.resting = False
        self.asked = 0

    def rest(self) -> bool:
        self.asked += 1
        self.resting = not self.busy
        return self.resting


@pytest.mark.parametrize("limit", [8, 64, 400, 1024, 4096, 20_000, 1 << 20])
def test_all_of_them_fit_and_leave_something_to_others(limit: int) -> None:
    awake = Awake(limit)
    assert 0 < awake.most_awake < awake.most_open
    taken = MOST * awake.most_awake + (awake.most_open - awake.most_awake)
    assert taken <= limit - min(1024, limit // 8)


def test_ten_thousand_fit_into_twenty_thousand_descriptors() -> None:
    assert Awake(20_000).most_open > 10_000


def test_the_one_that_was_used_least_of_late_rests() -> None:
    awake = Awake(64)
    blobs = [Sleeper() for _ in range(awake.most_awake + 1)]
    for blob in blobs[:-1]:
        awake.use(blob)
    assert not any(blob.asked for blob in blobs)
    awake.use(blobs[0])
    awake.use(blobs[-1])
    assert [blob.resting for blob in blobs].index(True) == 1
    assert len(awake) == awake.most_awake


def test_those_in_use_are_passed_over_and_not_all_of_them_each_time() -> None:
    awake = Awake(1024)
    blobs = [Sleeper() for _ in range(2 * awake.most_awake)]
    for blob in blobs:
        blob.busy = True
        awake.use(blob)
    assert len(awake) == len(blobs), "more are awake than should be"
    assert sum(blob.asked for blob in blobs) <= TRIED * len(blobs)
    for blob in blobs:
        blob.busy = False
        awake.use(blob)
        awake.use(blob)
    assert len(awake) == awake.most_awake


def test_what_was_closed_is_not_asked() -> None:
    awake = Awake(64)
    closed = Sleeper()
    awake.use(closed)
    awake.forget(closed)
    awake.forget(closed)
    for _ in range(100):
        awake.use(Sleeper())
    assert not closed.asked
