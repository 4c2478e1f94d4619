"""Readers of a blob whose origin swaps it: processes that read in different ways, and say of which version all was.

A *pass* is what came through one open file. Which bytes a version has is known (`Versions`), so each pass is of
exactly one version or it is wrong. Only the standard library is imported: this runs under a mount (tests/under.py).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import mmap
import os
import pickle
import random
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.misbehaving_origin.contents import random_bytes

BLOCK = 64 * 1024
PAUSE = 0.02
"""Seconds between two passes, at the most: others want to use the machine, too."""

AFTER = 2
"""Passes that each reader begins after it was told of the swap, at the least."""


@dataclass(frozen=True)
class Versions:
    """The versions of a blob, from 1: their sizes, and the seed that their bytes are made of."""

    seed: str
    sizes: tuple[int, ...]

    def content(self, version: int) -> bytes:
        """Return all bytes of a version."""
        return _content(self, version)


@functools.lru_cache(4)
def _content(versions: Versions, version: int) -> bytes:
    return random_bytes(versions.sizes[version - 1], versions.seed, version=version)


@dataclass(frozen=True)
class Pass:
    """What came through one open file. `reader` is called by its way.

    `versions` are those that its size and all its bytes are of: one, or several while there were too few bytes to
    tell, or none when it is `wrong`. `error` names what ended it. *Units*: `began` (before the file was opened) and
    `ended` are the monotonic clock's seconds; `count` bytes.
    """

    reader: str
    began: float
    ended: float
    versions: tuple[int, ...]
    count: int
    error: str = ""
    wrong: str = ""


class _WrongError(Exception):
    """Bytes or a size that no version has."""


class Witness:
    """Sees what comes through one open file, and knows which versions it can be of."""

    def __init__(self, versions: Versions, size: int) -> None:
        self._all = versions
        self.size = size
        self.versions = {number for number, due in enumerate(versions.sizes, 1) if due == size}
        self.count = 0
        if not self.versions:
            raise _WrongError(f"a size of {size}, but the versions have {versions.sizes}")

    def see(self, offset: int, length: int, content: bytes) -> None:
        """Take in what a read of `length` bytes has returned. *Raises*: _WrongError."""
        due = max(0, min(length, self.size - offset))
        if len(content) != due:
            raise _WrongError(f"{len(content)} bytes at {offset} of {self.size}, asked for {length}")
        self.count += due
        left = {number for number in self.versions if self._all.content(number)[offset : offset + due] == content}
        if not left:
            raise _WrongError(f"a mix: was of {sorted(self.versions)}, then {self._blocks(offset, content)}")
        self.versions = left

    def _blocks(self, offset: int, content: bytes) -> str:
        """Say of which version each block's part of some bytes is."""
        found = []
        for start in range(offset - offset % BLOCK, offset + len(content), BLOCK):
            first = max(start, offset)
            part = content[first - offset : start + BLOCK - offset]
            of = [number for number in range(1, len(self._all.sizes) + 1) if self._is(number, first, part)]
            found.append((start // BLOCK, f"{of or 'neither'}" + ("" if any(part) else ", zeros")))
        runs = [[*run] for _, run in itertools.groupby(found, lambda block: block[1])]
        shown = ", ".join(f"blocks {run[0][0]} to {run[-1][0]} of {run[0][1]}" for run in runs)
        return f"{len(content)} bytes at {offset}: {shown}"

    def _is(self, version: int, offset: int, part: bytes) -> bool:
        return self._all.content(version)[offset : offset + len(part)] == part


Read = Callable[[int, Witness, random.Random, "Told"], None]


class Told:
    """Whether the swap is over: the other end of a pipe is then closed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, wait: float = 0.0) -> bool:
        return bool(select.select([self._fd], [], [], wait)[0])


def _piece(fd: int, witness: Witness, offset: int, length: int) -> None:
    """Read bytes; a read may stop short in front of what cannot be read, but then says so when it is asked again."""
    pieces, at, stop = [], offset, min(offset + length, witness.size)
    while at < stop and (piece := os.pread(fd, stop - at, at)):
        pieces.append(piece)
        at += len(piece)
    witness.see(offset, length, b"".join(pieces))


def _by_read(fd: int, witness: Witness, dice: random.Random, told: Told) -> None:
    offset = 0
    while piece := os.read(fd, BLOCK):
        witness.see(offset, len(piece), piece)
        offset += len(piece)
    witness.see(offset, 1, b"")


def _at_once(fd: int, witness: Witness, dice: random.Random, told: Told) -> None:
    _piece(fd, witness, 0, witness.size + 1)


def _at_random(fd: int, witness: Witness, dice: random.Random, told: Told) -> None:
    for _ in range(24):
        _piece(fd, witness, dice.randrange(witness.size), dice.choice((1, 4096, 70_000, 200_000)))


def _past_the_page_cache(fd: int, witness: Witness, dice: random.Random, told: Told) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for _ in range(16):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        _piece(fd, witness, dice.randrange(witness.size), dice.choice((4096, 100_000)))


def _one_piece(fd: int, witness: Witness, dice: random.Random, told: Told) -> None:
    _piece(fd, witness, dice.randrange(witness.size), 30_000)


def _direct(fd: int, witness: Witness, dice: random.Random, told: Told) -> None:
    length, offset = 2 * BLOCK, 0
    with mmap.mmap(-1, length) as buffer:  # page-aligned, as O_DIRECT wants it
        while count := os.preadv(fd, [buffer], offset):
            witness.see(offset, count, buffer[:count])
            offset += count
    witness.see(offset, 1, b"")


def _held(fd: int, witness: Witness, dice: random.Random, told: Told) -> None:
    """Read some; when the swap is over that must be there again, with and without the page cache, and maybe more."""
    starts = range(0, witness.size, BLOCK)
    before = []
    with contextlib.suppress(OSError):
        for start in dice.sample(starts, len(starts) // 4):
            _piece(fd, witness, start, BLOCK)
            before.append(start)
    told(60.0)
    for drop in (False, True):
        if drop:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for start in before:
            try:
                _piece(fd, witness, start, BLOCK)
            except OSError as exc:
                raise _WrongError(f"what was read before at {start} is gone: {_name(exc)}") from exc
    for start in starts:
        _piece(fd, witness, start, BLOCK)


def _mapped(fd: int, witness: Witness, dice: random.Random, told: Told) -> None:
    """Read through a mapping, in a child that a page which cannot be had may kill; see what it had until then."""
    with mmap.mmap(-1, 8 + witness.size) as seen:
        child = os.fork()
        if child == 0:
            try:
                with mmap.mmap(fd, witness.size, prot=mmap.PROT_READ) as mapping:
                    for start in range(0, witness.size, 4096):
                        seen[8 + start : 8 + start + 4096] = mapping[start : start + 4096]
                        seen[:8] = struct.pack("q", min(start + 4096, witness.size))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        (count,) = struct.unpack("q", seen[:8])
        witness.see(0, count, seen[8 : 8 + count])
        if os.WIFSIGNALED(status):
            raise OSError(-os.WTERMSIG(status), "killed by a signal")
        if count != witness.size:
            raise _WrongError(f"a mapping was read up to {count} of {witness.size}")


WAYS: dict[str, Read] = {
    "read": _by_read,
    "at once": _at_once,
    "at random": _at_random,
    "past the page cache": _past_the_page_cache,
    "one piece": _one_piece,
    "direct": _direct,
    "mapped": _mapped,
    "held": _held,
}
"""How each of the readers reads."""


def _name(exc: OSError) -> str:
    number = exc.errno or 0
    return signal.Signals(-number).name if number < 0 else errno.errorcode.get(number, str(number))


def _pass(path: str, reader: str, way: str, versions: Versions, dice: random.Random, told: Told) -> Pass:
    """Open, read in some way, close."""
    began = time.monotonic()
    witness: Witness | None = None
    error = wrong = ""
    try:
        fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if way == "direct" else 0))
        try:
            witness = Witness(versions, os.fstat(fd).st_size)
            WAYS[way](fd, witness, dice, told)
            if os.fstat(fd).st_size != witness.size:
                raise _WrongError("the size of an open file has changed")
        finally:
            os.close(fd)
    except OSError as exc:
        error = _name(exc)
    except _WrongError as exc:
        wrong = str(exc)
    of = tuple(sorted(witness.versions)) if witness is not None and not wrong else ()
    return Pass(reader, began, time.monotonic(), of, witness.count if witness else 0, error, wrong)


def _passes(
    path: str, way: str, versions: Versions, seed: int, told: Told, until_new: bool, seconds: float
) -> Iterator[Pass]:
    """Read again and again until the swap is over and a few passes were made after it; `until_new`, one of them new."""
    dice, last, after, new = random.Random(f"{seed} {way}"), len(versions.sizes), 0, False
    deadline = time.monotonic() + seconds
    while (after < AFTER or (until_new and not new)) and time.monotonic() < deadline:
        after += told()
        # Who holds a file open does so once, and then reads on like the first.
        made = _pass(path, way, "read" if way == "held" and after else way, versions, dice, told)
        new = made.versions == (last,) and not made.error
        yield made
        time.sleep(dice.uniform(0, PAUSE))


def read_across_a_swap(path: str, versions: Versions, seed: int, *, until_new: bool, seconds: float) -> list[Pass]:
    """Read in all the ways at once, each in a process of its own, until told twice: to begin, and of the swap.

    A byte on standard output says that all are ready, each byte on standard input is one of these. *Units*: `seconds`
    is for how long the readers go on at the most.
    """
    begin, begun = os.pipe()
    over, ended = os.pipe()
    results = []
    for way in WAYS:
        result, given = os.pipe()
        if os.fork() == 0:
            try:
                for fd in (begun, ended, result):
                    os.close(fd)
                Told(begin)(60.0)
                passes = list(_passes(path, way, versions, seed, Told(over), until_new, seconds))
                with os.fdopen(given, "wb") as file:
                    file.write(pickle.dumps(passes))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(given)
        results.append(result)
    os.write(1, b"!")
    for pipe in (begun, ended):
        os.read(0, 1)
        os.close(pipe)
    passes = []
    for result in results:
        with os.fdopen(result, "rb") as file:
            passes += pickle.loads(file.read())
    for _ in results:
        os.wait()
    return passes
