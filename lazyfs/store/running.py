"""Where the control sockets and logs of a store's mounts lie: in its `run/`, or elsewhere when that takes no files.

Elsewhere is `/run/lazyfs/KEY` for root, `$XDG_RUNTIME_DIR/lazyfs/KEY` for others, where KEY stands for the store's
path: a store on a read-only or full disk can be mounted, and its mounts be talked to. Who looks for a socket looks at
both.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
from pathlib import Path

from lazyfs.errors import StoreError


def usable(store: Path) -> Path:
    """Return the directory for what a new mount of a store makes. *Raises*: StoreError, when none takes a file."""
    inside, elsewhere = directories(store)
    try:
        _try(inside)
        return inside
    except OSError as exc:
        reason = exc.strerror or exc
    try:
        elsewhere.parent.mkdir(mode=0o700, exist_ok=True)
        elsewhere.mkdir(mode=0o700, exist_ok=True)
        for directory in (elsewhere.parent, elsewhere):
            _check_ours(directory)
        _try(elsewhere)
    except OSError as exc:
        raise StoreError(
            f"the store {store} takes no control socket ({reason}), nor does {elsewhere} ({exc.strerror or exc})"
        ) from exc
    return elsewhere


def find(store: Path, name: str) -> Path:
    """Return where a socket or a log is: of two, the one that was made last; of none, where it would be."""
    found = {}
    for directory in directories(store):
        with contextlib.suppress(OSError):
            found[directory / name] = (directory / name).lstat().st_mtime_ns
    return max(found, key=lambda path: found[path], default=store / "run" / name)


def directories(store: Path) -> tuple[Path, Path]:
    """Return where sockets and logs may be: in the store, and elsewhere."""
    key = hashlib.sha256(os.fsencode(os.path.realpath(store))).hexdigest()[:16]
    ours = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    return store / "run", (Path("/run") if os.geteuid() == 0 else ours) / "lazyfs" / key


def sockets(store: Path) -> list[Path]:
    """Return the sockets of a store's mounts, and what killed daemons left of theirs."""
    return sorted(path for directory in directories(store) for path in directory.glob("*.sock"))


def note_written(log: int) -> None:
    """Lock an open log, as long as it is open: it is not left over. /proc does not tell: not all see all there."""
    with contextlib.suppress(OSError):
        fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_written(path: Path) -> bool:
    """Say whether a file is a log that a daemon writes, be it one that has just begun and has no socket yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # a socket, or gone
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _try(directory: Path) -> None:
    """See whether a directory takes a file with something in it. *Raises*: OSError."""
    path = directory / f".{secrets.token_hex(4)}"
    try:
        path.write_bytes(bytes(4096))
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _check_ours(directory: Path) -> None:
    """Refuse a directory that others made or may enter. *Raises*: PermissionError."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(None, "it is not ours alone", str(directory))
