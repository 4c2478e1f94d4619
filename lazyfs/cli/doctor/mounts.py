"""Running mounts: whether their daemons answer. Nobody looks at the mounts themselves, which may be stuck."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from lazyfs import control
from lazyfs.cli.doctor.findings import Finding, note, ok, problem
from lazyfs.cli.mounting import socket_of, store_of
from lazyfs.cli.showing import counted
from lazyfs.mountinfo import Mounted

PATIENCE: Final = 3.0
"""Seconds for a daemon's answer, which takes it milliseconds."""


def look(mounted: Mounted) -> Iterator[Finding]:
    """Ask a mount's daemon how it does."""
    where, store = mounted.mountpoint, store_of(mounted)
    if os.geteuid() != 0 and store.is_dir() and not os.access(store, os.X_OK):
        yield note(where, "a mount of another user, who alone can ask it")
        return
    socket = socket_of(mounted)
    away = f"lazyfs umount {shlex.quote(where)}"
    try:
        with closing(control.Connection(socket, PATIENCE)) as connection:
            *_, status = connection.request("status")
    except control.Unreachable:
        if control.is_dead(socket):
            yield problem(where, "its daemon is dead: whoever looks there has an error", f"{away}; or mount it again")
        else:
            yield problem(where, "its daemon cannot be asked", away)
    except control.ControlError as exc:
        yield problem(where, f"its daemon is there, and does not answer ({exc})", f"{away} --lazy")
    else:
        yield from _of_status(where, status)


def _of_status(where: str, status: dict[str, object]) -> Iterator[Finding]:
    files, problems = status["files"], status["problems"]
    assert isinstance(files, int)
    assert isinstance(problems, int)
    yield ok(where, f"{counted(files, 'file')}, daemon {status['pid']} answers")
    if reason := status.get("degraded"):
        yield note(where, f"its store takes nothing: {reason}", "see to the disk: df, dmesg")
    if problems:
        yield note(where, f"{counted(problems, 'name')} cannot be shown", f"lazyfs status {shlex.quote(where)}")
