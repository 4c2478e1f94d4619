"""Locks, seen from two open file descriptions and from two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.extents import Extent
from lazyfs.store.locks import BlobLocks

HOLDER = """
import os, sys
from lazyfs.extents import Extent
from lazyfs.store.locks import BlobLocks
locks = BlobLocks(os.open(sys.argv[1], os.O_RDWR))
print(len(locks.try_blocks(Extent(3, 5))), locks.try_use(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BlobLocks, BlobLocks]]:
    """The locks of one blob, as two processes have them."""
    path = tmp_path_factory.mktemp("locks") / "lock"
    fds = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2)]
    yield BlobLocks(fds[0]), BlobLocks(fds[1])
    for fd in fds:
        os.close(fd)


@given(st.sets(st.integers(0, 12)), st.integers(0, 12), st.integers(0, 13))
def test_as_many_as_are_free_from_the_start_on(
    pair: tuple[BlobLocks, BlobLocks], held: set[int], start: int, length: int
) -> None:
    ours, theirs = pair
    for index in sorted(held):  # neighbours merge into one lock, so the conflict may begin below the run
        assert theirs.try_blocks(Extent(index, index + 1))
    stop = next((index for index in range(start, start + length) if index in held), start + length)
    got = ours.try_blocks(Extent(start, start + length))
    assert list(got.blocks()) == list(range(start, stop))
    for index in range(14):
        free = index not in got and index not in held
        third = theirs.try_blocks(Extent(index, index + 1)) if index not in held else Extent(0, 0)
        assert bool(third) == free
    ours.release_blocks(Extent(0, 20))
    theirs.release_blocks(Extent(0, 20))
    assert len(ours.try_blocks(Extent(0, 20))) == 20
    ours.release_blocks(Extent(0, 20))


def test_in_use_is_shared_and_removal_is_alone(pair: tuple[BlobLocks, BlobLocks]) -> None:
    ours, theirs = pair
    assert ours.try_use()
    assert theirs.try_use()
    assert not ours.try_own()
    assert ours.try_blocks(Extent(0, 1 << 60))  # blocks are apart from it
    ours.release_blocks(Extent(0, 1 << 60))
    assert theirs.try_set_up()
    assert not ours.try_set_up()
    theirs.end_set_up()
    assert ours.try_set_up()
    ours.end_set_up()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    locks = BlobLocks(fd)
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() == [b"2", b"True"]
        assert locks.try_blocks(Extent(0, 9)) == Extent(0, 3)
        assert not locks.try_blocks(Extent(4, 9))
        assert not locks.try_own()
        os.close(os.open(path, os.O_RDWR))  # closing some other descriptor of the file drops nothing of ours
        holder.kill()
    assert locks.try_blocks(Extent(3, 9)) == Extent(3, 9)
    assert locks.try_own()
    os.close(fd)
