"""What tests do under a mount, each call in a process of its own: a look at a stuck mount hangs whoever takes it.

`tests.mounts.on_mount(under.sha256, path)` calls a function of this module in a fresh interpreter, with a time-out, and
returns what it returns or raises what it raises. Only the standard library is imported, so that a call takes 50 ms.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

PIECE = 64 * 1024


@dataclass(frozen=True)
class Seen:
    """What `stat` says of a name; `target` is a symlink's."""

    mode: int
    size: int
    mtime_ns: int
    target: str | None = None


@dataclass(frozen=True)
class Timed:
    """How a call ended: `error` is its errno, 0 when it succeeded. *Units*: seconds."""

    seconds: float
    error: int
    content: bytes = b""


@dataclass(frozen=True)
class Passage:
    """A read from end to end: its hash, or the errno that ended it after `size` bytes.

    *Units*: `longest_gap` is the seconds between two completed reads, at the most, and `began` and `ended` the
    monotonic clock's.
    """

    digest: str
    error: int
    size: int
    longest_gap: float
    began: float
    ended: float


def names(path: str) -> list[str]:
    """List a directory, sorted."""
    return sorted(os.listdir(path))


def look(path: str) -> dict[str, Seen]:
    """List a directory with the attributes of what is in it, as `ls -l` does."""
    with os.scandir(path) as entries:
        return {entry.name: _seen(entry.path) for entry in entries}


def tree(path: str) -> dict[str, Seen]:
    """List a directory to any depth."""
    found = {}
    for directory, below, files in os.walk(path):
        for name in below + files:
            full = os.path.join(directory, name)
            found[os.path.relpath(full, path)] = _seen(full)
    return found


def _seen(path: str) -> Seen:
    status = os.lstat(path)
    target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
    return Seen(stat.S_IMODE(status.st_mode), status.st_size, status.st_mtime_ns, target)


def sha256(path: str) -> str:
    """Hash a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(path: str) -> dict[str, str]:
    """Hash the files of a directory to any depth, one after the other."""
    return {name: sha256(os.path.join(path, name)) for name, seen in tree(path).items() if not seen.mode & 0o111}


def read(path: str, offset: int = 0, length: int = 1 << 30) -> bytes:
    """Return bytes of a file, read without the kernel's readahead."""
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        pieces = []
        while length and (piece := os.pread(file.fileno(), min(length, PIECE), offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)


def timed_read(path: str, offset: int = 0, length: int = 4096) -> Timed:
    """Open a file and read from it once, and say how long both took together."""
    began = time.monotonic()
    try:
        with open(path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), length, offset)
    except OSError as exc:
        return Timed(time.monotonic() - began, exc.errno or -1)
    return Timed(time.monotonic() - began, 0, content)


def timed_reads(path: str, offsets: list[int], length: int = 4096) -> list[Timed]:
    """Read from a file at some places, one after the other, without the kernel's readahead; say how long each took."""
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        return [_timed(file.fileno(), offset, length) for offset in offsets]


def timed_reads_together(places: list[tuple[str, int]], length: int = 4096) -> list[Timed]:
    """Open files, say so with a byte, and read from each at its place, all at once."""
    found: list[Timed] = []
    fds = [os.open(path, os.O_RDONLY) for path, _ in places]
    for fd in fds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.write(1, b"!")
    calls = [lambda fd=fd, at=at: found.append(_timed(fd, at, length)) for fd, (_, at) in zip(fds, places, strict=True)]
    _together(calls)  # type: ignore[arg-type]
    return found


def timed_places(path: str, places: list[tuple[int, int]], pause: float = 0.0) -> float:
    """Read from a file at some places, offset and length, with a pause before each; return the seconds it took."""
    began = time.monotonic()
    with open(path, "rb", buffering=0) as file:
        for offset, length in places:
            time.sleep(pause)
            os.pread(file.fileno(), length, offset)
    return time.monotonic() - began


def _timed(fd: int, offset: int, length: int) -> Timed:
    began = time.monotonic()
    try:
        content = os.pread(fd, length, offset)
    except OSError as exc:
        return Timed(time.monotonic() - began, exc.errno or -1)
    return Timed(time.monotonic() - began, 0, content)


