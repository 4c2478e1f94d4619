"""Real processes on one store: every byte comes from the origin once, and who is killed holds nobody up."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.model.world import content_of, locked
from tests.servers import Nginx

SIZE = 16 * 1024 * 1024 + 4321
CONTENT = content_of(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = 30.0
READER = Path(__file__).with_name("reader.py")


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """An nginx with the blob, slow enough that there is a middle to be killed in."""
    docroot = tmp_path / "docroot"
    docroot.mkdir()
    (docroot / "blob").write_bytes(CONTENT)
    with Nginx(tmp_path / "nginx", docroot, server="limit_rate 4m;") as nginx:
        yield nginx


class Reader:
    """A process that is about to read the blob."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert self._pipe(process.stdout).readline() == "begun\n"

    def go(self) -> None:
        """Let it read."""
        self._pipe(self.process.stdin).write("go\n")
        self._pipe(self.process.stdin).flush()

    def result(self) -> dict[str, Any]:
        """What it found, at its end."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0
        return dict(json.loads(out))

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@contextmanager
def readers(store: Path, url: str, pieces: list[int]) -> Iterator[list[Reader]]:
    """Start processes that read the blob, each in pieces of its own; they are gone at the end."""
    with ExitStack() as stack:
        processes = []
        for piece in pieces:
            command = [sys.executable, str(READER), str(store), url, str(piece)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        yield [Reader(process) for process in processes]


def assert_at_rest(store: Path) -> None:
    """See that nobody holds a lock of the one blob there is, not even that it is in use."""
    (directory,) = store.glob("blobs/*/*")
    assert locked(directory) is None
    assert hashlib.sha256((directory / "data").read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize("pieces", [[1 << 17, 1 << 17], [1 << 20, 5000, 99_999]], ids=["two alike", "three unlike"])
def test_each_byte_comes_once(tmp_path: Path, nginx: Nginx, pieces: list[int]) -> None:
    with readers(tmp_path / "store", f"{nginx.url}/blob", pieces) as processes:
        for process in processes:
            process.go()
        results = [process.result() for process in processes]
    assert [result["sha256"] for result in results] == [SHA256] * len(pieces)
    # One byte came with each look-up; the blob's own first byte may be one of these.
    assert SIZE - 1 <= nginx.body_bytes() <= SIZE + len(pieces)
    assert sum(result["blocks_fetched"] for result in results) == -(-SIZE // (1 << 16))
    assert_at_rest(tmp_path / "store")


@pytest.mark.parametrize("seed", range(5))
def test_one_is_killed_in_the_middle(tmp_path: Path, nginx: Nginx, seed: int) -> None:
    rng = random.Random(seed)
    with readers(tmp_path / "store", f"{nginx.url}/blob", [1 << 17, 1 << 17]) as (first, second):
        first.go()
        if rng.random() < 0.5:
            second.go()
        with pytest.raises(subprocess.TimeoutExpired):  # its end would be news
            first.process.wait(rng.uniform(0.01, 0.3))
        first.process.kill()
        second.go()
        assert second.result()["sha256"] == SHA256
    # What the killed one had received and not committed comes again, and nothing else.
    assert nginx.body_bytes() < 2 * SIZE
    assert_at_rest(tmp_path / "store")


def test_who_waits_takes_over_from_a_stopped_and_then_killed_process(tmp_path: Path, nginx: Nginx) -> None:
    """The killed one holds locks for certain: it stands still in the middle of its fetch."""
    with readers(tmp_path / "store", f"{nginx.url}/blob", [1 << 17, 1 << 17]) as (first, second):
        first.go()
        with pytest.raises(subprocess.TimeoutExpired):
            first.process.wait(0.1)
        first.process.send_signal(signal.SIGSTOP)
        second.go()
        with pytest.raises(subprocess.TimeoutExpired):
            second.process.wait(0.3)
        first.process.kill()
        assert second.result()["sha256"] == SHA256
    assert_at_rest(tmp_path / "store")
