"""A small part of what `tools/fuzz-layers` does: other damage at each run, and the same for who has its seed."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest


@pytest.mark.parametrize("kind", ["tar", "table", "layer", "packed"])
def test_damaged_layers_are_refused_in_one_line(kind: str) -> None:
    seed = random.SystemRandom().randrange(10**9)
    words = [sys.executable, "-m", "tests.layers.fuzz", "--rounds", "300", "--seed", str(seed), "--only", kind]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"--seed {seed}\n{done.stdout}{done.stderr}"