def timed_look(directory: str, names: list[str]) -> tuple[float, float]:
    """Look for names in a directory, which need not be there, and list it.

    Returns the seconds that a look took at the most, and those that the list took.
    """
    longest = 0.0
    for name in names:
        began = time.monotonic()
        _errno_of(lambda name=name: os.lstat(os.path.join(directory, name)))  # type: ignore[misc]
        longest = max(longest, time.monotonic() - began)
    began = time.monotonic()
    os.listdir(directory)
    return longest, time.monotonic() - began


def pass_through(path: str, stop: int = 1 << 62) -> Passage:
    """Read a file in pieces of 64 KiB from its start up to `stop`, or to its end or an error."""
    hashed, size, gap, error = hashlib.sha256(), 0, 0.0, 0
    began = last = time.monotonic()
    try:
        with open(path, "rb", buffering=0) as file:
            while size < stop and (piece := file.read(PIECE)):
                now = time.monotonic()
                gap, last = max(gap, now - last), now
                size += len(piece)
                hashed.update(piece)
    except OSError as exc:
        error = exc.errno or -1
    ended = time.monotonic()
    return Passage(hashed.hexdigest(), error, size, max(gap, ended - last), began, ended)


def pass_together(path: str, stop: int = 1 << 62) -> Passage:
    """The same, begun when a byte comes in on standard input; a byte on standard output says ready."""
    os.write(1, b"!")
    os.read(0, 1)
    return pass_through(path, stop)


def mapped_sha256(path: str) -> str:
    """Hash a file through a mapping of it."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        return hashlib.sha256(mapping).hexdigest()


def direct_read(path: str, offset: int, length: int) -> bytes:
    """Return bytes of a file read with O_DIRECT; offset and length are multiples of 4096."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, length) as buffer:  # page-aligned, as O_DIRECT wants it
            count = os.preadv(fd, [buffer], offset)
            return buffer[:count]
    finally:
        os.close(fd)


def direct_reads(path: str, offsets: list[int], length: int) -> list[bytes]:
    """Return bytes of a file read with O_DIRECT through one handle, in the order of their places."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return [_direct(fd, offset, length) for offset in offsets]
    finally:
        os.close(fd)


def _direct(fd: int, offset: int, length: int) -> bytes:
    with mmap.mmap(-1, length) as buffer:
        count = os.preadv(fd, [buffer], offset)
        return buffer[:count]


def direct_reads_of(paths: list[str], offset: int, length: int) -> list[bytes]:
    """Return the bytes at one place of some files, all of which are open at once, read with O_DIRECT."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in paths]
    try:
        return [_direct(fd, offset, length) for fd in fds]
    finally:
        for fd in fds:
            os.close(fd)


def read_twice_directly(path: str, offsets: list[int], length: int) -> list[bytes]:
    """Read some places with O_DIRECT, say so with a byte, and return what is there when a byte comes."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for offset in offsets:
            _direct(fd, offset, length)
        os.write(1, b"!")
        os.read(0, 1)
        return [_direct(fd, offset, length) for offset in offsets]
    finally:
        os.close(fd)


def read_directly_for_ever(path: str, length: int) -> None:
    """Read a file again and again with O_DIRECT, in pieces, and say with a byte when that has begun."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, length) as buffer:
        offset, begun = 0, False
        while True:
            offset = offset + length if os.preadv(fd, [buffer], offset) == length else 0
            if not begun and offset > length:
                begun = True
                os.write(1, b"!")


def differing_large_reads(path: str, source: str, readers: int, reads: int, seed: int) -> list[tuple[int, int]]:
    """Do large reads at random, in as many threads, each second one past the page cache; return where two differed."""
    wrong: list[tuple[int, int]] = []
    size = os.stat(source).st_size

    def reader(number: int) -> None:
        dice = random.Random(seed * 1000 + number)
        fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if number % 2 else 0))
        with open(source, "rb", buffering=0) as true, mmap.mmap(-1, 1 << 20) as buffer:
            for _ in range(reads):
                offset = dice.randrange(0, size, 4096)
                length = dice.choice((128, 256, 512, 1024)) * 1024
                if not number % 2:
                    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
                count = os.preadv(fd, [memoryview(buffer)[:length]], offset)
                if buffer[:count] != os.pread(true.fileno(), length, offset):
                    wrong.append((offset, length))
        os.close(fd)

    _together([lambda number=number: reader(number) for number in range(readers)])  # type: ignore[misc]
    return wrong


