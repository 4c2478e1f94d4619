"""What must be true of a store whatever its processes do, and in whatever order; for the explorer (interleavings.py).

In every state:

- a block that is marked present has its bytes, and they are an origin's;
- a block's bytes are changed only by who holds its lock;
- a blob's files are made only by who holds the set-up lock, and deleted by who has it in use, alone;
- the disk holds no more than the bound, `used` is no less than what is on the disk and in the pools (Q1), and a slot no
  less than what its process has yet to write (Q2);
- of a blob that is pinned or leased no eviction begins, and of one that the kernel reads none is under way;
- a blob that is known by its digest is not whole unless it matches.

At the end, with all processes gone or killed: no lock is left; whoever comes next empties the trash, counts as used
what is on the disk, and can fetch any block.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from lazyfs import records
from lazyfs.extents import Extent
from lazyfs.store import BlobFile, Store, trash
from lazyfs.store.behind import Behind
from lazyfs.store.blobfile import open_blob
from lazyfs.store.catalogue import Catalogue
from lazyfs.store.eviction import Evictor
from lazyfs.store.layout import Layout
from lazyfs.store.quota import QuotaKeeper
from lazyfs.versions import BlobId
from tests.model.interleavings import Accesses, Mode
from tests.model.kernel import Kernel

BLOCK = 4096  # less than a store allows; no smaller hole can be punched
_FAR = 1 << 62
_IN_USE, _SET_UP, _UPDATE = _FAR, _FAR + 1, _FAR

Body = Callable[["Host"], None]


@dataclass(frozen=True)
class Scenario:
    """What processes do at the same time, one `body` each, with a blob of so many blocks, some of them present.

    *Units*: `bound` blocks.
    """

    name: str
    bodies: Sequence[Body]
    blocks: int = 2
    present: Sequence[int] = ()
    bound: int = 8
    digest: bool = False
    opened: bool = True  # whether all have the blob open from the beginning
    at_end: Callable[[World], None] = lambda world: None  # what else must be true then


class Host:
    """One of the processes."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.layout = world.layout
        self.quota = QuotaKeeper(world.layout)
        self.evictor = Evictor(world.layout, self.quota, lambda blobs: None)
        self.store = Store(world.layout, cast("Catalogue", None), self.quota, self.evictor, cast("Behind", None), BLOCK)
        self.file: BlobFile | None = None
        self.left = False  # it writes nothing more

    @property
    def blob(self) -> BlobFile:
        """The blob, which is opened when it is not open yet."""
        if self.file is None:
            self.file = open_blob(self.layout, self.world.blob_id, self.world.size, BLOCK)
        return self.file


