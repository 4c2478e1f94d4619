"""Tens of thousands of requests to an origin that fails most of them, and what is left over; for tests and tools/leaks.

It runs the whole read path, names to sockets, without FUSE: a session in this process, whose tasks, slots, flights and
locks can be looked at, with the misbehaving origin in another. Readers look names up, open, read, compare, close, and
are cancelled at random; what was fetched is forgotten again, so that a few names are good for any number of requests.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import hashlib
import logging
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from lazyfs import blob, ways
from lazyfs.entries import Entry
from lazyfs.errors import LazyfsError
from lazyfs.extents import Extent
from lazyfs.origin import slots, transport, wire
from lazyfs.session import Session
from lazyfs.store.blobfile import look_into
from lazyfs.store.locks import BlobLocks
from lazyfs.tree import ROOT_INODE, File
from tests.servers import MisbehavingOrigin
from tools.misbehaving_origin.contents import random_bytes

FAULTS = (
    "reset", "short", "stall", "stall-body", "drop", "garbage", "status=503", "status=429", "whole-206", "elsewhere",
    "always-gzip", "rate", "no-content-range", "no-range", "swap",
)  # fmt: skip
"""Each is what one request in EVERY to each name meets; the others get right answers."""

EVERY = 20

WRONG_BYTES = 4
"""Requests in EVERY, to names with a digest, that get a wrong byte: more, as these names are fewer."""

KINDS = ("plain", "no-conditions", "signed=10", "redirect-port", "digest", "digest")
"""What names have for good: no conditions, so that other versions come as answers; signatures that expire."""

NAMES = 120
HELD = 4
"""Names that are open from beginning to end, so that locks and flights have to go while their blob stays."""

SIZE, SIZE_WITH_DIGEST = 1 << 20, 2 << 16
BLOCK_SIZE = 1 << 16

CANCELLED = 0.3
"""The share of visits that are cut short, within CANCELLED_IN seconds."""
CANCELLED_IN = 0.5

OVER_WITHIN = 120.0
"""Seconds within which everything that readers have left is over."""

_ETAG = re.compile(r'"[0-9a-f]+-[0-9a-f]+-v(\d+)(?:-gzip)?"')


def hasten() -> None:
    """Let happen within a second what otherwise takes up to a minute: time-outs, and what is refused for a while.

    An origin of which each tenth answer is a 429 or a 503 would be spared, too.
    """
    vars(wire)["HEAD_TIMEOUT"] = vars(transport)["RATE_WINDOW"] = 1.0
    vars(blob)["REFUSED_FOR"] = vars(ways)["REFUSED_FOR"] = 0.5
    vars(blob)["FAILED_FOR"] = vars(slots)["STALLED"] = 0.2
    setattr(slots.Limit, "LEAST", 24.0)  # noqa: B010 - it is Final


@dataclass(frozen=True)
class Name:
    """A name under the session; `faults` are what it meets, each with the first request that does."""

    entry: Entry
    seed: str
    size: int
    faults: tuple[tuple[str, int], ...]

    def met(self, origin: MisbehavingOrigin) -> Iterator[tuple[str, int]]:
        """Yield how many requests have met each fault: here, and where this leads."""
        assert self.entry.url is not None
        for url in {self.entry.url, self.entry.url.replace("/redirect-port,", "/")}:
            requests = origin.stats(url)["requests"]
            for fault, first in self.faults:
                yield fault, max(0, (requests - first) // EVERY + 1)


def make_names(origin: MisbehavingOrigin) -> list[Name]:
    """Make the names, each kind in turn, so that each begins with another fault."""
    return [_name(origin, number, KINDS[number % len(KINDS)]) for number in range(NAMES)]


def _name(origin: MisbehavingOrigin, number: int, kind: str) -> Name:
    with_digest = kind == "digest"
    faults = list(FAULTS) + ["wrong-byte"] * (WRONG_BYTES if with_digest else 0)
    met = tuple((fault, (place + 3 * number) % EVERY + 2) for place, fault in enumerate(faults))
    behaviours = [] if kind in ("plain", "digest") else [kind]
    behaviours += [f"{fault}@{first}+{EVERY}" for fault, first in met]
    seed, size = f"seed{number}", SIZE_WITH_DIGEST if with_digest else SIZE
    digest = f"sha256:{hashlib.sha256(random_bytes(size, seed)).hexdigest()}" if with_digest else None
    url = origin.url(",".join(behaviours), f"random-{size}-{seed}")
    return Name(Entry(f"{number:02}-{kind}", url=url, digest=digest), seed, size, met)


class Campaign:
    """Readers of a session and what they met. `requests` is how many there are to be when they may leave."""

    def __init__(self, session: Session, origin: MisbehavingOrigin, seed: int) -> None:
        self.session = session
        self.origin = origin
        self.names = make_names(origin)
        self.requests = 0
        self.reads = self.cancelled = self.swaps = self.forgotten = 0
        self.errors = collections.Counter[str]()
        self.wrong: list[str] = []
        self._seed = seed
        self._kept: list[tuple[File, int]] = []
        session.vfs.announce(name.entry for name in self.names)

    async def run(self, requests: int, readers: int) -> None:
        """Have so many readers at work until the origin got so many requests in all."""
        self.requests = requests
        async with trio.open_nursery() as nursery:
            for number in range(readers):
                nursery.start_soon(self._reader, random.Random(f"{self._seed} {requests} {number}"))
            nursery.start_soon(self._swap_now_and_then, random.Random(f"{self._seed} {requests}"))

    @property
    def _enough(self) -> bool:
        return self.session.counters.origin_requests >= self.requests

    async def hold(self) -> None:
        """Open some names for good."""
        for name in self.names[:HELD]:
            while len(self._kept) < HELD:
                with suppress(LazyfsError):
                    self._kept.append(await self._open(name))
                    break

    def let_go(self) -> None:
        """Close them."""
        for file, handle in self._kept:
            self._close(file, handle)
        self._kept.clear()

    async def _reader(self, dice: random.Random) -> None:
        while not self._enough:
            cut_short = dice.random() < CANCELLED
            with trio.move_on_after(dice.random() * CANCELLED_IN if cut_short else float("inf")) as scope:
                try:
                    await self._visit(dice.choice(self.names), dice)
                except LazyfsError as exc:
                    self.errors[type(exc).__name__] += 1
                    await trio.sleep(0.01)  # what is refused at once must not keep everybody else from their turn
            self.cancelled += scope.cancelled_caught

    async def _visit(self, name: Name, dice: random.Random) -> None:
        file, handle = await self._open(name)
        try:
            if name.entry.digest is not None:
                await self._read_through(name, handle)
                return
            if dice.random() < 0.2:
                self._forget(file)
            offset, on = dice.randrange(name.size), dice.random() < 0.2
            for _ in range(6 if on else dice.randrange(1, 4)):
                stop = min(offset + dice.choice((1, 4096, 4096, 70_000, 300_000)), name.size)
                await self._read(name, file, handle, offset, stop)
                offset = stop if on and stop < name.size else dice.randrange(name.size)
        finally:
            self._close(file, handle)
            if name.entry.digest is not None and file.blob_id not in self.session.blobs._open:
                self._forget(file)  # without an await: nobody must have a part of it from before and one from after

    async def _open(self, name: Name) -> tuple[File, int]:
        """Look a name up and open it, as the kernel does."""
        vfs = self.session.vfs
        file = await vfs.lookup(ROOT_INODE, name.entry.path)
        assert isinstance(file, File)
        vfs.tree.remember(file)
        try:
            return file, await vfs.open(file.inode)
        except BaseException:
            vfs.tree.forget(file.inode, 1)
            raise

    def _close(self, file: File, handle: int) -> None:
        self.session.vfs.release(handle)
        self.session.vfs.tree.forget(file.inode, 1)

    async def _read(self, name: Name, file: File, handle: int, offset: int, stop: int) -> None:
        content = await self.session.vfs.read(handle, offset, stop - offset)
        self.reads += 1
        assert file.known is not None
        version = _ETAG.fullmatch(file.known.version.etag or "")
        assert version is not None, file.known
        if content != random_bytes(name.size, name.seed, offset, stop, int(version[1])):
            self.wrong.append(f"{name.entry.path}, version {version[1]}: bytes {offset} to {stop}")

    async def _read_through(self, name: Name, handle: int) -> None:
        """Read a blob to its end: who gets there has the right bytes, which is all that a digest promises."""
        content = bytearray()
        while len(content) < name.size:
            content += await self.session.vfs.read(handle, len(content), 50_000)
        self.reads += 1
        if content != random_bytes(name.size, name.seed):
            self.wrong.append(f"{name.entry.path}: read to its end")

    def _forget(self, file: File) -> None:
        """Take a blob's blocks out of the store and out of memory, as if they had been evicted."""
        assert file.known is not None
        assert file.blob_id is not None
        self.forgotten += 1
        try:
            stored = look_into(self.session.store.layout, file.blob_id)
        except FileNotFoundError:  # it was thrown away
            return
        with closing(stored):
            for index in range(stored.geometry.blocks):
                stored.forget(index)
        self.session.blobs.memory.drop(file.blob_id)

    async def _swap_now_and_then(self, dice: random.Random) -> None:
        """Put new versions under names that nobody keeps open and no digest is for."""
        names = [name for name in self.names[HELD:] if name.entry.digest is None]
        while not self._enough:
            name = dice.choice(names)
            await trio.to_thread.run_sync(self.origin.swap, f"random-{name.size}-{name.seed}")
            self.swaps += 1
            until = trio.current_time() + 1.0
            while not self._enough and trio.current_time() < until:
                await trio.sleep(0.05)


