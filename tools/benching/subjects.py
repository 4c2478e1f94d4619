"""Whom the bench measures: lazyfs, the local file, curl, and the peers, each as its own manual sets it up for speed."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lazyfs import __version__, mountinfo
from tools.benching.origin import BLOB, Place
from tools.benching.processes import MOMENT, Group, Trouble, Words, run

UNMOUNT, LAZY = (("umount",), "-l") if os.geteuid() == 0 else (("fusermount3", "-u"), "-z")

POLL = 0.001
"""Seconds between two looks whether a peer has mounted; lazyfs says so by itself."""


@dataclass(frozen=True)
class Own:
    """What belongs to one measurement of a subject: its processes, and a directory that is deleted afterwards."""

    directory: Path
    group: Group


class Subject(ABC):
    """Someone who gives the bytes of a blob."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]] = ()
    """What must be installed."""

    def missing(self) -> str | None:
        """Return the program that is not installed."""
        return next((program for program in self.programs if shutil.which(program) is None), None)

    def version(self) -> str:
        """Return the first line of what its program says of itself."""
        if not self.programs:
            return ""
        return run(["sh", "-c", '"$0" --version 2>&1', self.programs[0]], MOMENT).partition("\n")[0]


class Local(Subject):
    """The local file, in the page cache: what a complete blob is compared with."""

    name = "local"


class Curl(Subject):
    """curl, which downloads to the disk."""

    name = "curl"
    programs = ("curl",)

    def words(self, place: Place, to: Path) -> Words:
        """Return the command that downloads the blob."""
        trust = _trust("--cacert", place)
        return ["curl", "--silent", "--show-error", "--fail", *trust, "--output", to, place.blob]


class Mounting(Subject):
    """A subject with a mount; `number` tells several of one measurement apart."""

    caches: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    secure: ClassVar[bool] = True

    @contextlib.contextmanager
    def mounted(self, place: Place, own: Own, number: int = 0) -> Iterator[Path]:
        """Mount from an empty cache and yield the path of the blob, or of the directory if that has none."""
        mountpoint = own.directory / f"mount-{number}"
        self.make_mountpoint(mountpoint)
        try:
            self.mount(place, mountpoint, own, number)
            yield self.path(mountpoint)
        finally:
            self.unmount(mountpoint, own)

    def make_mountpoint(self, mountpoint: Path) -> None:
        """Make what is mounted over."""
        mountpoint.mkdir()

    def path(self, mountpoint: Path) -> Path:
        """Return where the blob is; nothing looks at it."""
        return mountpoint / BLOB

    @abstractmethod
    def mount(self, place: Place, mountpoint: Path, own: Own, number: int) -> None:
        """Mount, and return when the mount is there. *Raises*: Trouble."""

    def unmount(self, mountpoint: Path, own: Own) -> None:
        """Unmount, and end what is left of it."""
        if mountinfo.mount_at(str(mountpoint)) is not None:
            with contextlib.suppress(Trouble):
                run([*UNMOUNT, mountpoint], MOMENT)
        own.group.end()
        if mountinfo.mount_at(str(mountpoint)) is not None:
            run([*UNMOUNT, LAZY, mountpoint], MOMENT)


class Lazyfs(Mounting):
    """This project, with a store of the measurement's own that all its mounts share."""

    name = "lazyfs"
    programs = ("fusermount3",)

    def version(self) -> str:
        """It says so itself."""
        return __version__

    def mount(self, place: Place, mountpoint: Path, own: Own, number: int) -> None:
        """Run the command, which returns when the mount answers."""
        trust = _trust("--ca-file", place)
        source = place.url if place.index else place.blob
        words = [sys.executable, "-m", "lazyfs", "mount", "--store", own.directory / "store", *trust]
        run([*words, source, mountpoint], MOMENT, environment=own.group.environment)


class Peer(Mounting):
    """A program that runs in the foreground and mounts."""

    @abstractmethod
    def words(self, place: Place, mountpoint: Path, cache: Path) -> Words:
        """Return the command; `cache` is an empty directory."""

    def mount(self, place: Place, mountpoint: Path, own: Own, number: int) -> None:
        """Start it and wait for the mount."""
        cache = own.directory / f"cache-{number}"
        cache.mkdir()
        process = own.group.start(self.words(place, mountpoint, cache))
        deadline = time.monotonic() + MOMENT
        while mountinfo.mount_at(str(mountpoint)) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Trouble(f"{self.name} has not mounted: {own.group.said()}")
            time.sleep(POLL)


