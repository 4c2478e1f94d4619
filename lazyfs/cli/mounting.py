"""mount, umount, add, remove."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lazyfs import control, mountinfo
from lazyfs.errors import LazyfsError, UsageError
from lazyfs.sources.spec import Form, Source, parse_source
from lazyfs.versions import starts_blob_id

if TYPE_CHECKING:
    from lazyfs.options import Settings

PATIENCE: Final = 10.0
"""Seconds for a look at what may be a stuck mount, and for a daemon to end after its mount has gone."""


HOLDERS_SHOWN: Final = 8
"""Names of those who keep a mount busy that fit on the line."""


def mount(
    sources: tuple[str, ...], mountpoint: Path, settings: Settings, options: frozenset[str], *, foreground: bool
) -> None:
    """Mount, and return when the mount answers. *Raises*: LazyfsError; then nothing is left mounted."""
    from lazyfs.daemon import run_in_background, run_in_foreground
    from lazyfs.order import Mount

    parsed = read_sources(sources, settings.store)
    where = absolute(mountpoint)
    _clean_up_dead(where)
    if not os.path.lexists(where):
        raise UsageError(f"the mountpoint {where} is not there; make it with: mkdir -p {shlex.quote(where)}")
    if not os.path.isdir(where):
        raise UsageError(f"the mountpoint {where} is not a directory; name one that is")
    _refuse_overlap(where, settings.store)
    (run_in_foreground if foreground else run_in_background)(Mount(where, parsed, settings, options))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is done: too late to end with another status


def profile_place(text: str) -> str:
    """Return where a profile is: a URL, or an absolute path, since the daemon works elsewhere."""
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def unmount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount, and return when the daemon has ended, unless `lazy`. *Raises*: LazyfsError."""
    where = absolute(mountpoint)
    mounted = mounted_at(where)
    daemon = None
    with contextlib.suppress(control.ControlError):
        daemon = control.Connection(socket_of(mounted), timeout=PATIENCE)
    command = mountinfo.unmount_command(where, lazy=lazy, abort=daemon is None and _is_dead(mounted))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        if holders := _holders(where):
            raise LazyfsError(f"{where} is busy: {_shown(holders)}; end them, or detach it with --lazy")
        raise LazyfsError(f"{where} could not be unmounted: {done.stderr.strip().splitlines()[-1]}")
    if daemon is not None and not lazy and not daemon.wait_for_end():
        reason = f"{where} is unmounted, but its daemon has not ended in {PATIENCE:g} s"
        raise LazyfsError(f"{reason}; a container that was given it may have it still: unmount it there, too")


def add(mountpoint: Path, sources: tuple[str, ...]) -> None:
    """Add sources to a running mount. *Raises*: LazyfsError."""
    mounted = mounted_at(absolute(mountpoint))
    places: list[str] = []
    blobs: list[dict[str, Any]] = []
    for text in sources:
        source = _located(read_source(text, store_of(mounted)))
        if source.given is not None:
            blobs.append({"name": source.name, **source.given.as_dict()})
        else:
            places.append(text if source.remote else source.place)
    ask(mounted, "add", sources=places, blobs=blobs)


def remove(mountpoint: Path, paths: tuple[str, ...]) -> None:
    """Remove names from a running mount. *Raises*: LazyfsError."""
    ask(mounted_at(absolute(mountpoint)), "remove", paths=list(paths))


def absolute(mountpoint: Path) -> str:
    """Return the absolute path of a mountpoint without a look at the mountpoint itself, which may be stuck."""
    path = os.path.abspath(mountpoint)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) if path != "/" else path


def mounted_at(where: str) -> mountinfo.Mounted:
    """Return our mount at an absolute path. *Raises*: UsageError, when there is none."""
    mounted = mountinfo.mount_at(where)
    if mounted is None or mounted.fstype != mountinfo.FSTYPE:
        raise UsageError(f"{where} is not a lazyfs mount; see which there are: findmnt -t {mountinfo.FSTYPE}")
    return mounted


def mount_of(path: Path) -> mountinfo.Mounted | None:
    """Return our mount that a path is under, without a look at it; None when there is none."""
    mounted = mountinfo.mount_over(absolute(path))
    return mounted if mounted is not None and mounted.fstype == mountinfo.FSTYPE else None


def store_of(mounted: mountinfo.Mounted) -> Path:
    """Return a mount's store, which its source names."""
    return Path(mounted.source.partition("#")[2])


def socket_of(mounted: mountinfo.Mounted) -> Path:
    """Return where a mount's daemon listens."""
    from lazyfs.store import running  # the store, which a mount's command does without

    return running.find(store_of(mounted), control.socket_name(mounted.mountpoint))


