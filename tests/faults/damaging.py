"""What can happen to a file of the store, and what a session must make of it: right bytes, or an error in one line.

A case damages one file or directory of a store that somebody was killed in, either before a session opens it, or while
one has it open and has read half of each file. Then everything is read, by who was there and by who comes after, with
the origin or without it; at the end fsck --repair must make it sound, and then everything must be right.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import trio

from lazyfs.blob import Limits
from lazyfs.errors import LazyfsError, StoreError, first_reason
from lazyfs.filling import open_path
from lazyfs.origin.client import ClientOptions
from lazyfs.session import Session, Settings, open_session
from lazyfs.sources.spec import parse_source
from lazyfs.store.fsck import Fsck
from tests import under

BLOCK = 64 * 1024
HALF = 3 * BLOCK
READ_TIMEOUT = 5.0
PATIENCE = 30.0
"""Seconds for one session of a case."""


@dataclass(frozen=True)
class Ground:
    """What is served, and a store that knows it: of `part.img` some blocks, of the others all of them."""

    docroot: Path
    store: Path
    sources: tuple[str, ...]

    def right(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.docroot / name.rpartition("/")[2]).read_bytes()


NAMES = ("part.img", "whole.img", "index/small.txt")


def make_ground(directory: Path, url: str) -> Ground:
    """Fill `directory/docroot`, which `url` serves, and use a store until it is as a killed process leaves it."""
    docroot, store, dice = directory / "docroot", directory / "store", random.Random(1)
    (docroot / "index").mkdir(parents=True)
    for name, size in (("part.img", 6 * BLOCK + 1000), ("whole.img", 6 * BLOCK)):
        (docroot / name).write_bytes(dice.randbytes(size))
    (docroot / "small.txt").write_bytes(dice.randbytes(1000))
    (docroot / "index" / "small.txt").write_bytes((docroot / "small.txt").read_bytes())
    entry = {
        "path": "whole.img",
        "url": f"{url}/whole.img",
        "digest": f"sha256:{under.sha256(str(docroot / 'whole.img'))}",
    }
    manifest = directory / "list.jsonl"
    manifest.write_text(json.dumps(entry) + "\n")
    ground = Ground(docroot, store, (f"{url}/part.img", str(manifest), f"index={url}/index/"))

    async def use() -> None:
        async with _session(directory / "first", ground.sources) as session:
            for name in NAMES[1:]:
                await _read(session, name, 0, 1 << 30)
            for block in (0, 1, 4):
                await _read(session, "part.img", block * BLOCK, BLOCK)
            await trio.sleep(0.2)  # until what it has learnt is written down
            shutil.copytree(directory / "first", store, symlinks=True)

    trio.run(use)
    (next((store / "blobs").glob("*/sha256-*")) / "pin").touch(mode=0o600)
    (store / "scrub").write_bytes(b"1700000000 url- 0\n")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(store / "run" / "0123456789abcdef.sock"))
    return ground


# What can happen to a file, or to a directory.

Spoil = Callable[[Path, random.Random], None]


def _truncate(path: Path, dice: random.Random) -> None:
    os.truncate(path, dice.randrange(path.stat().st_size + 1))


def _empty(path: Path, _: random.Random) -> None:
    os.truncate(path, 0)


def _flip(path: Path, dice: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(size and dice.choice((1, 1, 8))):
            at = dice.randrange(dice.choice((min(size, 128), size)))
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << dice.randrange(8)]))


def _garbage(path: Path, dice: random.Random) -> None:
    with path.open("r+b") as file:
        file.write(dice.randbytes(max(100, path.stat().st_size)))


def _zeros(path: Path, dice: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(dice.randrange(max(1, path.stat().st_size)) // 512 * 512)
        file.write(bytes(512))


def _longer(path: Path, dice: random.Random) -> None:
    with path.open("ab") as file:
        file.write(dice.randbytes(5000))


def _delete(path: Path, _: random.Random) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink()
    while path.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # a session may put something into it meanwhile


def _directory(path: Path, dice: random.Random) -> None:
    _delete(path, dice)
    (path / "inner").mkdir(parents=True)


def _link(path: Path, _: random.Random) -> None:
    store = next(place for place in (path, *path.parents) if place.name == "store")
    elsewhere = store.with_name(f"elsewhere-{path.name}")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _dangling(path: Path, dice: random.Random) -> None:
    _delete(path, dice)
    path.symlink_to("nowhere")


def _fifo(path: Path, dice: random.Random) -> None:
    _delete(path, dice)
    os.mkfifo(path, 0o600)


def _file(path: Path, dice: random.Random) -> None:
    _delete(path, dice)
    path.write_bytes(b"no directory")


def _clear(path: Path, dice: random.Random) -> None:
    for inner in path.iterdir():
        _delete(inner, dice)


def _stranger(path: Path, _: random.Random) -> None:
    (path / "stranger").mkdir()
    (path / "stranger.txt").write_text("not ours")


def _open_to_others(path: Path, _: random.Random) -> None:
    path.chmod(0o777)


TO_FILES: dict[str, Spoil] = {
    "empty": _empty, "truncate": _truncate, "flip": _flip, "garbage": _garbage, "zeros": _zeros, "longer": _longer,
    "delete": _delete, "directory": _directory, "link": _link, "dangling": _dangling, "fifo": _fifo,
    "mode": _open_to_others,
}  # fmt: skip

TO_DIRECTORIES: dict[str, Spoil] = {
    "delete": _delete, "file": _file, "link": _link, "dangling": _dangling, "fifo": _fifo, "clear": _clear,
    "stranger": _stranger, "mode": _open_to_others,
}  # fmt: skip


class Case(NamedTuple):
    """What happens to what, and when."""

    target: str  # relative to the store
    damage: str
    in_use: bool
    offline: bool
    bounded: bool = False  # to less than there is

    def __str__(self) -> str:
        when = "in use" if self.in_use else "at rest"
        more = (", offline" if self.offline else "") + (", bounded" if self.bounded else "")
        return f"{self.damage} {self.target or 'the store'} {when}{more}"


def cases(store: Path) -> list[Case]:
    """All there are for a store."""
    found = []
    for path in [store, *sorted(store.rglob("*"))]:
        target = "" if path == store else str(path.relative_to(store))
        for damage in TO_DIRECTORIES if path.is_dir() else TO_FILES:
            for in_use in (False, True):
                # A file that SQLite has mapped must not be cut short: the kernel then sends SIGBUS to who has it.
                if path.is_socket() and damage not in ("delete", "directory", "link", "dangling", "fifo", "mode"):
                    continue
                if in_use and target.endswith("-shm") and damage in ("empty", "truncate"):
                    continue
                ways = ((False, False), (True, False), (False, True))
                found += [Case(target, damage, in_use, offline, bounded) for offline, bounded in ways]
    return found


def spoil_of(ground: Ground, case: Case) -> Spoil:
    """Return what does a case's damage."""
    return (TO_DIRECTORIES if (ground.store / case.target).is_dir() else TO_FILES)[case.damage]