# What is left over.


async def counted(session: Session, origin: MisbehavingOrigin) -> dict[str, int]:
    """Count what has to go with the readers. Of connections, idle ones are not counted."""
    client, blobs, nodes = session.client, session.blobs, session.vfs.tree._inodes.values()
    places, opened = client._sender._slots.values(), blobs._open.values()
    unused = idle(session)
    connections = _sockets(origin) - unused
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")) - len(connections | unused),
        "connections": len(connections),
        "answers under way": await trio.to_thread.run_sync(_under_way, origin),
        "slots held": sum(len(one._held) for one in places),
        "slots waited for": sum(len(one._waiting) for one in places),
        "targets resolved anew": len(client._sender._resolving),
        "flights": sum(len(one._flights) for one in opened),
        "flights led": sum(one._busy for one in opened),
        "blocks locked": sum(len(one._fetcher._locked) for one in opened),
        "blobs open": len(opened),
        "blobs being opened": len(blobs._opening),
        "handles": len(session.vfs.files._files),
        "look-ups": sum(node.lookups for node in nodes),
        "nodes that nobody knows": sum(not node.attached and not node.lookups for node in nodes),
        "probes": len(session.resolver._probes._under_way) + len(session.resolver._revalidating),
    }


def _under_way(origin: MisbehavingOrigin) -> int:
    """Count the origin's answers; its statistics, with a line for each request, are not to outlive this."""
    return sum(path["open"] for path in origin.stats()["paths"].values())


