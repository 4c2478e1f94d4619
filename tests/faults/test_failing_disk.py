"""Some of what `tools/disk-trouble` does for every call: a call on the store's files fails, and no reader sees it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import mounts as real
from tests import under
from tests.faults.disk_trouble import Walker, walker
from tests.faults.failing_disk import KINDS, Fault, Mode, Plan, build
from tests.mounts import Mounts, alive, on_mount
from tests.servers import Nginx


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    with walker(tmp_path_factory.mktemp("walk")) as walked:
        yield walked


@pytest.mark.parametrize("error", KINDS)
def test_no_reader_sees_that_a_call_fails(walked: Walker, error: str) -> None:
    calls = walked.calls(error)
    assert calls > 100, "the script does something"
    due = [Fault(error, Mode.ONCE, n) for n in range(7, calls, calls // 5)]
    due += [Fault(error, Mode.FROM, calls // 3), Fault(error, Mode.EVERY, 3)]
    outcomes = [walked.attempt(fault) for fault in due]
    assert [outcome["wrong"] for outcome in outcomes if outcome["wrong"]] == []
    assert sum(outcome["failed"] > 0 for outcome in outcomes) > len(due) / 2
    assert "read" in {outcome["end"] for outcome in outcomes}


def test_a_daemon_lives_on_a_disk_where_nothing_works(
    tmp_path: Path, mounts: Mounts, nginx: Nginx, docroot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = random.Random(3).randbytes(5 << 20)
    for name in ("one", "two"):
        (docroot / name).write_bytes(content)
    plan = Plan(tmp_path / "plan", below=mounts.store)
    for name, value in plan.environment(build(tmp_path)).items():
        monkeypatch.setitem(real.ENVIRONMENT, name, value)
    mount = mounts(f"{nginx.url}/")
    assert on_mount(under.read, mount.path("one"), 0, 1 << 20) == content[: 1 << 20]
    plan.arm(Fault("EIO", Mode.FROM, 1))
    assert on_mount(under.read, mount.path("one")) == content
    assert on_mount(under.read, mount.path("two")) == content
    assert on_mount(under.names, mount.path()) == ["one", "two"]
    _, failed = plan.disarm()
    assert failed > 2
    assert alive(mount.pid)
    status = mount.status()
    assert (status["degraded"], status["counters"]["errors"]) == ("Input/output error", 0)
    assert "Traceback" not in mount.log()
    mount.umount()
