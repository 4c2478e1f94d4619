"""The kernel's mount table, read without touching any mount: a look at a stuck one would hang."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FSTYPE = "fuse.lazyfs"
"""The type under which our mounts stand in the table."""

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table; `device` is `MAJOR:MINOR`."""

    mountpoint: str
    fstype: str
    device: str
    source: str

    @property
    def minor(self) -> int:
        """The device's minor number: the name of a FUSE connection under /sys/fs/fuse/connections."""
        return int(self.device.partition(":")[2])


def mounts() -> Iterator[Mounted]:
    """Yield the mounts of this mount namespace, later ones over earlier ones. *Source*: proc_pid_mountinfo(5)."""
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        words, (fstype, source, *_options) = fields.split(" "), rest.split(" ")
        yield Mounted(_unescape(words[4]), fstype, words[2], _unescape(source))


def mount_at(path: str) -> Mounted | None:
    """Return what is mounted exactly at `path` (absolute and normal), the topmost; None for nothing."""
    found = None
    for mounted in mounts():
        if mounted.mountpoint == path:
            found = mounted
    return found


def mount_over(path: str) -> Mounted | None:
    """Return the mount that holds `path` (absolute and normal)."""
    found = None
    for mounted in mounts():
        base = mounted.mountpoint.rstrip("/") + "/"
        if (path + "/").startswith(base) and (found is None or len(base) >= len(found.mountpoint.rstrip("/") + "/")):
            found = mounted
    return found


def unmount_command(mountpoint: str, *, lazy: bool, abort: bool = False) -> list[str]:
    """Return the command that unmounts: fusermount3 for users, umount for root, which needs no help.

    With `abort`, whoever waits for an answer has an error at once, if we are root.
    """
    if os.geteuid() == 0:
        return ["umount", *(["-l"] if lazy else []), *(["-f"] if abort else []), mountpoint]
    return ["fusermount3", "-u", *(["-z"] if lazy else []), mountpoint]


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