@dataclass
class Outcome:
    """What a case came to."""

    right: int = 0  # files that were read rightly
    errors: list[str] = field(default_factory=list)  # reads that ended in an error
    refused: str = ""  # why the store was not opened, or not mended
    wrong: list[str] = field(default_factory=list)  # what must not be


def run_case(ground: Ground, case: Case, directory: Path, seed: int) -> Outcome:
    """Damage a copy of the store in `directory` and use it."""
    store, outcome, dice = directory / "store", Outcome(), random.Random(f"{seed} {case}")
    shutil.copytree(ground.store, store, symlinks=True, copy_function=copy_file)
    spoil = spoil_of(ground, case)

    def damage() -> None:
        spoil(store / case.target, dice)

    with _watched(outcome):
        if not case.in_use:
            damage()
        _run(outcome, _use, store, ground, outcome, case, damage)
        if not outcome.refused:
            _mend(store, outcome)
        if not outcome.refused:
            after = Outcome()
            _run(after, _use, store, ground, after, Case("", "", False, False), damage)
            outcome.wrong += after.wrong + [
                f"after the repair: {text}" for text in [*after.errors, after.refused] if text
            ]
    return outcome


def copy_file(source: str, target: str) -> None:
    """Copy a file; of a socket, one that nobody listens on."""
    if Path(source).is_socket():
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
            dead.bind(target)
    else:
        shutil.copy2(source, target)


