"""What a process does to a store, in order: run under recorder.c, and read back."""

from __future__ import annotations

import enum
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mounts import ENVIRONMENT, ROOT

PATIENCE: Final = 120.0
"""Seconds for one run."""

_HEAD: Final = struct.Struct("<5Q")


class Kind(enum.IntEnum):
    """As in recorder.c."""

    WRITE = 1
    TRUNCATE = 2
    PUNCH = 3
    SYNC = 4
    CREATE = 5
    MKDIR = 6
    RENAME = 7
    UNLINK = 8
    RMDIR = 9
    MARK = 10


@dataclass(frozen=True, slots=True)
class Op:
    """One operation; `path` is below the store, empty for the store itself.

    *Units*: bytes. `start` is where a write or a hole begins, or the size that a file is cut to; `length` a hole's;
    `content` what is written, or the new path of what is renamed.
    """

    kind: Kind
    path: str
    start: int = 0
    length: int = 0
    content: bytes = b""


def quick_directory() -> str | None:
    """Return a place in memory, where the syncs of hundreds of stores cost nothing; None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def record(seed: int, fault: str) -> list[Op]:
    """Run the workload on a new store, with a planted fault if one is named, and return what it did to it."""
    with tempfile.TemporaryDirectory(prefix="lazyfs-powerloss-", dir=quick_directory()) as name:
        base = Path(name).resolve()
        command: list[str | Path] = [
            "cc",
            "-O1",
            "-shared",
            "-fPIC",
            "-o",
            base / "recorder.so",
            Path(__file__).with_name("recorder.c"),
        ]
        subprocess.run(command, check=True, timeout=PATIENCE)
        subprocess.run(
            [sys.executable, "-m", "tests.powerloss.workload", base / "store", str(seed), fault],
            cwd=ROOT,
            env={
                **ENVIRONMENT,
                "RECORD_BELOW": str(base / "store"),
                "RECORD_TO": str(base / "log"),
                "LD_PRELOAD": str(base / "recorder.so"),
            },
            check=True,
            timeout=PATIENCE,
        )
        return [op for op in _parse((base / "log").read_bytes()) if _matters(op)]


def _matters(op: Op) -> bool:
    """Leave out the catalogue's shared memory, which SQLite makes anew, and what a mount keeps in `run`."""
    return not op.path.endswith("-shm") and not op.path.startswith("run/")


def _parse(log: bytes) -> Iterator[Op]:
    position = 0
    while position < len(log):
        kind, start, length, path_length, content_length = _HEAD.unpack_from(log, position)
        position += _HEAD.size
        path, content = log[position : position + path_length], log[position + path_length :][:content_length]
        position += path_length + content_length
        yield Op(Kind(kind), os.fsdecode(path).strip("/"), start, length, content)