def bounded(session: Session) -> dict[str, tuple[int, int]]:
    """Count what is kept for names and origins, however many requests there are, and how many there may be."""
    client, origins = session.client, len(session.client._sender._slots)
    return {
        "idle connections": (len(idle(session)), wire.IDLE_MAX),
        "targets known": (len(client._sender._targets), NAMES),
        "failing": (len(client._sender.health._failing), NAMES + origins),
        "origins": (origins, 2),
        "wrong digests": (len(session.blobs._wrong), NAMES),
        "times of revalidation": (len(session.resolver._asked), NAMES),
    }


def idle(session: Session) -> set[int]:
    """Return the descriptors of the connections that wait to be used again."""
    transport_of_ours = session.client._sender._transport._http._transport
    assert isinstance(transport_of_ours, transport._Wire)
    return {connection._socket.fileno() for _, _, connection in transport_of_ours._pool._idle}


def _sockets(origin: MisbehavingOrigin) -> set[int]:
    """Return the descriptors of this process's connections to the origin, in whatever state they are."""
    ports = {int(url.rpartition(":")[2]) for url in (origin.base, origin.other)}
    inodes = set()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) in ports:
            inodes.add(f"socket:[{fields[9]}]")
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            if os.readlink(f"/proc/self/fd/{descriptor}") in inodes:
                found.add(int(descriptor))
    return found


async def quiet(
    session: Session, origin: MisbehavingOrigin, settled: Callable[[dict[str, int]], bool]
) -> dict[str, int]:
    """Wait, for OVER_WITHIN at the most, until what is counted has settled; return the counts."""
    deadline = trio.current_time() + OVER_WITHIN
    while not settled(counts := await counted(session, origin)) and trio.current_time() < deadline:
        await trio.sleep(0.1)
    return counts


def locked_blobs(session: Session) -> list[str]:
    """Return the blobs of the store of which somebody holds a lock."""
    held = []
    for path in sorted((session.store.layout.path / "blobs").glob("*/*/lock")):
        with path.open("rb+") as file:
            locks = BlobLocks(file.fileno())
            blocks = Extent(0, 1 << 20)
            if not locks.try_own() or locks.try_blocks(blocks) != blocks or not locks.try_pass():
                held.append(path.parent.name)
    return held


def memory() -> dict[str, int]:
    """Return the bytes of resident memory, what could be given back given back, and Python's small objects."""
    for _ in range(3):
        gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return {"resident": resident, "objects": sys.getallocatedblocks()}


class Unforeseen(logging.Handler):
    """Keeps what is logged of exceptions that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what came with an exception."""
        if record.exc_info and record.exc_info[0] is not None:
            self.found.append(logging.Formatter().format(record))
