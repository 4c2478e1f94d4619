"""What `tools/answers` times."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def listings(path: str, seconds: float) -> list[float]:
    """Do what `ls -l` does, again and again, and return how long each took. For a process of its own."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        with os.scandir(path) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
        times.append(time.monotonic() - began)
        time.sleep(0.01)
    return times


def commands(words: Sequence[str], seconds: float) -> list[float]:
    """Run a command again and again, and return how long each run took."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True, timeout=60)
        times.append(time.monotonic() - began)
        time.sleep(0.01)
    return times


def inside(store: Path, seconds: float) -> dict[str, list[float]]:
    """Do what `lazyfs ls` and `status` do, without the start of an interpreter."""
    from lazyfs.cli import showing  # `listings` runs where there is no click

    asked: dict[str, Callable[[], None]] = {
        "lazyfs ls, inside": lambda: showing.list_blobs(store, as_json=True),
        "lazyfs status, inside": lambda: showing.status(None, store, as_json=True),
    }
    times: dict[str, list[float]] = {name: [] for name in asked}
    end = time.monotonic() + seconds
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        while time.monotonic() < end:
            for name, ask in asked.items():
                began = time.monotonic()
                ask()
                times[name].append(time.monotonic() - began)
                time.sleep(0.01)
    return times
