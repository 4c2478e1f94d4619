"""Mounts in several processes share one store: each byte is asked for once, and the death of one stops no other.

`tools/soak` does the same with any size and as often as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import under
from tests.mounts import Mounts, on_mount
from tests.processes import sharing
from tests.servers import Nginx

SIZE = 64 << 20
PATIENCE = 60.0

LONGEST_PAUSE = 3.0
"""Seconds without a byte for a reader after another process's death: 1 is promised, on a machine that is not busy."""


@pytest.fixture
def digest(docroot: Path) -> str:
    return sharing.make_blob(docroot, SIZE)


@pytest.fixture
def slow_nginx(tmp_path: Path, docroot: Path) -> Iterator[Nginx]:
    """An nginx that sends so slowly that a daemon dies in the middle of what it fetches."""
    with Nginx(tmp_path / "nginx", docroot, server="limit_rate 16m;") as nginx:
        yield nginx


def test_four_mounts_and_eight_readers_cost_the_origin_each_byte_once(
    mounts: Mounts, nginx: Nginx, digest: str
) -> None:
    outcome = sharing.share(mounts, nginx, digest, patience=PATIENCE)
    assert outcome.wrong() == []
    assert outcome.fetched_twice() == []
    assert SIZE <= outcome.body_bytes <= SIZE + 4, "and a byte of metadata for each mount"


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_daemon_stops_nobody_else(mounts: Mounts, slow_nginx: Nginx, digest: str, seed: int) -> None:
    outcome = sharing.lose_one(mounts, slow_nginx, digest, size=SIZE, seed=seed, patience=PATIENCE)
    assert outcome.wrong() == []
    assert outcome.longest_gap < LONGEST_PAUSE
    assert outcome.body_bytes < SIZE * 1.5, "what the dead one had not committed, and what was on its way to it"


def test_what_a_killed_daemon_committed_is_not_fetched_again(mounts: Mounts, nginx: Nginx, digest: str) -> None:
    first = mounts(f"{nginx.url}/{sharing.BLOB}")
    assert on_mount(under.sha256, first.path(sharing.BLOB)) == digest
    first.kill()
    nginx.forget()
    second = mounts(f"{nginx.url}/{sharing.BLOB}")
    assert on_mount(under.sha256, second.path(sharing.BLOB)) == digest
    assert nginx.body_bytes() <= sum(16 * 256 * 1024 for _ in range(2)), "what had landed and was not yet written"
