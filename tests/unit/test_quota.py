"""The quota: what is reserved by whom, and what a killed process leaves of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyfs import records
from lazyfs.errors import StoreError
from lazyfs.store import holes
from lazyfs.store import quota as quota_module
from lazyfs.store.layout import Layout
from lazyfs.store.quota import LARGEST_BATCH, UNKNOWN, QuotaKeeper
from tests.unit.stores import layout

__all__ = ["layout"]

MIB = 1 << 20
BOUND = 64 * MIB
BATCH = BOUND // quota_module.BATCHES


@contextmanager
def keeper(layout: Layout, *, used: int | None = 0, bound: int = BOUND, min_free: int = 0) -> Iterator[QuotaKeeper]:
    """A process's keeper, of a store that was measured."""
    keeper = QuotaKeeper(layout)
    try:
        keeper.set_bounds(bound, min_free)
        if used is not None:
            keeper.recount(lambda: used)
        yield keeper
    finally:
        keeper.close()


def write(keeper: QuotaKeeper, length: int) -> None:
    """Reserve and write."""
    assert keeper.take(length) == 0
    keeper.written(length)


def test_the_bound_is_never_passed_and_can_be_reached(layout: Layout) -> None:
    with keeper(layout) as ours:
        blocks = 0
        while not ours.take(MIB):
            ours.written(MIB)
            blocks += 1
        assert blocks == 64
        assert ours.take(MIB) == MIB
        with ours.freeing(MIB):
            pass
        assert ours.take(MIB) == 0


def test_two_processes_share_the_bound(layout: Layout) -> None:
    with keeper(layout) as ours, keeper(layout, used=None) as theirs:
        for _ in range(32):
            write(ours, MIB)
            write(theirs, MIB)
        assert ours.take(MIB)
        assert theirs.take(MIB)


def test_what_is_in_the_pool_is_had_at_once_and_the_pool_is_stocked_within_the_bound(layout: Layout) -> None:
    with keeper(layout) as ours, keeper(layout, used=None) as theirs:
        assert not ours.take_at_once(1), "nothing is"
        ours.restock()
        assert ours.take_at_once(BATCH)
        assert not ours.take_at_once(1)
        ours.unused(BATCH)
        ours.restock()
        assert ours.look().used == BATCH, "it is full"
        with ours._mutex:
            assert not ours.take_at_once(1), "another thread is at it"
        write(theirs, BOUND - BATCH)
        assert ours.take_at_once(BATCH)
        ours.written(BATCH)
        ours.restock()
        assert not ours.take_at_once(1), "there is no more room"
        assert ours.look().used == BOUND


def test_what_was_reserved_and_not_used_goes_back(layout: Layout) -> None:
    with keeper(layout) as ours:
        with keeper(layout, used=None) as theirs:
            write(theirs, 1000)
            assert theirs.take(2000) == 0
            theirs.unused(2000)
            assert ours.look().used == BATCH
        assert ours.look().used == 1000


def test_bounds_are_the_stores_and_outlive_who_set_them(layout: Layout) -> None:
    with keeper(layout) as ours, keeper(layout, bound=2 * MIB, min_free=5):
        assert ours.take(3 * MIB) == MIB
    with closing(QuotaKeeper(layout)) as later:
        later.set_bounds(None, None)
        assert (later.look().max_cache, later.look().min_free) == (2 * MIB, 5)
        later.set_bounds(0, None)
        assert later.take(3 * MIB) == 0


def test_a_file_system_that_cannot_free_parts_of_files_can_have_no_bound(layout: Layout) -> None:
    unsupported = mock.patch.object(holes, "punch", side_effect=OSError(errno.EOPNOTSUPP, "Operation not supported"))
    with closing(QuotaKeeper(layout)) as ours, unsupported:
        ours.set_bounds(0, None)
        with pytest.raises(StoreError, match="put the store on"):
            ours.set_bounds(MIB, None)


