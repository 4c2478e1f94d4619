"""Daemons that are killed at random moments, several of one store: every byte is right, and nothing is to be mended.

`tools/crash` does the same as often as one likes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.processes.crash import campaign


def test_a_few_kills(tmp_path: Path) -> None:
    hit = Counter[str]()
    for seed in range(1, 13):  # a few kills may miss what they are to hit
        (place := tmp_path / str(seed)).mkdir()
        tally = campaign(place, 6, seed, scale=2, kills_a_life=6)
        assert not tally.wrong
        assert tally.kills >= 6
        hit.update(tally.hit)
        if hit["blocks locked"] and hit["answers cut short"]:
            return
    raise AssertionError(f"they hit only {hit}")
