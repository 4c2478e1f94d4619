"""Daemons that are killed at random moments, several of one store: every byte is right, and nothing is to be mended.

`tools/crash` does the same as often as one likes.
"""

from __future__ import annotations

from pathlib import Path

from tests.processes.crash import campaign


def test_a_few_kills(tmp_path: Path) -> None:
    tally = campaign(tmp_path, 6, 1, scale=2, kills_a_life=6)
    assert not tally.wrong
    assert tally.kills >= 6
    assert tally.hit["blocks locked"]
    assert tally.hit["answers cut short"]