class Rclone(Peer):
    """rclone with its full cache."""

    name = "rclone"
    programs = ("rclone", "fusermount3")

    def words(self, place: Place, mountpoint: Path, cache: Path) -> Words:
        """*Source*: rclone mount(1), "VFS File Caching" and "VFS Performance"."""
        fast = ("--vfs-cache-mode", "full", "--read-only", "--no-checksum", "--no-modtime")
        trust = _trust("--ca-cert", place)
        here = ("--config", "", "--cache-dir", cache, "--http-url", place.url)
        return ["rclone", "mount", *fast, *trust, *here, ":http:", mountpoint]


class Nbdkit(Peer):
    """nbdkit's curl plugin, shown as a file by nbdfuse; it has no listings."""

    name = "nbdkit"
    programs = ("nbdkit", "nbdfuse")
    caches = False
    lists = False

    def words(self, place: Place, mountpoint: Path, cache: Path) -> Words:
        """*Source*: nbdkit-curl-plugin(1), nbdfuse(1); several connections between the two are the default."""
        trust = [f"cainfo={place.authority}"] if place.authority else []
        show = f'nbdfuse --readonly {shlex.quote(str(mountpoint / BLOB))} "$uri"'
        before, behind = self.filters()
        plugin = ["curl", f"url={place.blob}", *trust, *behind]
        return [
            "env",
            f"TMPDIR={cache}",
            "nbdkit",
            "--foreground",
            "--readonly",
            "--unix",
            "-",
            *before,
            *plugin,
            "--run",
            show,
        ]

    def filters(self) -> tuple[list[str], list[str]]:
        """Return what stands before the plugin and behind it."""
        return [], []


class NbdkitCache(Nbdkit):
    """The same with the cache filter, which keeps what was read in a temporary file."""

    name = "nbdkit+cache"
    caches = True

    def filters(self) -> tuple[list[str], list[str]]:
        """*Source*: nbdkit-cache-filter(1); its readahead filter does nothing in front of the curl plugin."""
        return ["--filter=cache"], ["cache-on-read=true"]


class Httpdirfs(Peer):
    """httpdirfs with its cache; nginx has ranges, which it cannot see."""

    name = "httpdirfs"
    programs = ("httpdirfs",)

    def words(self, place: Place, mountpoint: Path, cache: Path) -> Words:
        """*Source*: httpdirfs(1)."""
        trust = _trust("--cacert", place)
        options = ["--cache", "--cache-location", cache, "--no-range-check", *trust]
        return ["httpdirfs", "-f", *options, place.url, mountpoint]


class Qemu(Peer):
    """qemu's own HTTP client, exported as a file by its storage daemon; it caches nothing and has no listings."""

    name = "qemu"
    programs = ("qemu-storage-daemon",)
    caches = False
    lists = False
    secure = False  # its curl driver takes no authority

    def words(self, place: Place, mountpoint: Path, cache: Path) -> Words:
        """*Source*: qemu-block-drivers(7), qemu-storage-daemon(1)."""
        node = f"driver=http,node-name=node,url={place.blob},read-only=on"
        export = f"type=fuse,id=export,node-name=node,mountpoint={mountpoint},writable=off"
        return ["qemu-storage-daemon", "--blockdev", node, "--export", export]

    def make_mountpoint(self, mountpoint: Path) -> None:
        """It mounts over a file."""
        mountpoint.touch()

    def path(self, mountpoint: Path) -> Path:
        """The blob is where it is mounted."""
        return mountpoint


def _trust(option: str, place: Place) -> list[str | Path]:
    """Return the words that name the authority, where there is one."""
    return [option, place.authority] if place.authority else []


SUBJECTS: tuple[Subject, ...] = (
    Lazyfs(), Local(), Curl(), Rclone(), NbdkitCache(), Nbdkit(), Httpdirfs(), Qemu()
)  # fmt: skip

PEERS = frozenset(subject.name for subject in SUBJECTS if isinstance(subject, Peer))
CACHING_PEERS = frozenset(subject.name for subject in SUBJECTS if isinstance(subject, Peer) and subject.caches)
