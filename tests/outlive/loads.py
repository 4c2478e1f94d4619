"""What uses a mount, and what lies on it, while its daemons die: every byte compared, every call timed.

Each load is a process of its own: `start(loads.run, "sequential", path, source)` of tests.mounts. It says with a byte
that it begins, and ends when one comes on standard input. Only the standard library is imported, as for tests/under.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import select
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

PACE = 0.004
"""Seconds between two steps of a load: it is to be under way all the time, and not to be what all wait for."""

PIECE = 256 * 1024
PAGE = 4096

SHOWN = 20
"""Failures of a load that are kept in words."""

TOLERATED = 0.02
"""Seconds up to which a call is not worth to be written down."""

HELD = 20
"""Files that `opening` has open at a time."""

REOPENED = 200
"""Reads after which a random reader opens its file anew."""

PATIENCE = 60.0
"""Seconds for a mount or an unmount."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Seen:
    """What a load saw. *Units*: bytes, seconds; `pauses` are when slow calls began (monotonic), how long, and what."""

    calls: int = 0
    size: int = 0
    pauses: list[tuple[float, float, str]] = field(default_factory=list)
    errors: int = 0
    first_error: float = 0.0  # when it came, monotonic
    failed: list[str] = field(default_factory=list)  # the first of these errors
    numbers: set[int] = field(default_factory=set)  # their errnos
    wrong: list[str] = field(default_factory=list)

    @property
    def longest(self) -> tuple[float, float, str]:
        """The longest pause."""
        return max(self.pauses, key=lambda pause: pause[1], default=(0.0, 0.0, ""))


