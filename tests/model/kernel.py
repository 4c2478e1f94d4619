"""The system calls of the store, for the explorer: each waits for its turn, is made for real, and says what it touched.

`installed` puts stand-ins for `os`, `fcntl`, `time` and the like into the modules of lazyfs.store, nowhere else. What
the kernel would know of a process is kept here: which descriptors it has, and which locks are on them.

Things are called by where they were first seen, which is the same in every play, as inode numbers are not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from unittest import mock

import trio

from lazyfs import fetch
from lazyfs.store import blobfile, eviction, files, holes, layout, locks, passage, quota, trash
from tests.model.interleavings import Access, Accesses, Explorer, Mode

_FLOCK = struct.Struct("hhqqi4x")
_ALL: Final = sys.maxsize
_WATCHED: Final = ("/data", "/map", "/quota")
_EYE: Final = Access("what is watched", 0, 1, Mode.CHANGE)
"""That the order of all changes matters which are watched (protocol.py), although no process could tell."""
_WORDS: Final = {fcntl.F_RDLCK: "share", fcntl.F_WRLCK: "lock", fcntl.F_UNLCK: "unlock"}


class Kernel:
    """What the kernel knows of the processes of a play; `begin` starts another play."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self._preparing: int | None = None
        self._locks: dict[int, list[tuple[int, int]]] = {}  # by descriptor: from, to
        self._names: dict[int, str] = {}  # by descriptor
        self._things: dict[tuple[int, int], str] = {}  # by device and inode
        self._owned: dict[int | None, set[int]] = defaultdict(set)
        self._tokens = 0

    def begin(self) -> None:
        """Close and forget what is left of the last play; the next has things of its own that are called the same."""
        for fd in self._names:
            os.close(fd)
        self._locks, self._names, self._things, self._tokens = {}, {}, {}, 0
        self._owned.clear()

    @property
    def process(self) -> int | None:
        """The process that makes a call now."""
        return self.explorer.running if self._preparing is None else self._preparing

    @property
    def scheduled(self) -> bool:
        """Whether the call that is made now has to wait for its turn."""
        return self._preparing is None and self.explorer.running is not None

    @contextlib.contextmanager
    def prepare(self, process: int) -> Iterator[None]:
        """Make calls that a process has made before the play: they wait for no turn."""
        self._preparing = process
        try:
            yield
        finally:
            self._preparing = None

    def before(self) -> None:
        """Wait for the turn, if need be."""
        if self.scheduled:
            self.explorer.before()

    def after(self, what: str, *accesses: Access) -> None:
        """Say what was done."""
        if self.scheduled:
            seen = any(access.mode is Mode.CHANGE and access.thing.endswith(_WATCHED) for access in accesses)
            self.explorer.after(what, (*accesses, _EYE) if seen else accesses)

    def locks_of(self, process: int, file: str) -> list[tuple[int, int]]:
        """Return the locks that a process has on a file, from and to."""
        return [lock for fd in self._owned[process] if self._names[fd] == file for lock in self._locks.get(fd, ())]

    def locked_files(self, process: int) -> set[str]:
        """Return the files that a process has locks on."""
        return {self._names[fd] for fd in self._owned[process] if self._locks.get(fd)}

    def set_lock(self, fd: int, kind: int, start: int, stop: int) -> None:
        """Take note of a lock."""
        held = [part for lock in self._locks.get(fd, ()) for part in _without(lock, start, stop)]
        self._locks[fd] = held if kind == fcntl.F_UNLCK else [*held, (start, stop)]

    def close_all(self, process: int) -> Accesses:
        """Close what a process has open, and say which locks go with it."""
        gone: list[Access] = []
        for fd in sorted(self._owned[process]):
            gone += self.close(fd)
        return tuple(gone)

    def close(self, fd: int) -> Accesses:
        """Close a descriptor and say which locks go with it."""
        os.close(fd)
        name = f"locks of {self._names.pop(fd)}"
        for owned in self._owned.values():
            owned.discard(fd)
        return tuple(Access(name, start, stop, Mode.CHANGE) for start, stop in self._locks.pop(fd, ()))

    def has_locks(self, fd: int) -> bool:
        """Say whether there are locks on a descriptor."""
        return bool(self._locks.get(fd))

    def enter(self, directory: Path) -> int:
        """Open a directory for all processes of the play."""
        fd = os.open(directory, os.O_RDONLY)
        self.name_of(fd)
        return fd

    def opened(self, fd: int) -> None:
        """Take note of a descriptor."""
        self.name_of(fd)
        self._owned[self.process].add(fd)

    def keep(self, fd: int) -> None:
        """Keep an open file, and the locks on it, whatever becomes of the process that opened it."""
        self._owned[self.process].discard(fd)

    def name_of(self, fd: int) -> str:
        """Return what an open file or directory is called."""
        if fd not in self._names:
            self._names[fd] = self._thing(os.fstat(fd), lambda: os.readlink(f"/proc/self/fd/{fd}"))
        return self._names[fd]

    def find(self, path: str, dir_fd: int) -> str:
        """Return what a file or directory is called. *Raises*: OSError, when there is none."""
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            return self._thing(os.fstat(fd), lambda: os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)

    def _thing(self, status: os.stat_result, path: Callable[[], str]) -> str:
        key = status.st_dev, status.st_ino
        if key not in self._things:
            called, number, taken = path(), 1, set(self._things.values())
            while (name := f"{called}~{number}" if number > 1 else called) in taken:
                number += 1
            self._things[key] = name
        return self._things[key]

    def token(self) -> str:
        """Return a name that is nobody else's."""
        self._tokens += 1
        return f"{self._tokens:08x}"


