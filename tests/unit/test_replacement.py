"""The replacement policy, against its paper and against LRU."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lazyfs import replacement
from lazyfs.replacement import COLD_SHARE, GHOST_SHARE, NEVER, evict_cold, is_hot, on_arrival, on_eviction, on_use

ROOM = 1 << 30
COLD, GHOST = int(COLD_SHARE * ROOM), int(GHOST_SHARE * ROOM)
uses = st.integers(0, 2**64 - 1)
clocks = st.integers(0, 2**62)


def test_what_comes_is_cold_and_stays_so_while_it_is_read_at_once() -> None:
    use = on_arrival(NEVER, 5000, ROOM)
    assert not is_hot(use)
    assert on_use(use, 5000 + COLD, ROOM) == use


def test_what_is_wanted_again_after_a_while_is_hot() -> None:
    use = on_use(on_arrival(NEVER, 5000, ROOM), 5001 + COLD, ROOM)
    assert is_hot(use)
    assert on_use(use, 9000 + COLD, ROOM) > use


def test_what_comes_back_soon_is_hot_and_what_was_long_gone_is_cold() -> None:
    gone = on_eviction(on_arrival(NEVER, 5000, ROOM), 5000 + ROOM)
    assert is_hot(on_arrival(gone, 5000 + ROOM + GHOST, ROOM))
    assert not is_hot(on_arrival(gone, 5001 + ROOM + GHOST, ROOM))


def test_a_hot_one_that_goes_was_not_wanted_for_long() -> None:
    use = on_use(on_arrival(NEVER, 5000, ROOM), 5001 + COLD, ROOM)
    assert on_eviction(use, 5000 + ROOM) == use


def test_a_use_from_the_future_is_no_merit() -> None:
    assert not is_hot(on_arrival(1 << 63, ROOM, ROOM))


@given(uses, clocks, st.integers(0, 2**62))
def test_any_use_leads_to_one_of_now_or_stays(use: int, clock: int, room: int) -> None:
    now = max(clock, 1)
    assert on_use(use, clock, room) in {use, now << 1, now << 1 | 1}
    assert on_arrival(use, clock, room) in {now << 1, now << 1 | 1}
    assert NEVER not in {on_use(use, clock, room), on_arrival(use, clock, room)}


def test_the_cold_quarter_pays_for_a_scan() -> None:
    assert evict_cold(cold=COLD + 1, hot=ROOM - COLD, room=ROOM)
    assert not evict_cold(cold=COLD, hot=ROOM - COLD, room=ROOM)
    assert evict_cold(cold=1, hot=0, room=ROOM)
    assert replacement.evict_cold(cold=0, hot=0, room=ROOM)