class Meter:
    """Times the calls of a load, and takes down what they fail with."""

    def __init__(self) -> None:
        self.seen = Seen()

    def __call__(self, what: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Do a call; None when it failed."""
        began = time.monotonic()
        self.seen.calls += 1
        try:
            return call(*args, **kwargs)
        except OSError as exc:
            self.seen.first_error = self.seen.first_error or time.monotonic()
            self.seen.errors += 1
            self.seen.numbers.add(exc.errno or -1)
            if len(self.seen.failed) < SHOWN:
                at = time.strftime("%H:%M:%S") + f"{time.time() % 1:.2f}"[1:]
                self.seen.failed.append(f"{at} {what}: {errno.errorcode.get(exc.errno or -1, exc.errno)}")
            time.sleep(0.05)  # what fails at once, all the time, is no load
            return None
        finally:
            self.took(began, time.monotonic() - began, what)

    def took(self, began: float, seconds: float, what: str) -> None:
        """Note how long a call took."""
        if seconds > TOLERATED:
            self.seen.pauses.append((began, seconds, what))

    def due(self, what: str, found: object, due: object) -> None:
        """Compare what a call returned, unless it has failed."""
        if found is None or found == due:
            self.seen.size += len(due) if isinstance(due, bytes) else 0
        elif len(self.seen.wrong) < SHOWN:
            short = isinstance(found, bytes) and isinstance(due, bytes) and len(found) < len(due)
            self.seen.wrong.append(f"{what}: {f'short, {len(found)} bytes of {len(due)}' if short else 'wrong'}")  # type: ignore[arg-type]

    def open(self, path: str, flags: int = os.O_RDONLY) -> int | None:
        """Open a file."""
        return self(f"open {path}", os.open, path, flags)

    @contextlib.contextmanager
    def opened(self, path: str, flags: int = os.O_RDONLY) -> Iterator[int | None]:
        """Open a file while inside, past what the kernel has kept of it; None when it cannot be opened."""
        fd = self.open(path, flags)
        if fd is None:
            yield None
            return
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            yield fd
        finally:
            self(f"close {path}", os.close, fd)

    def drop(self, path: str) -> None:
        """Have the kernel drop what it has kept of a file."""
        with self.opened(path):
            pass

    def read(self, fd: int, path: str, offset: int, due: bytes) -> None:
        """Read bytes that are known."""
        what = f"read {len(due)} at {offset} of {path}"
        found = self(what, os.pread, fd, len(due), offset)
        if found and len(found) < len(due):  # what comes before an error is a short read
            rest = self(what, os.pread, fd, len(due) - len(found), offset + len(found))
            found = None if rest is None else found + rest
        self.due(what, found, due)


Load = Generator[None]


def run(name: str, *args: object) -> Seen:
    """Do what one of the loads below does, until told to end."""
    meter = Meter()
    os.write(1, b"!")
    with contextlib.closing(_LOADS[name](meter, *args)) as steps:
        for _ in steps:
            if select.select([0], [], [], PACE)[0]:
                break
    return meter.seen


def sequential(meter: Meter, path: str, source: str) -> Load:
    """Read a file from its start to its end, again and again, past what the kernel has kept of it."""
    while True:
        yield from _compared(meter, path, source)
        yield


def at_random(meter: Meter, path: str, source: str, how: str) -> Load:
    """Read pages at random: `how` is "buffered", "direct" or "mapped"."""
    true = os.open(source, os.O_RDONLY)
    pages, dice = os.fstat(true).st_size // PAGE, random.Random(path)
    while True:
        with meter.opened(path, os.O_RDONLY | (os.O_DIRECT if how == "direct" else 0)) as fd:
            if fd is not None:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
                read = _READERS[how](fd)
                for _ in range(REOPENED):
                    start = dice.randrange(pages) * PAGE
                    os.posix_fadvise(fd, start, PAGE, os.POSIX_FADV_DONTNEED)
                    what = f"{how} read at {start} of {path}"
                    meter.due(what, meter(what, read, start), os.pread(true, PAGE, start))
                    yield
        yield


def _buffered(fd: int) -> Callable[[int], bytes]:
    return lambda start: os.pread(fd, PAGE, start)


def _direct(fd: int) -> Callable[[int], bytes]:
    buffer = mmap.mmap(-1, PAGE)  # O_DIRECT wants it aligned
    return lambda start: buffer[: os.preadv(fd, [buffer], start)]


def _mapped(fd: int) -> Callable[[int], bytes]:
    """Read through a mapping that is made for each page: what a mapping has, the kernel does not drop."""

    def read(start: int) -> bytes:
        with mmap.mmap(fd, PAGE, prot=mmap.PROT_READ, offset=start) as mapping:
            return mapping[:]

    return read


_READERS = {"buffered": _buffered, "direct": _direct, "mapped": _mapped}


def looking(meter: Meter, path: str, source: str) -> Load:
    """List all directories with the attributes of what is there, extended ones, too, and look for what is not."""
    due = {
        os.path.relpath(directory, source): {name: os.lstat(os.path.join(directory, name)) for name in names + below}
        for directory, below, names in os.walk(source)
    }
    while True:
        for directory, names in due.items():
            at = os.path.normpath(os.path.join(path, directory))
            found = meter(f"list {at}", os.listdir, at)
            meter.due(f"list {at}", None if found is None else sorted(found), sorted(names))
            meter.due(f"look for nothing in {at}", meter(f"stat in {at}", _is_there, f"{at}/not there"), False)
            for name, status in names.items():
                full = os.path.join(at, name)
                seen = meter(f"stat {full}", os.lstat, full)
                if stat.S_ISREG(status.st_mode):
                    meter.due(f"stat {full}", None if seen is None else seen.st_size, status.st_size)
                    cached = meter(f"getxattr {full}", os.getxattr, full, "user.lazyfs.cached")
                    meter.due(f"getxattr {full}", cached is None or 0 <= int(cached) <= status.st_size, True)
                yield


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def opening(meter: Meter, below: str, sources: str, names: list[str]) -> Load:
    """Open files at random, read from them, and close them, some of them later."""
    dice, held = random.Random(len(names)), list[tuple[int, str, str]]()
    while True:
        name = dice.choice(names)
        path, source = os.path.join(below, name), os.path.join(sources, name)
        if (fd := meter.open(path)) is not None:
            held.append((fd, path, source))
        if held:
            fd, path, source = dice.choice(held)
            with open(source, "rb") as true:
                start = dice.randrange(max(1, os.fstat(true.fileno()).st_size - PAGE))
                os.posix_fadvise(fd, start, PAGE, os.POSIX_FADV_DONTNEED)
                meter.read(fd, path, start, os.pread(true.fileno(), PAGE, start))
        while len(held) > HELD or (held and dice.random() < 0.5):
            fd, path, _ = held.pop(dice.randrange(len(held)))
            meter(f"close {path}", os.close, fd)
        yield


def comparing(meter: Meter, path: str, source: str, image: str) -> Load:
    """Compare the files of a mounted image with what it was made of, again and again, past what the kernel has kept."""
    while True:
        for directory, below, names in os.walk(source):
            at = os.path.normpath(os.path.join(path, os.path.relpath(directory, source)))
            found = meter(f"list {at}", os.listdir, at)
            due = sorted(below + names)
            meter.due(f"list {at}", None if found is None else sorted({*found} - {"lost+found"}), due)
            for name in names:
                full = os.path.join(at, name)
                yield
                yield from _compared(meter, full, os.path.join(directory, name))
        meter.drop(image)
        yield


def _compared(meter: Meter, path: str, source: str) -> Load:
    with meter.opened(path) as fd, open(source, "rb") as true:
        offset = 0
        while fd is not None and (due := true.read(PIECE)):
            meter.read(fd, path, offset, due)
            offset += len(due)
            yield


def overwriting(meter: Meter, lower: str, source: str, image: str, writable: str) -> Load:
    """Write over the files of an image under an overlay, which copies each one up, and begin anew with the next one."""
    dice, merged = random.Random(writable), os.path.join(writable, "merged")
    names = [name for name in sorted(os.listdir(source)) if os.path.isfile(os.path.join(source, name))]
    layers = [os.path.join(writable, name) for name in ("upper", "work")]
    while True:
        for directory in (merged, *layers):
            os.makedirs(directory, exist_ok=True)
        options = f"lowerdir={lower},upperdir={layers[0]},workdir={layers[1]}"
        _run("mount", "-t", "overlay", "-o", options, "overlay", merged)
        try:
            for name in names:
                yield
                yield from _overwritten(meter, os.path.join(merged, name), os.path.join(source, name), dice)
        finally:
            _run("umount", merged)
            for directory in layers:
                shutil.rmtree(directory)
        for path in (*(os.path.join(lower, name) for name in names), image):
            meter.drop(path)


def _overwritten(meter: Meter, path: str, source: str, dice: random.Random) -> Load:
    with open(source, "rb") as true:
        due = bytearray(true.read())
    start = dice.randrange(len(due) - PAGE)
    due[start : start + PAGE] = new = dice.randbytes(PAGE)
    with meter.opened(path, os.O_RDWR) as fd:
        if fd is None:
            return
        meter(f"write {path}", os.pwrite, fd, new, start)
        for offset in range(0, len(due), PIECE):
            meter.read(fd, path, offset, bytes(due[offset : offset + PIECE]))
            yield


def idling(meter: Meter) -> Load:
    """Do nothing for a moment, again and again: what that takes longer is the machine's own doing."""
    while True:
        began = time.monotonic()
        time.sleep(PACE)
        meter.seen.calls += 1
        meter.took(began, time.monotonic() - began - PACE, "wake up")
        yield


def mount_file(kind: str, file: str, at: str) -> None:
    """Mount a file system from a file itself, without a loop device, which mount(8) would make. *Raises*: OSError."""
    libc, readonly = ctypes.CDLL(None, use_errno=True), 1
    if libc.mount(os.fsencode(file), os.fsencode(at), kind.encode(), ctypes.c_ulong(readonly), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), file)


_LOADS: dict[str, Callable[..., Load]] = {
    load.__name__: load for load in (sequential, at_random, looking, opening, comparing, overwriting, idling)
}


def _run(*words: str) -> None:
    subprocess.run(words, check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, capture_output=True)