class _Os:
    """Stands where the store's modules have `os`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int) -> int:
        self._kernel.before()
        new = flags & os.O_CREAT and not _there(path, dir_fd)
        touched = Mode.LOOK
        what = f"opens {path}"
        try:
            fd = os.open(path, flags, mode, dir_fd=dir_fd)
            self._kernel.opened(fd)
            if new:
                what, touched = f"makes {path}", Mode.CHANGE
            return fd
        except OSError as exc:
            what += f": {exc.strerror}"
            raise
        finally:
            self._kernel.after(what, self._name(path, dir_fd, touched))

    def close(self, fd: int) -> None:
        if self._kernel.scheduled and self._kernel.explorer.dead:
            return  # it is closed already
        if not self._kernel.has_locks(fd):
            self._kernel.close(fd)
            return
        self._kernel.before()
        what = f"closes {_short(self._kernel.name_of(fd))}"
        self._kernel.after(what, *self._kernel.close(fd))

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._kernel.before()
        data = os.pread(fd, length, offset)
        self._touched("reads", fd, offset, length, Mode.LOOK)
        return data

    def preadv(self, fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        self._kernel.before()
        count = os.preadv(fd, buffers, offset, flags & ~os.RWF_NOWAIT)
        self._touched("reads", fd, offset, sum(map(len, buffers)), Mode.LOOK)
        return count

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._kernel.before()
        count = os.pwrite(fd, data, offset)
        self._touched("writes", fd, offset, count, Mode.CHANGE)
        return count

    def pwritev(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        self._kernel.before()
        count = os.pwritev(fd, buffers, offset)
        self._touched("writes", fd, offset, count, Mode.CHANGE)
        return count

    def ftruncate(self, fd: int, length: int) -> None:
        self._kernel.before()
        os.ftruncate(fd, length)
        self._kernel.after(f"makes {_short(self._kernel.name_of(fd))} {length} bytes", *self._whole(fd, Mode.CHANGE))

    def fstat(self, fd: int) -> os.stat_result:
        self._kernel.before()
        status = os.fstat(fd)
        self._kernel.after(f"looks at {_short(self._kernel.name_of(fd))}", *self._whole(fd, Mode.LOOK))
        return status

    def stat(self, path: str, *, dir_fd: int, follow_symlinks: bool = True) -> os.stat_result:
        self._kernel.before()
        accesses: list[Access] = []
        with ExitStack() as stack:
            stack.callback(lambda: self._kernel.after(f"looks for {path}", *accesses))
            *directories, last = path.split("/")
            at = dir_fd
            for directory in directories:
                accesses.append(self._name(directory, at, Mode.LOOK))
                at = os.open(directory, os.O_PATH, dir_fd=at)
                stack.callback(self._kernel.close, at)
                self._kernel.name_of(at)
            accesses.append(self._name(last, at, Mode.LOOK))
            status = os.stat(last, dir_fd=at, follow_symlinks=follow_symlinks)
            accesses.append(Access(self._kernel.find(last, at), 0, _ALL, Mode.LOOK))
            return status

    def listdir(self, fd: int) -> list[str]:
        self._kernel.before()
        names = sorted(os.listdir(fd))
        name = self._kernel.name_of(fd)
        self._kernel.after(f"lists {_short(name)}/", Access(f"names in {name}", 0, _ALL, Mode.LOOK))
        return names

    def mkdir(self, path: str, mode: int, *, dir_fd: int) -> None:
        self._kernel.before()
        what, touched = f"finds {path}/", Mode.LOOK
        try:
            os.mkdir(path, mode, dir_fd=dir_fd)
            what, touched = f"makes {path}/", Mode.CHANGE
        finally:
            self._kernel.after(what, self._name(path, dir_fd, touched))

    def rename(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._kernel.before()
        what, touched = f"cannot rename {source}", Mode.LOOK
        try:
            os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            what, touched = f"renames {source} to {target}", Mode.CHANGE
        finally:
            places = self._name(source, src_dir_fd, touched), self._name(target, dst_dir_fd, touched)
            self._kernel.after(what, *places)

    def unlink(self, path: str, *, dir_fd: int) -> None:
        self._kernel.before()
        what, accesses = f"finds no {path}", [self._name(path, dir_fd, Mode.LOOK)]
        try:
            file = self._kernel.find(path, dir_fd)
            os.unlink(path, dir_fd=dir_fd)
            what, accesses = (
                f"unlinks {path}",
                [self._name(path, dir_fd, Mode.CHANGE), Access(file, 0, _ALL, Mode.CHANGE)],
            )
        finally:
            self._kernel.after(what, *accesses)

    def rmdir(self, path: str, *, dir_fd: int) -> None:
        self._kernel.before()
        what, touched, things = f"cannot remove {path}/", Mode.LOOK, []
        try:
            things = [f"names in {self._kernel.find(path, dir_fd)}"]
            os.rmdir(path, dir_fd=dir_fd)
            what, touched = f"removes {path}/", Mode.CHANGE
        finally:
            inside = [Access(thing, 0, _ALL, touched) for thing in things]
            self._kernel.after(what, self._name(path, dir_fd, touched), *inside)

    def fdatasync(self, fd: int) -> None:
        """Do nothing: no other process could tell."""

    def _name(self, path: str, dir_fd: int, mode: Mode) -> Access:
        """Return the access to a name in a directory, where each has its place."""
        place = zlib.crc32(path.encode())
        return Access(f"names in {self._kernel.name_of(dir_fd)}", place, place + 1, mode)

    def _whole(self, fd: int, mode: Mode) -> Accesses:
        return (Access(self._kernel.name_of(fd), 0, _ALL, mode),)

    def _touched(self, what: str, fd: int, offset: int, length: int, mode: Mode) -> None:
        name = self._kernel.name_of(fd)
        shown = f"{what} {_short(name)} [{offset}, {offset + length})"
        self._kernel.after(shown, Access(name, offset, offset + length, mode))


class _Fcntl:
    """Stands where locks.py has `fcntl`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def fcntl(self, fd: int, command: int, argument: bytes) -> bytes:
        self._kernel.before()
        kind, _, start, length, _ = _FLOCK.unpack(argument)
        stop = start + length
        name = self._kernel.name_of(fd)
        mode, what = Mode.LOOK, f"cannot {_WORDS[kind]}"
        try:
            answer = fcntl.fcntl(fd, command, argument)
            what = f"asks who would not let it {_WORDS[kind]}"
            if command == fcntl.F_OFD_SETLK:
                self._kernel.set_lock(fd, kind, start, stop)
                mode, what = Mode.SHARE if kind == fcntl.F_RDLCK else Mode.CHANGE, f"does {_WORDS[kind]}"
            return answer
        finally:
            self._kernel.after(
                f"{what} {_short(name)} {_shown(start, stop)}", Access(f"locks of {name}", start, stop, mode)
            )


