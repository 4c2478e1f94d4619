"""Requests that fail in every way leave nothing behind; `tools/leaks` is the long version."""

from __future__ import annotations

import sys

from tests.mounts import run


def test_nothing_is_left_of_requests_that_fail_in_every_way() -> None:
    """In a process of its own, whose descriptors, connections and memory are nobody else's."""
    done = run([sys.executable, "-m", "tests.faults.leaks", "--requests", "1500", "--readers", "96"], 110)
    assert done.stdout.splitlines()[-1].startswith("ok")
