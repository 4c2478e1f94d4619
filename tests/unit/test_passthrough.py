"""Which opens go past the daemon, told without a kernel: what it is given, when, and what is said when it refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from lazyfs import passthrough
from lazyfs.blob import Blob
from lazyfs.counters import Counters
from lazyfs.extents import Geometry
from lazyfs.passthrough import Passthrough
from lazyfs.store import BlobFile, Store
from lazyfs.versions import BlobId
from tests.unit.stores import BLOB, BLOCK, CONTENT, SIZE, block


class FakeKernel:
    """Keeps what it is given, as the kernel does; with `error`, it refuses."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.files: dict[int, int] = {}
        self.ids = 0

    def register(self, fd: int) -> int:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.ids += 1
        self.files[self.ids] = os.dup(fd)
        return self.ids

    def unregister(self, backing: int) -> None:
        os.close(self.files.pop(backing))


class FakeBlob:
    """What of an open blob is looked at."""

    def __init__(self, file: BlobFile) -> None:
        self.file = file
        self.uses_noted = 0

    @property
    def blob_id(self) -> BlobId:
        return self.file.blob_id

    @property
    def geometry(self) -> Geometry:
        return self.file.geometry

    def note_whole_use(self) -> None:
        self.uses_noted += 1


class World:
    """A passthrough over a real store with one blob in it."""

    def __init__(self, store: Store, file: BlobFile, nursery: trio.Nursery) -> None:
        self.file = file
        self.blob = FakeBlob(file)
        self.counters = Counters()
        self.kernel = FakeKernel()
        self.passthrough = Passthrough(store, self.counters, nursery)
        self.passthrough.on_idle = self.passthrough.forgotten

    def enter(self, inode: int = 1) -> int | None:
        return self.passthrough.enter(inode, cast("Blob", self.blob))

    def leave(self, inode: int = 1) -> None:
        self.passthrough.leave(inode)

    async def looked_through(self) -> None:
        """Wait until all that is being looked through has been."""
        while self.passthrough._looking:
            await trio.sleep(0.001)

    async def begin_whole(self) -> None:
        """Begin with a blob that is whole, and was looked through."""
        self.passthrough.begin(self.kernel)
        self.commit(0, 1, 2, 3)
        self.passthrough.look(self.file)
        await self.looked_through()

    def commit(self, *indexes: int) -> None:
        for index in indexes:
            self.file.record(index, *self.file.write(index, block(self.file, index)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(tmp_path / "store", BLOCK)) as store:
        yield store


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "LINGER", 0)
    monkeypatch.setattr(passthrough, "LEAST", SIZE)


def play(store: Store, body: Callable[[World], object]) -> None:
    """Run a play, which may be async, with the blob open."""

    async def main() -> None:
        with closing(store.open_blob(BLOB, "http://origin/blob", SIZE)) as file:
            async with trio.open_nursery() as nursery:
                world = World(store, file, nursery)
                result = body(world)
                if result is not None:
                    await cast("trio.lowlevel.Task", result)  # type: ignore[misc]
            assert world.kernel.files == {}, "the kernel keeps nothing"

    trio.run(main)


def test_a_whole_blob_goes_past_us_once_it_was_looked_through(store: Store) -> None:
    async def body(world: World) -> None:
        world.passthrough.begin(world.kernel)
        world.commit(0, 1, 2, 3)
        assert world.enter() is None, "nobody waits for the look"
        world.leave()
        await world.looked_through()
        first = world.enter()
        assert first is not None
        assert world.enter() == first, "an inode has one id"
        assert os.pread(world.kernel.files[first], SIZE, 0) == CONTENT[:SIZE]
        assert world.enter(inode=2) not in (None, first), "another inode has another"
        assert world.passthrough.state() == {"on": True, "reason": None, "open": 3, "blobs": 1}
        assert world.counters.passthrough_opens == 3
        assert world.blob.uses_noted == 2
        for inode in (1, 2, 1):
            world.leave(inode)
        assert world.passthrough.state()["open"] == 0
        assert len(world.kernel.files) == 2, "they may still be mapped"
        assert world.enter() == first, "it is opened again before the kernel has forgotten it"
        world.leave()

    play(store, body)


def test_another_daemon_need_not_look_through_what_one_has(store: Store) -> None:
    async def first(world: World) -> None:
        await world.begin_whole()

    def second(world: World) -> None:
        world.passthrough.begin(world.kernel)
        assert world.enter() is not None
        world.leave()

    def third(world: World) -> None:
        world.passthrough.begin(world.kernel)
        os.utime(world.file.files.data)
        assert world.enter() is None
        world.leave()

    for body in (first, second, third):
        play(store, body)


def test_an_incomplete_blob_is_not_looked_through(store: Store) -> None:
    def body(world: World) -> None:
        world.passthrough.begin(world.kernel)
        world.commit(0, 1, 3)
        assert world.enter() is None
        assert not world.passthrough._looking
        world.leave()

    play(store, body)


def test_an_inode_stays_as_it_was_opened_until_its_last_close(store: Store) -> None:
    async def body(world: World) -> None:
        world.passthrough.begin(world.kernel)
        assert world.enter() is None
        world.commit(0, 1, 2, 3)
        world.passthrough.look(world.file)
        await world.looked_through()
        assert world.enter() is None, "one was opened before"
        world.leave()
        assert world.enter() is None, "and still is"
        world.leave()
        world.leave()
        assert world.enter() is not None
        world.leave()

    play(store, body)


def test_what_changes_goes_by_us_and_is_looked_through_again(store: Store) -> None:
    async def body(world: World) -> None:
        await world.begin_whole()
        world.file.evict(1, 1)
        world.commit(1)
        assert world.enter() is None
        world.leave()
        await world.looked_through()
        assert world.enter() is not None
        world.leave()

    play(store, body)


def test_a_damaged_blob_does_not(store: Store) -> None:
    async def body(world: World) -> None:
        world.passthrough.begin(world.kernel)
        world.commit(0, 1, 2, 3)
        os.pwrite(world.file.files.data, b"damage", BLOCK)
        world.passthrough.look(world.file)
        await world.looked_through()
        assert world.enter() is None
        world.leave()
        await world.looked_through()
        assert world.file.present_bytes() == SIZE - BLOCK

    play(store, body)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errno.EPERM, "it takes CAP_SYS_ADMIN: mount as root"),
        (errno.ELOOP, "name a store on a disk with --store"),
        (errno.EOPNOTSUPP, "the kernel does not take files of the store: Operation not supported"),
    ],
)
def test_the_kernel_refuses(store: Store, error: int, said: str) -> None:
    def body(world: World) -> None:
        world.commit(0, 1, 2, 3)
        world.kernel.error = error
        world.passthrough.begin(world.kernel)
        state = world.passthrough.state()
        assert not state["on"]
        assert state["reason"].endswith(said)
        assert world.enter() is None
        assert not world.passthrough._looking
        world.leave()

    play(store, body)


def test_one_open_that_the_kernel_refuses_goes_by_us(store: Store) -> None:
    async def body(world: World) -> None:
        await world.begin_whole()
        world.kernel.error = errno.ENFILE
        assert world.enter() is None
        world.leave()
        world.kernel.error = 0
        assert world.enter() is not None
        world.leave()

    play(store, body)
