"""A mount outlives its daemons under load: no error, every byte right, nothing left.

`tools/outlive` does the same for as long as one likes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.outlive import ending
from tests.outlive.campaign import WAYS, Plan, outlive
from tests.outlive.scene import serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount images")

SCALE = 2


def test_daemons_that_are_killed_and_upgraded_under_load(tmp_path: Path) -> None:
    with serving(tmp_path / "scene", SCALE) as scene:
        outcome = outlive(scene, Plan([*WAYS["kill"] * 6, *WAYS["upgrade"]], every=1.0, times=7))
    assert not outcome.wrong
    assert len(outcome.takeovers) == 7
    assert outcome.past


def test_the_end_of_both_processes_leaves_nothing_stale(tmp_path: Path) -> None:
    with serving(tmp_path / "scene", SCALE) as scene:
        assert not ending.parent(scene).wrong
