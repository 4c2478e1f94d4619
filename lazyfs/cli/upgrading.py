"""upgrade: the code that is installed now takes over running mounts."""

from __future__ import annotations

import contextlib
import shlex
import time
from pathlib import Path
from typing import Any, Final

import click

from lazyfs import __version__, control, mountinfo
from lazyfs.cli.doing import Done
from lazyfs.cli.mounting import absolute, ask, connect, mounted_at
from lazyfs.cli.saying import complain
from lazyfs.errors import LazyfsError, UsageError

PATIENCE: Final = 150.0
"""Seconds for the next daemon to get ready, of which the supervisor allows 125."""

ANSWERS_WITHIN: Final = 30.0
"""Seconds for it to answer commands, once it answers the kernel."""


def upgrade(mountpoints: tuple[Path, ...], *, all_of_them: bool, as_json: bool) -> None:
    """Upgrade mounts, one after the other, and say what was done. *Raises*: LazyfsError, when not all of them are."""
    if all_of_them == bool(mountpoints):
        raise UsageError("name the mounts to upgrade, or say --all")
    if all_of_them:
        upgraded = [mounted for mounted in mountinfo.mounts() if mounted.fstype == mountinfo.FSTYPE]
    else:
        upgraded = [mounted_at(absolute(mountpoint)) for mountpoint in mountpoints]
    failed = list[str]()
    with Done(as_json=as_json) as done:
        for mounted in upgraded:
            try:
                now = _upgrade(mounted)
            except LazyfsError as exc:
                failed.append(f"{mounted.mountpoint} is not upgraded: {exc}")
                continue
            version, said = now.get("version"), {"mountpoint": mounted.mountpoint, "pid": now["pid"]}
            line = f"{mounted.mountpoint}: lazyfs {version or '?'} has taken over, daemon {now['pid']}"
            done.note(line, **said, version=version)
            if version != __version__:
                other = f"this command is of lazyfs {__version__}; that mount is of another installation"
                complain(f"{mounted.mountpoint}: {other}")
    if not upgraded and not as_json:
        click.echo("no mounts")
    for line in failed[:-1]:
        complain(line)
    if failed:
        raise LazyfsError(failed[-1])


def _upgrade(mounted: mountinfo.Mounted) -> dict[str, Any]:
    """Upgrade one mount and return the new daemon's status. *Raises*: LazyfsError, when it is not upgraded; why."""
    before = ask(mounted, "status")
    takeover = before.get("takeover", {"on": False, "reason": "it was mounted by a lazyfs that could not"})
    if not takeover["on"]:
        at = shlex.quote(mounted.mountpoint)
        raise LazyfsError(f"{takeover['reason']}; unmount it with: lazyfs umount {at}, and mount it again")
    with contextlib.closing(connect(mounted, PATIENCE)) as connection:
        try:
            for _ in connection.request("upgrade"):
                pass
        except control.Ended:  # it has: this is how it goes well
            pass
    deadline = time.monotonic() + ANSWERS_WITHIN
    while True:
        with contextlib.suppress(control.ControlError):
            now: dict[str, Any] = ask(mounted, "status")
            if now["pid"] != before["pid"]:
                return now
        if time.monotonic() > deadline:
            raise LazyfsError(f"the new daemon does not answer; see {before['log']}")
        time.sleep(0.02)