class _Holes:
    """Stands where blobfile.py has `holes`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def punch(self, fd: int, offset: int, length: int) -> None:
        self._kernel.before()
        holes.punch(fd, offset, length)
        name = self._kernel.name_of(fd)
        shown = f"punches {_short(name)} [{offset}, {offset + length})"
        self._kernel.after(shown, Access(name, offset, offset + length, Mode.CHANGE))


class _Time:
    """Stands where they have `time`: it stands still, and who sleeps waits for a change."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def monotonic(self) -> float:
        return 1000.0

    def sleep(self, seconds: float) -> None:
        self._kernel.explorer.wait()


class _Secrets:
    """Stands where trash.py has `secrets`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def token_hex(self, _: int) -> str:
        return self._kernel.token()


class _Trio:
    """Stands where fetch.py has `trio`: who polls waits for a change."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)

    async def sleep(self, seconds: float) -> None:
        self._kernel.explorer.wait()


@contextlib.contextmanager
def installed(kernel: Kernel) -> Iterator[None]:
    """Let the store make its system calls here."""
    stands = {
        "os": (_Os(kernel), (blobfile, files, layout, passage, trash, quota)),
        "time": (_Time(kernel), (blobfile, quota, eviction)),
        "fcntl": (_Fcntl(kernel), (locks,)),
        "holes": (_Holes(kernel), (blobfile,)),
        "secrets": (_Secrets(kernel), (trash,)),
        "trio": (_Trio(kernel), (fetch,)),
    }
    with ExitStack() as stack:
        for name, (stand_in, modules) in stands.items():
            for module in modules:
                stack.enter_context(mock.patch.object(module, name, stand_in))
        stack.callback(kernel.begin)
        yield


def _without(lock: tuple[int, int], start: int, stop: int) -> list[tuple[int, int]]:
    """Return what is left of a lock when a part of it goes."""
    parts = [(lock[0], min(lock[1], start)), (max(lock[0], stop), lock[1])]
    return [part for part in parts if part[0] < part[1]]


def _there(path: str, dir_fd: int | None) -> bool:
    try:
        os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _shown(start: int, stop: int) -> str:
    """Show a run of lock bytes; those beyond the blocks by their distance from 2^62 (locks.py)."""
    if start >= 1 << 62:
        return f"2^62+{start - (1 << 62)}"
    return f"{start}" if stop == start + 1 else f"{start} to {stop - 1}"