def differing_reads(path: str, source: str, readers: int, reads: int, seed: int) -> list[tuple[int, int]]:
    """Read a file at random, in as many threads, beside its source; return where the two differed."""
    wrong: list[tuple[int, int]] = []
    size = os.stat(source).st_size

    def reader(number: int) -> None:
        dice = random.Random(seed * 1000 + number)
        with open(path, "rb", buffering=0) as file, open(source, "rb", buffering=0) as true:
            for _ in range(reads):
                offset = dice.randrange(size + 1)
                length = dice.choice((1, 7, 4096, 70_000, 300_000))
                due = os.pread(true.fileno(), length, offset)
                if os.pread(file.fileno(), length, offset) != due:
                    wrong.append((offset, length))

    _together([lambda number=number: reader(number) for number in range(readers)])  # type: ignore[misc]
    return wrong


def _together(calls: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def attributes(path: str) -> dict[str, str]:
    """Return a file's extended attributes, as `getfattr -d` does."""
    return {name: os.getxattr(path, name).decode() for name in os.listxattr(path)}


def attempts_to_write(directory: str, file: str) -> dict[str, int]:
    """Try whatever would change a mount; return the errno of each, 0 for what was let through."""
    new = os.path.join(directory, "new")
    attempts: dict[str, Callable[[], object]] = {
        "open to write": lambda: os.close(os.open(file, os.O_WRONLY)),
        "open to read and write": lambda: os.close(os.open(file, os.O_RDWR)),
        "open to append": lambda: os.close(os.open(file, os.O_WRONLY | os.O_APPEND)),
        "open to truncate": lambda: os.close(os.open(file, os.O_RDONLY | os.O_TRUNC)),
        "create": lambda: os.close(os.open(new, os.O_CREAT | os.O_WRONLY)),
        "truncate": lambda: os.truncate(file, 0),
        "unlink": lambda: os.unlink(file),
        "rename": lambda: os.rename(file, new),
        "link": lambda: os.link(file, new),
        "symlink": lambda: os.symlink("x", new),
        "mkdir": lambda: os.mkdir(new),
        "mknod": lambda: os.mknod(new),
        "chmod": lambda: os.chmod(file, 0o600),
        "chown": lambda: os.chown(file, 1, 1),
        "utime": lambda: os.utime(file, (1, 1)),
        "setxattr": lambda: os.setxattr(file, "user.x", b"x"),
    }
    return {name: _errno_of(attempt) for name, attempt in attempts.items()}


def failing_reads(directory: str) -> int:
    """Return how many files of a directory cannot be read."""
    return sum(_errno_of(partial(read, os.path.join(directory, name), 0, 1)) != 0 for name in os.listdir(directory))


def errno_of_stat(path: str) -> int:
    """Return what looking at a name fails with, 0 when it succeeds."""
    return _errno_of(lambda: os.lstat(path))


def errno_of_listing(path: str) -> int:
    """List a directory and return the errno, 0 when it succeeds."""
    return _errno_of(lambda: os.listdir(path))


def _errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as exc:
        return exc.errno or -1
    return 0


def room(path: str) -> os.statvfs_result:
    """Return what `statfs` says."""
    return os.statvfs(path)


def wait_for_names(path: str, count: int, seconds: float) -> tuple[float, int]:
    """List a directory again and again until it has `count` names; return the seconds taken and the names seen first.

    *Raises*: TimeoutError.
    """
    began, first = time.monotonic(), -1
    while time.monotonic() - began < seconds:
        found = len(os.listdir(path))
        first = found if first < 0 else first
        if found >= count:
            return time.monotonic() - began, first
        time.sleep(0.05)
    raise TimeoutError(errno.ETIMEDOUT, f"{found} names, not {count}, in {seconds} s")


def digests(paths: list[str]) -> list[str]:
    """Hash files, all at once."""
    found: list[str] = []
    _together([lambda path=path: found.append(sha256(path)) for path in paths])  # type: ignore[misc]
    return found


def read_when_it_works(path: str, seconds: float) -> bytes:
    """Read a whole file, again and again until it comes without an error. *Raises*: the last error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return read(path)
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


@dataclass(frozen=True)
class Opened:
    """A file by its open handle: the inode and size that it shows, and all its bytes."""

    inode: int
    size: int
    content: bytes


def opened(path: str) -> Opened:
    """Open a file and read it, past the page cache."""
    with open(path, "rb", buffering=0) as file:
        return _opened(file.fileno())


def opened_until(path: str, digest: str, seconds: float) -> Opened:
    """Do so again and again until the bytes have this SHA-256. *Raises*: TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = opened(path)
        if hashlib.sha256(seen.content).hexdigest() == digest:
            return seen
        time.sleep(0.05)
    raise TimeoutError(errno.ETIMEDOUT, f"other bytes for {seconds} s")


def _opened(fd: int) -> Opened:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    status = os.fstat(fd)
    pieces = [os.pread(fd, PIECE, offset) for offset in range(0, status.st_size, PIECE)]
    return Opened(status.st_ino, status.st_size, b"".join(pieces))


def read_across_a_change(path: str, offset: int) -> tuple[list[bytes], int, int, Opened, bytes]:
    """Read a page, say so, and go on when a byte comes: read it again, and a page at `offset`, and open it anew.

    Returns the page as it was, as it is in the page cache and past it, the errno of the other one, the inode, what was
    opened anew at once, and the page once more through the first handle.
    """
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        pages = [os.pread(fd, 4096, 0)]
        os.write(1, b"!")
        os.read(0, 1)
        pages.append(os.pread(fd, 4096, 0))
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pages.append(os.pread(fd, 4096, 0))
        error = _errno_of(lambda: os.pread(fd, 4096, offset))
        anew = opened(path)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return pages, error, os.fstat(fd).st_ino, anew, os.pread(fd, 4096, 0)


def hold_and_read(path: str) -> bytes:
    """Open a file, say so with a byte, and read all of it when standard input ends."""
    with open(path, "rb") as file:
        os.write(1, b"!")
        os.read(0, 1)
        return file.read()


def read_in_two_steps(path: str, first: list[int], then: list[int]) -> list[bytes]:
    """Read pages, without the kernel's readahead; say so with a byte, and read others when standard input ends."""
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        pages = [os.pread(file.fileno(), 4096, offset) for offset in first]
        os.write(1, b"!")
        os.read(0, 1)
        return pages + [os.pread(file.fileno(), 4096, offset) for offset in then]


def read_through_takeovers(path: str, source: str, seconds: float) -> int:
    """Read here and there, list, look and open again for so long, comparing all; say how many reads there were."""
    with open(source, "rb") as file:
        content = file.read()
    directory, name = os.path.split(path)
    dice, reads, until = random.Random(1), 0, time.monotonic() + seconds
    with open(path, "rb", buffering=0) as file:
        os.write(1, b"!")
        while time.monotonic() < until:
            start = dice.randrange(len(content) - 4096)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(file.fileno(), 4096, start) == content[start : start + 4096]
            reads += 1
            if reads % 5 == 0:
                assert os.listdir(directory) == [name]
                assert os.stat(path).st_size == len(content)
                with open(path, "rb") as again:
                    again.seek(start)
                    assert again.read(100) == content[start : start + 100]
    return reads


def output_of(words: list[str]) -> str:
    """Run a command to its end, and return all that it says."""
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


def hold_mapping(path: str) -> str:
    """Map a file, close it, say so with a byte, and hash the mapping when standard input ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)  # Python's own would keep a descriptor
    os.close(fd)
    os.write(1, b"!")
    os.read(0, 1)
    return hashlib.sha256((ctypes.c_char * size).from_address(address)).hexdigest()


def interrupted_reads(path: str, count: int) -> None:
    """Read a file in as many processes, one after the other, each killed before it has its bytes, most at once."""
    dice = random.Random(1)
    for _ in range(count):
        child = os.fork()
        if child == 0:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
            os.preadv(fd, [mmap.mmap(-1, 4096)], 4096 * dice.randrange(64))
            os._exit(0)
        time.sleep(dice.random() * 0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _main() -> None:
    """Call the function that a pickle on the command line names, and print the pickled outcome."""
    function, args, kwargs = pickle.loads(bytes.fromhex(sys.argv[1]))
    outcome: tuple[str, object]
    try:
        outcome = "returned", function(*args, **kwargs)
    except Exception as exc:
        outcome = "raised", exc
    sys.stdout.buffer.write(pickle.dumps(outcome))


if __name__ == "__main__":
    from tests import under  # under its own name, which is what its classes are pickled with

    under._main()
