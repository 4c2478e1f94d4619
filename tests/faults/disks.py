"""Small file systems of their own, to be filled, broken and made read-only: what a store may have to live on.

    with Disk(tmp_path / "disk", "ext4") as disk:
        mounts(url, store=disk.at / "store")
        disk.fill()

Only root may mount them. Nothing of them is left when they are left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Final, Self

from lazyfs import mountinfo
from lazyfs.store import running
from tests.mounts import run

MIB: Final = 1 << 20

KINDS: Final = {"tmpfs": 12 * MIB, "ext4": 24 * MIB, "xfs": 300 * MIB, "btrfs": 120 * MIB}
"""Kinds of file systems, each of about the smallest size that it can have."""

_SHUTDOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32)
_NOLOGFLUSH: Final = 2


def known(kind: str) -> bool:
    """Say whether this kernel knows a kind of file system."""
    if modprobe := shutil.which("modprobe"):
        run([modprobe, "-q", kind], check=False)
    return kind in Path("/proc/filesystems").read_text().split()


class Disk:
    """A file system at `at`, with nothing in it."""

    def __init__(self, directory: Path, kind: str, size: int | None = None) -> None:
        self._size = size or KINDS[kind]
        self.at = directory / "at"
        self.kind = kind
        self._image = directory / "image"
        self._ballast = self.at / "ballast"

    def __enter__(self) -> Self:
        self.at.mkdir(parents=True)
        if self.kind == "tmpfs":
            run(["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", self.at])
            return self
        self._image.touch()
        os.truncate(self._image, self._size)
        quiet = ["-F", "-m", "0"] if self.kind == "ext4" else ["-f"]
        run([f"mkfs.{self.kind}", "-q", *quiet, self._image])
        options = "loop,errors=remount-ro" if self.kind == "ext4" else "loop"
        run(["mount", "-t", self.kind, "-o", options, self._image, self.at])
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(running.directories(self.at / "store")[1], ignore_errors=True)
        # Daemons that still have it open end after this; then it is gone.
        while mountinfo.mount_at(str(self.at)) is not None:
            run(["umount", "-l", self.at])

    def fill(self, leave: int = 0) -> None:
        """Leave only so many bytes free, as somebody else may; without any, not even the smallest file can grow."""
        with self._ballast.open("ab") as file:
            size, piece = file.tell(), self._size
            while piece >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), size, piece)
                    size += piece
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    piece //= 2
            os.truncate(self._ballast, max(0, size - leave))
            os.fsync(file.fileno())
        if not leave:
            self._fill_the_rest()

    def _fill_the_rest(self) -> None:
        """Take also what is too small to be preallocated, and the room for names."""
        with contextlib.suppress(OSError):
            for number in range(10_000):
                (self.at / f"ballast-{number}").write_bytes(bytes(4096))

    def give_back(self) -> None:
        """Undo `fill`."""
        for file in self.at.glob("ballast*"):
            file.unlink()
        run(["sync", "-f", self.at])

    @property
    def free(self) -> int:
        """The bytes that are free."""
        room = os.statvfs(self.at)
        return room.f_bavail * room.f_frsize

    def fail(self) -> None:
        """Have ext4 find an error: it makes itself read-only, under all who have files open."""
        device = Path(run(["findmnt", "-n", "-o", "SOURCE", self.at]).stdout.strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test")

    def lose_power(self) -> None:
        """Have ext4 write nothing any more, not even what it has in memory. *Source*: fs/ext4/ioctl.c."""
        fd = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("=I", _NOLOGFLUSH))
        finally:
            os.close(fd)

    def come_back(self) -> None:
        """Mount it as it is when the power is back; the kernel may still have something of it open, for a moment."""
        while (done := run(["umount", self.at], check=False)).returncode:
            assert "busy" in done.stderr, done.stderr
            time.sleep(0.05)
        run(["mount", "-t", self.kind, "-o", "loop", self._image, self.at])

    def mount_again(self, options: str) -> None:
        """Mount it anew, with other options."""
        run(["umount", self.at])
        run(["mount", "-t", self.kind, "-o", f"loop,{options}", self._image, self.at])
