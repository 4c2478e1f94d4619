"""What real mounts in tests need, and the two rules for every test: it ends in time, and it leaves nothing behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.mounts import Leftovers, Mounts, reap
from tests.servers import MisbehavingOrigin, Nginx

TIME = 120
"""Seconds that one test may take, its fixtures included."""


def pytest_configure() -> None:
    """Let SIGINT end what the tests start: `tools/test &` in a script comes with it ignored, and that is inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Fail a test that takes too long, wherever it waits."""

    def out_of_time(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"the test has not ended within {TIME} s")

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(TIME)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _leaves_nothing(_bounded: None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test after which a mount, a daemon or a loop device of ours is there; clean up after it all the same.

    It needs `tmp_path` to be done before that is deleted, by pytest's own process, which must not meet a mount there.
    """
    base = tmp_path_factory.getbasetemp()
    yield
    left = Leftovers.settled(base)
    if left:
        left.remove()
    reap()
    if left:
        pytest.fail(f"the test left behind: {left}")


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """Make mounts: `mounts(SOURCE..., options=[...])`; they are gone after the test, however it ends."""
    mounts = Mounts(tmp_path)
    yield mounts
    mounts.end()


@pytest.fixture
def docroot(tmp_path: Path) -> Path:
    """The directory that `nginx` serves, empty."""
    directory = tmp_path / "docroot"
    directory.mkdir()
    return directory


@pytest.fixture
def nginx(tmp_path: Path, docroot: Path) -> Iterator[Nginx]:
    """An nginx that serves `docroot`."""
    with Nginx(tmp_path / "nginx", docroot) as nginx:
        yield nginx


@pytest.fixture
def origin(docroot: Path) -> Iterator[MisbehavingOrigin]:
    """The misbehaving origin; it has the files of `docroot`, too."""
    with MisbehavingOrigin(docroot) as origin:
        yield origin