@contextlib.contextmanager
def _watched(outcome: Outcome) -> Iterator[None]:
    """Take what the log says; a traceback in it is wrong."""

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.exc_info or "\n" in text or "unforeseen" in text:
                outcome.wrong.append(f"logged: {text} {record.exc_info and record.exc_info[1]!r}")

    watch = Watch()
    logging.getLogger("lazyfs").addHandler(watch)
    try:
        yield
    finally:
        logging.getLogger("lazyfs").removeHandler(watch)


def _run(outcome: Outcome, function: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run a session to its end, and take what it raises."""

    async def bounded() -> None:
        with trio.fail_after(PATIENCE):
            await function(*args)

    try:
        trio.run(bounded)
    except BaseException as exc:
        reason = first_reason(exc)
        if not isinstance(reason, LazyfsError) or "\n" in str(reason):
            outcome.wrong.append(f"raised: {exc!r}, {exc.__cause__!r}")
        else:
            outcome.refused = str(reason)


@contextlib.asynccontextmanager
async def _session(
    store: Path, sources: tuple[str, ...], *, offline: bool = False, bounded: bool = False
) -> AsyncIterator[Session]:
    settings = Settings(
        store,
        ClientOptions(offline=offline),
        Limits(read_timeout=READ_TIMEOUT, memory=0),
        block_size=BLOCK,
        max_cache=5 * BLOCK if bounded else None,
    )
    async with open_session(settings) as session:
        for source in sources:
            with contextlib.suppress(LazyfsError):  # a name that is not known, offline
                await session.add(parse_source(source))
        yield session


async def _use(store: Path, ground: Ground, outcome: Outcome, case: Case, damage: Callable[[], None]) -> None:
    """Read everything; with `in_use`, half of it before the damage is done, and then all of it in another session."""
    async with _session(store, ground.sources, offline=case.offline, bounded=case.bounded) as session:
        if not case.in_use:
            for name in NAMES:
                await _compare(session, ground, name, 0, outcome)
            return
        for name in NAMES:
            await _compare(session, ground, name, 0, outcome, HALF)
        damage()
        for name in NAMES:
            await _compare(session, ground, name, 0, outcome)
        try:
            async with _session(store, ground.sources, offline=case.offline, bounded=case.bounded) as another:
                for name in NAMES:
                    await _compare(another, ground, name, 0, outcome)
        except BaseException as exc:
            if not isinstance(reason := first_reason(exc), StoreError) or "\n" in str(reason):
                raise
            outcome.errors.append(f"another session: {reason}")
        for name in NAMES:
            await _compare(session, ground, name, HALF, outcome)


async def _compare(
    session: Session, ground: Ground, name: str, offset: int, outcome: Outcome, length: int = 1 << 30
) -> None:
    try:
        found = await _read(session, name, offset, length)
    except LazyfsError as exc:
        if "\n" in str(exc):
            outcome.wrong.append(f"an error of several lines: {exc}")
        outcome.errors.append(f"{name}: {exc}")
        return
    if found == ground.right(name)[offset : offset + length]:
        outcome.right += 1
    else:
        outcome.wrong.append(f"{name}: wrong bytes from {offset} on, {len(found)} of them")


async def _read(session: Session, name: str, offset: int, length: int) -> bytes:
    """Look a name up, open it, and read it to its end, or so far."""
    handle = await open_path(session.vfs, name)
    try:
        content = bytearray()
        while piece := await session.vfs.read(handle, offset + len(content), min(BLOCK, length - len(content))):
            content += piece
        return bytes(content)
    finally:
        session.vfs.release(handle)


def _mend(store: Path, outcome: Outcome) -> None:
    """Have fsck make the store sound, and say so."""
    try:
        list(Fsck(store, repair=True).run())
        left = [str(finding) for finding in Fsck(store, repair=False).run() if "left alone" not in finding.what]
    except StoreError as exc:
        outcome.refused = str(exc)
        if "\n" in str(exc):
            outcome.wrong.append(f"a refusal of several lines: {exc}")
        return
    outcome.wrong += [f"after the repair: {text}" for text in left]