def read_sources(texts: Iterable[str], store: Path) -> tuple[Source, ...]:
    """Read what is to be mounted. *Raises*: LazyfsError."""
    return tuple(_located(read_source(text, store)) for text in texts)


def read_source(text: str, store: Path) -> Source:
    """Read a source; for a blob, find out which it is. *Raises*: LazyfsError."""
    bare = starts_blob_id(text) or is_path(text)
    source = Source(Form.BLOB, text) if bare else parse_source(text)
    if source.form is not Form.BLOB:
        return source
    from lazyfs.cli import naming  # the store, which other sources need not be looked up in

    return naming.found(source, store)


def is_path(text: str) -> bool:
    """Say whether an argument is a path under a mount, not another source."""
    return "://" not in text and not text.endswith((".toml", ".jsonl")) and mount_of(Path(text)) is not None


def ask(mounted: mountinfo.Mounted, op: str, **arguments: Any) -> Any:
    """Ask a mount's daemon for something. *Raises*: ControlError."""
    with contextlib.closing(connect(mounted)) as connection:
        *_, result = connection.request(op, **arguments)
        return result


def connect(mounted: mountinfo.Mounted, timeout: float | None = PATIENCE) -> control.Connection:
    """Connect to a mount's daemon. *Raises*: ControlError; for a dead daemon it says what to do. *Units*: seconds."""
    try:
        return control.Connection(socket_of(mounted), timeout)
    except control.Unreachable as exc:
        raise control.ControlError(
            f"{mounted.mountpoint}: its daemon does not answer, and may be dead; mount it again, or: "
            f"lazyfs umount {shlex.quote(mounted.mountpoint)}"
        ) from exc


def _clean_up_dead(where: str) -> None:
    """Unmount what a dead daemon left. *Raises*: UsageError, when something is mounted there and alive."""
    while (mounted := mountinfo.mount_at(where)) is not None:
        if not mounted.fstype.startswith("fuse"):
            return
        if not _is_dead(mounted):
            raise UsageError(f"{where} has a mount already; unmount it with: lazyfs umount {shlex.quote(where)}")
        command = mountinfo.unmount_command(where, lazy=True, abort=True)
        subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)


def _is_dead(mounted: mountinfo.Mounted) -> bool:
    """Say whether nobody answers at a mount, nor will.

    A daemon that was killed may have left a thread in the kernel that waits for an answer: while it keeps FUSE's
    descriptor, whoever looks at the mount waits, too.
    """
    words, plain = ["stat", "-f", mounted.mountpoint], {"LC_ALL": "C"}
    try:
        look = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE, env=plain)
    except subprocess.TimeoutExpired:
        return mounted.fstype == mountinfo.FSTYPE and control.is_dead(socket_of(mounted))
    return "not connected" in look.stderr


def _refuse_overlap(where: str, store: Path) -> None:
    inside = os.path.realpath(store)
    if os.path.commonpath((where, inside)) == where:
        raise UsageError(f"the store {store} is under the mountpoint {where}: it would be hidden; name another")
    if os.path.commonpath((where, inside)) == inside:
        raise UsageError(f"the mountpoint {where} is inside the store {store}; name another")


def _located(source: Source) -> Source:
    """Make a local manifest's path absolute: the daemon works elsewhere. *Raises*: UsageError, when it is not there."""
    if source.remote or source.form is Form.BLOB:
        return source
    path = Path(source.place).resolve()
    if not path.is_file():
        raise UsageError(f"the manifest {path} is not there; name a file, or its URL")
    return dataclasses.replace(source, place=str(path))


def _holders(where: str) -> list[str]:
    """Name who has something under a mount open, mapped or mounted, without a look at the mount."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        links = [process / "cwd", process / "root", process / "exe"]
        for several in ("fd", "map_files"):
            with contextlib.suppress(OSError):
                links += (process / several).iterdir()
        for link in links:
            with contextlib.suppress(OSError):
                if _is_below(os.readlink(link), where):
                    found.append(f"{(process / 'comm').read_text().strip()} (pid {process.name})")
                    break
    for device in Path("/sys/block").glob("loop*"):
        with contextlib.suppress(OSError):
            if _is_below((device / "loop" / "backing_file").read_text().rstrip("\n"), where):
                found.append(f"/dev/{device.name}")
    found += [f"the mount at {inner.mountpoint}" for inner in mountinfo.mounts() if _is_below(inner.mountpoint, where)]
    return [holder for holder in found if holder != f"the mount at {where}"]


def _is_below(path: str, where: str) -> bool:
    return (path + "/").startswith(where + "/")


def _shown(holders: list[str]) -> str:
    more = f" and {len(holders) - HOLDERS_SHOWN} more" if len(holders) > HOLDERS_SHOWN else ""
    return ", ".join(holders[:HOLDERS_SHOWN]) + more