def test_what_must_stay_free_stays_free(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(layout.path)
    free = disk.f_bavail * disk.f_frsize
    monkeypatch.setattr(os, "fstatvfs", lambda _: disk)
    with keeper(layout, bound=0, min_free=free - 3 * MIB) as ours:
        assert ours.take(4 * MIB) == MIB
        assert ours.excess() == 0
        assert ours.take(3 * MIB) == 0


def test_nothing_is_reserved_within_a_bound_before_it_is_known_what_is_there(layout: Layout) -> None:
    with keeper(layout, used=None) as ours:
        assert ours.take(1) > UNKNOWN // 2
        ours.recount(lambda: 10 * MIB)
        assert ours.take(1) == 0
        assert ours.look().used == 10 * MIB + BATCH


def test_without_a_bound_it_need_not_be_known(layout: Layout) -> None:
    with keeper(layout, used=None, bound=0) as ours:
        assert ours.take(1) == 0
        ours.written(1)
        ours.recount(lambda: 1)
        assert ours.look().used == 1 + LARGEST_BATCH - 1  # and what is reserved


KILLED = """
import os, sys
from pathlib import Path
from lazyfs.store.layout import open_layout
from lazyfs.store.quota import QuotaKeeper
keeper = QuotaKeeper(open_layout(Path(sys.argv[1])))
assert keeper.take(1000) == 0
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(layout: Layout) -> Iterator[subprocess.Popen[str]]:
    """A process that has reserved a batch and waits."""
    command = [sys.executable, "-c", KILLED, str(layout.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_what_a_killed_process_had_reserved_is_free_after_a_recount(layout: Layout) -> None:
    with keeper(layout) as ours:
        with other_process(layout) as other:
            ours.recount(lambda: 0)
            assert ours.look().used == BATCH  # it lives, and may write that much
            other.send_signal(signal.SIGKILL)
            other.wait(10)
        assert ours.look().used == BATCH
        ours.recount(lambda: 0)
        assert ours.look().used == 0


def test_a_slot_is_taken_over(layout: Layout) -> None:
    for _ in range(3):
        with other_process(layout):
            pass
    with keeper(layout) as ours:
        write(ours, 1)
    assert (layout.path / "quota").stat().st_size == records.QUOTA_SIZE + records.SLOT_SIZE


def test_a_process_that_stands_still_in_a_change_does_not_stop_the_others_for_ever(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_module, "_PATIENCE", 0.05)
    with keeper(layout) as ours, keeper(layout, used=None) as theirs:
        with theirs._changing(), pytest.raises(StoreError, match="does not go on"):
            ours.take(MIB)
        assert ours.take(MIB) == 0


@pytest.mark.parametrize("damage", [b"", b"garbage" * 20, None], ids=["empty", "garbage", "a flipped bit"])
def test_a_damaged_quota_is_counted_anew_and_keeps_the_bounds_that_somebody_knows(
    layout: Layout, damage: bytes | None
) -> None:
    path = layout.path / "quota"
    with keeper(layout) as ours:
        write(ours, MIB)
        content = bytearray(path.read_bytes())
        content[30] ^= 4
        path.write_bytes(content if damage is None else damage)
        assert ours.look().used == UNKNOWN
        ours.recount(lambda: MIB)
        assert ours.take(MIB) == 0
        assert ours.look().max_cache == BOUND
    with closing(QuotaKeeper(layout)) as later:
        assert later.look().max_cache == BOUND


def test_recounting_while_others_reserve_and_write_never_counts_too_little(layout: Layout) -> None:
    with keeper(layout) as ours, keeper(layout, used=None) as theirs:
        write(ours, MIB)

        def measure() -> int:
            seen = MIB  # looked at before the others wrote
            write(theirs, 5 * MIB)
            write(ours, 3 * MIB)
            return seen

        ours.recount(measure)
        assert ours.look().used >= 9 * MIB
        ours.recount(lambda: 9 * MIB)
        assert ours.look().used <= 9 * MIB + 2 * BATCH


def test_what_goes_while_it_is_counted_is_not_taken_off_twice(layout: Layout) -> None:
    with keeper(layout) as ours, keeper(layout, used=None) as theirs:
        write(ours, 8 * MIB)
        with ours.freeing(MIB):
            theirs.recount(lambda: 7 * MIB)
        assert ours.look().used >= 7 * MIB
        theirs.recount(lambda: 7 * MIB)
        assert ours.look().used <= 7 * MIB + BATCH


def test_a_bound_that_others_outgrew_is_seen(layout: Layout) -> None:
    """Somebody copied data into the store: more is there than was ever counted."""
    with keeper(layout) as ours:
        ours.recount(lambda: 100 * MIB)
        assert ours.excess() == 36 * MIB


def test_threads_of_one_process(layout: Layout) -> None:
    with keeper(layout, bound=512 * MIB) as ours:

        def work() -> None:
            for _ in range(200):
                write(ours, 100_000)
                with ours.freeing(50_000):
                    pass

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with closing(QuotaKeeper(layout)) as later:
        assert later.look().used == 4 * 200 * 50_000


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "written", "unused", "freed", "recount"]), st.integers(0, 1), st.integers(1, MIB)
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_used_is_never_less_than_what_is_there(layout: Layout, steps: list[tuple[str, int, int]]) -> None:
    """Q1, over any order of what two processes do; the disk is a number."""
    disk = 0
    with keeper(layout, bound=4 * MIB) as one, keeper(layout, used=None, bound=4 * MIB) as two:
        taken: list[list[int]] = [[], []]
        for step, who, length in steps:
            ours = (one, two)[who]
            match step:
                case "take" if not ours.take(length):
                    taken[who].append(length)
                case "written" if taken[who]:
                    disk += taken[who][-1]
                    ours.written(taken[who].pop())
                case "unused" if taken[who]:
                    ours.unused(taken[who].pop())
                case "freed" if disk:
                    with ours.freeing(gone := min(disk, length)):
                        disk -= gone
                case "recount":
                    ours.recount(partial(int, disk))
            reserved = sum(map(sum, taken))
            assert disk + reserved <= one.look().used <= 4 * MIB


def test_who_has_a_deleted_file_goes_over_to_the_new_one_and_takes_the_bounds_along(layout: Layout) -> None:
    with keeper(layout) as ours, keeper(layout) as theirs:
        write(ours, MIB)
        (layout.path / "quota").unlink()
        for each in (ours, theirs):
            assert each.take(MIB) > BOUND, "it has to be measured first"
        ours.recount(lambda: 3 * MIB)
        write(ours, MIB)
        write(theirs, MIB)
        for each in (ours, theirs):
            assert each.look().max_cache == BOUND
            assert 5 * MIB <= each.look().used <= 5 * MIB + 2 * BATCH