class World:
    """A play of a scenario, and the eye on all of it."""

    def __init__(self, scenario: Scenario, kernel: Kernel, path: Path) -> None:
        self.kernel = kernel
        self.scenario = scenario
        self.path = path
        self.size = scenario.blocks * BLOCK
        self.content, self.wrong, self.blob_id = _contents(scenario.blocks, digest=scenario.digest)
        self.asked: list[Extent] = []
        self.survivors: set[int] = set()  # processes that came to their end
        self._quota = f"{path}/quota"
        self.pinned = 0  # blocks that were present when the blob was pinned, or leased; one more, if none may go
        self.leased_by = -1
        shutil.rmtree(path, ignore_errors=True)
        for name in ("blobs", "trash"):
            (path / name).mkdir(parents=True)
        kernel.begin()
        root, blobs, trashed = (kernel.enter(path / name) for name in (".", "blobs", "trash"))
        self.layout = Layout(path, root, blobs, trashed)
        self.hosts: list[Host] = []
        self._prepare()
        self.bodies: Sequence[Callable[[], None]] = [
            partial(body, host) for body, host in zip(scenario.bodies, self.hosts, strict=True)
        ]

    def _prepare(self) -> None:
        with self.kernel.prepare(-1):
            maker = Host(self, -1)
            maker.quota.set_bounds(self.scenario.bound * BLOCK, None)
            maker.evictor.recount()
            for index in self.scenario.present:
                maker.blob.record(index, maker.store.write(maker.blob, index, [self.block(index)])[0])
            maker.quota.close()
        self.kernel.close_all(-1)
        for number in range(len(self.scenario.bodies)):
            with self.kernel.prepare(number):
                host = Host(self, number)
                self.hosts.append(host)
                if self.scenario.opened:
                    assert host.blob
                host.evictor.recount()

    def block(self, index: int) -> bytes:
        """The right bytes of a block."""
        return self.content[index * BLOCK : (index + 1) * BLOCK]

    # What the explorer asks.

    def release(self, process: int) -> Accesses:
        """As `Play.release`."""
        if process == self.leased_by:
            self.pinned = 0
        return self.kernel.close_all(process)

    def ended(self, process: int) -> None:
        """As `Play.ended`."""
        left = [
            (file, lock)
            for file in self.kernel.locked_files(process)
            for lock in self.kernel.locks_of(process, file)
            if (lock[0] == _UPDATE if file == self._quota else lock[0] != _IN_USE)
        ]
        assert not left, f"a process ends and has locked {left}"
        self.survivors.add(process)
        trouble = self.hosts[process].store.trouble.reason
        assert not trouble, f"the store is in trouble: {trouble}"

    def check(self, touched: Accesses) -> None:
        """As `Play.check`."""
        names = {os.path.basename(access.thing) for access in touched}
        if "data" in names:
            self._check_writer(touched)
        if any(name.startswith(("data", "map")) for name in names):
            self._check_blocks()
            if self.pinned:
                self._check_pin()
        self._check_quota()

    def finish(self) -> None:
        """As `Play.finish`."""
        for lock in self.path.glob("*/**/lock"):
            assert not _locked(lock), f"{lock} is locked, and nobody is left"
        with self.kernel.prepare(-1):
            after = Host(self, -1)
            trash.sweep(self.layout)
            assert not os.listdir(self.layout.trash), "something is left in the trash"
            after.evictor.recount()
            used, there = after.quota.look().used, self._disk_bytes()
            assert used == there, f"{used} bytes count as used, and {there} are on the disk"
            after.quota.close()
            for index in range(self.scenario.blocks):
                assert self._can_have(index), f"block {index} is not to be had"
            self.scenario.at_end(self)
        self.kernel.close_all(-1)

    def _can_have(self, index: int) -> bool:
        """Say whether who comes next finds a block, or its lock to fetch it."""
        with contextlib.closing(open_blob(self.layout, self.blob_id, self.size, BLOCK)) as file:
            return file.read(index, wait=True) is not None or bool(file.locks.try_blocks(Extent(index, index + 1)))

    def present(self) -> list[int]:
        """Return the blocks that are present, as the next to open the blob finds them."""
        with contextlib.closing(open_blob(self.layout, self.blob_id, self.size, BLOCK)) as file:
            return [index for index in range(self.scenario.blocks) if file.read(index, wait=True) is not None]

    def marked(self) -> int:
        """Return how many blocks are marked present."""
        (entries,) = (_content(f"{directory}/map") for directory in self._directories())
        return sum(map(bool, records.unpack_entries(entries[records.MAP_HEADER_SIZE :], self.scenario.blocks)))

    def _check_pin(self) -> None:
        """One eviction may have begun when the pin came, since each holds its block's lock alone."""
        assert self.marked() >= self.pinned - 1, "a block is evicted although its blob is kept"

    def _check_writer(self, touched: Accesses) -> None:
        process = self.kernel.process
        assert process is not None
        for access in touched:
            if not access.thing.endswith("/data") or access.thing.startswith("locks of"):
                continue
            if access.mode is not Mode.CHANGE:
                continue
            lock = access.thing.removesuffix("data") + "lock"
            if access.stop <= self.size:
                block = access.start // BLOCK
                assert self._has(process, lock, block), f"block {block} is changed by who does not hold its lock"
            elif not self._has(process, lock, _SET_UP):
                others = [host.number for host in self.hosts if host.number != process]
                alone = not any(self._has(other, lock, _IN_USE) for other in others)
                owned = alone and self._has(process, lock, _IN_USE)
                assert owned, "a blob is made or deleted by who does not own it"

    def _has(self, process: int, file: str, byte: int) -> bool:
        return any(start <= byte < stop for start, stop in self.kernel.locks_of(process, file))

    def _check_blocks(self) -> None:
        for directory in self._directories():
            entries, data = _content(f"{directory}/map"), _content(f"{directory}/data")
            if not data:
                continue  # it is being made, or deleted
            whole = []
            for index, entry in enumerate(
                records.unpack_entries(entries[records.MAP_HEADER_SIZE :], self.scenario.blocks)
            ):
                if entry != records.MISSING:
                    block = data[index * BLOCK : (index + 1) * BLOCK]
                    assert records.checksum(block) == entry, f"block {index} is marked present without its bytes"
                    right = block == self.block(index)
                    assert right or block == self.wrong[index * BLOCK : (index + 1) * BLOCK], (
                        f"block {index} is nobody's"
                    )
                    whole.append(right)
            if self.scenario.digest and len(whole) == self.scenario.blocks:
                assert all(whole), "a blob is whole and does not match its digest"

    def _check_quota(self) -> None:
        there, bound = self._disk_bytes(), self.scenario.bound * BLOCK
        assert there <= bound, f"{there} bytes are on the disk, and the bound is {bound}"
        if any(self._has(host.number, self._quota, _UPDATE) for host in self.hosts):
            return
        raw = _content(self._quota)
        used = records.unpack_quota(raw).used
        slots = raw[records.QUOTA_SIZE :]
        pools = 0
        for host in self.hosts:
            if not host.left and self.kernel.locks_of(host.number, self._quota):
                pools += host.quota._pool
                value = records.unpack_entries(slots, host.quota._slot + 1)[host.quota._slot]
                yet = host.quota._pool + host.quota._taken
                assert value >= yet, f"Q2: the slot says {value}, and {yet} may be written"
        assert used >= there + pools, f"Q1: {used} are used, but {there} are on the disk and {pools} reserved"

    def _disk_bytes(self) -> int:
        total = 0
        for directory in self._directories():
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(f"{directory}/data").st_blocks * 512
        return total

    def _directories(self) -> list[str]:
        """Return the directories of blobs, in the store and in the trash."""
        places = [f"{self.path}/trash", *(shelf.path for shelf in os.scandir(self.path / "blobs"))]
        return [directory.path for place in places for directory in os.scandir(place)]


@functools.cache
def _contents(blocks: int, *, digest: bool) -> tuple[bytes, bytes, BlobId]:
    """Return a blob's right and wrong bytes, and its id."""
    right = b"".join(bytes([number + 1]) * BLOCK for number in range(blocks))
    wrong = b"".join(bytes([number + 129]) * BLOCK for number in range(blocks))
    return right, wrong, BlobId("sha256-" + hashlib.sha256(right).hexdigest() if digest else "url-" + "ab" * 32)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _locked(path: Path) -> bool:
    flock = struct.Struct("hhqqi4x")
    with path.open("r+b") as file:
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, flock.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    return bool(flock.unpack(answer)[0] != fcntl.F_UNLCK)
