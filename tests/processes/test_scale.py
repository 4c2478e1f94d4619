"""`tools/scale`: what it calls too fast, and a short run of it, in which nothing depends on the time it takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.mounts import run
from tests.processes.scale import MEMORY, PROCESSOR, SECONDS, Table
from tests.processes.scaling import Step


def shown(*steps: Step) -> list[str]:
    table = Table(most=1.5)
    for step in steps:
        table.show(step)
    return table.grown


def step(work: int, seconds: float = 0.0, processor: float = 0.0, memory: int = 0) -> Step:
    return Step("names: read", work, seconds, processor, memory)


@pytest.mark.parametrize(
    "large",
    [
        step(1000, 10.0, 10.0, 10 << 30),
        step(1000, 14.9, 14.9, 14 << 30),
        step(1000, 15.0 + SECONDS, 15.0 + PROCESSOR, (15 << 30) + MEMORY),
    ],
)
def test_what_grows_with_its_work_may(large: Step) -> None:
    assert shown(step(100, 1.0, 1.0, 1 << 30), large) == []


def test_what_grows_faster_than_its_work_is_named() -> None:
    before = step(100, 1.0, 1.0, 1 << 30)
    assert shown(before, step(1000, 18.0)) == ["names: read: its seconds grew 1.8 times as fast as its work"]
    assert "processor grew 3.0 times" in shown(before, step(1000, processor=30.0))[0]
    assert "memory grew 2.0 times" in shown(before, step(1000, memory=20 << 30))[0]
    assert len(shown(before, step(1000, 18.0), step(10_000, 400.0))) == 2, "each size is compared with the one before"


def test_the_same_work_may_take_a_moment_longer() -> None:
    assert shown(step(300, 0.1, 0.1), step(300, 2.1, 0.6)) == []
    assert shown(step(300, 0.1), step(300, 2.3)) != []
    assert shown(step(300, 0.1, 0.1), step(300, 0.1, 0.7)) != []


def test_a_short_run(tmp_path: Path) -> None:
    sizes = {"names": "100,2000", "blob": "4T", "mounts": "2", "files": "20"}
    module: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.processes.scale",
        "--directory",
        tmp_path,
        "--most",
        "1000",
        "--idle",
        "0",
    ]
    for what, size in sizes.items():
        module += ["--only", what, f"--{what}", size]
    lines = run(module, 100).stdout.splitlines()
    steps = [line.split("  ")[0] for line in lines]
    assert steps.count("names: in the mount") == 2, lines
    for what in ("blob: half of it evicted", "blob: lazyfs rm", "mounts: gone", "files: opened and read, each"):
        assert steps.count(what) == 1, lines
