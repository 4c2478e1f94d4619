"""Programs that are started, bounded, measured and ended: the only module of the bench that does so.

What a subject uses is what its processes use, whoever started them: each has a mark in its environment, which its
children inherit and daemons keep. The processes that read are not among them. So the copying that the kernel does in
a reader counts for nobody, as it would not for the local file, and what it does in a daemon's name counts for the
subject.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mounts import ENVIRONMENT, ROOT, wait_for_end

LIMIT = 45.0
"""Seconds for what is not asked to read a whole blob: a bound, not an expectation."""

SLOWEST = 5 << 20
"""Bytes a second that a reading may be expected to get, at least."""

MOMENT = 20.0
"""Seconds for what should take a moment: to mount, to unmount, to end."""

MARK = "LAZYFS_BENCH_SUBJECT"

Words = Sequence[str | Path]


class Trouble(Exception):
    """A program failed; the message says which and how, in one line."""


class Hung(Trouble):
    """A program did not end in time."""


_stuck: list[subprocess.Popen[str]] = []
"""Programs that were killed and may be stuck in the kernel until their mount is gone."""


def limit(size: int) -> float:
    """Return the seconds that reading so many bytes may take."""
    return LIMIT + size / SLOWEST


def run(words: Words, within: float = LIMIT, *, environment: dict[str, str] | None = None) -> str:
    """Run a program that must succeed and return what it prints. *Raises*: Trouble."""
    shown = " ".join(str(word)[:120] for word in words)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        list(words), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace",
        cwd=ROOT, env=environment or ENVIRONMENT,
    )  # fmt: skip
    _stuck.append(process)
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Hung(f"{shown}: not done within {within:.0f} s; the machine is too slow, or it hangs") from None
    _stuck.remove(process)
    if process.returncode != 0:
        raise Trouble(f"{shown}: exit status {process.returncode}: {' '.join(err.split())[-300:]}")
    return out


def reap() -> None:
    """End the programs that nobody has waited for; the mounts that they may hang in must be gone."""
    while _stuck:
        process = _stuck.pop()
        process.kill()
        process.communicate(timeout=MOMENT)


class Group:
    """All processes of one subject, and what they say; leaving it ends them."""

    def __init__(self, output: Path) -> None:
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.environment = {**ENVIRONMENT, name: value}
        self._output = output
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, words: Words) -> subprocess.Popen[bytes]:
        """Start a program that goes on by itself."""
        with self._output.open("ab") as file:
            process = subprocess.Popen(
                list(words), stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT, env=self.environment
            )
        self._started.append(process)
        return process

    def said(self) -> str:
        """Return the end of what the programs said, in one line."""
        return " ".join(self._output.read_text(errors="replace").split())[-300:] if self._output.exists() else ""

    def pids(self) -> list[int]:
        """Return the processes that have the mark."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found

    def cpu(self) -> float:
        """Return the seconds of processor time that they have used, with their children that have ended."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def watch_memory(self) -> Iterator[list[int]]:
        """Look at the memory a few times a second, and at the end; yields the bytes that were seen."""
        pids, over = self.pids(), threading.Event()
        seen = [_memory(pids)]

        def look() -> None:
            while not over.wait(0.2):
                seen.append(_memory(pids))

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield seen
        finally:
            over.set()
            watcher.join()
        seen.append(_memory(self.pids()))

    def end(self) -> None:
        """End them, the hard way if they do not go by themselves."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(TimeoutError):
                wait_for_end(pids, MOMENT)
                break
        for process in self._started:
            process.wait(MOMENT)
        self._started.clear()


def _memory(pids: list[int]) -> int:
    """Return the bytes of memory that processes have, what they share counted once (the sum of their PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def timed(words: Words, size: int, environment: dict[str, str]) -> tuple[float, float]:
    """Run a program that reads so much; return the seconds that it took and its processor time. *Raises*: Trouble."""
    before, began = os.times(), time.monotonic()
    run(words, limit(size), environment=environment)
    seconds, after = time.monotonic() - began, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used
