"""Damage to the store's files, a few cases of each kind; `tools/damage` is all of it."""

from __future__ import annotations

import sys

import pytest

from tests.mounts import run


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "catalogue.db", "--cases", "20"],
        ["--only", "quota", "--cases", "6"],
        ["--cases", "30"],
        ["--cases", "0", "--mounts", "3", "--only", " in use"],
    ],
    ids=["catalogue", "quota", "anything", "mounts"],
)
def test_damage_is_never_a_wrong_byte_a_hang_or_a_traceback(words: list[str]) -> None:
    done = run([sys.executable, "-m", "tests.faults.damage", "--mounts", "0", *words], 110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("ok")
