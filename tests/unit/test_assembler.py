"""lazyfs.assembler: blocks from a real connection, received by C and by Python."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from lazyfs import ranges, records
from lazyfs.assembler import LARGEST_PIECE, Assembler, Taker
from lazyfs.extents import Block, Extent
from lazyfs.native import receiving
from lazyfs.origin.client import Answer
from lazyfs.origin.connection import SOON, Connection, Sink
from lazyfs.origin.securing import Trust
from lazyfs.store import BlobFile, Store
from lazyfs.store.room import Room
from lazyfs.versions import Version
from tests.certificates import LOOPBACK, Authority
from tests.unit.stores import BLOB

BLOCK = records.MIN_BLOCK_SIZE
SIZE = 3 * LARGEST_PIECE + 12_345
CONTENT = random.Random(1).randbytes(SIZE)


@pytest.fixture(params=["in C", "in C, by TLS", "in Python", "in Python, by TLS"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert receiving.AVAILABLE, "the receiver was not built"
    monkeypatch.setattr(receiving, "AVAILABLE", "in C" in request.param)


@pytest.fixture
def authority(request: pytest.FixtureRequest, tmp_path: Path) -> Authority | None:
    """Who vouches for the peer, where TLS is between."""
    return Authority(tmp_path / "authority") if "TLS" in request.node.callspec.id else None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(tmp_path / "store", BLOCK)) as store:
        yield store


class Body:
    """The answer, as far as an assembler needs one: `most` bytes are due."""

    def __init__(self, connection: Connection, most: int) -> None:
        self.body = ranges.Body(Extent(0, SIZE), Version(SIZE), counted=True)
        self._connection = connection
        self._due = most

    async def receive_into(self, *buffers: memoryview, sink: Sink | None = None) -> int:
        if not self._due:
            return 0
        first = buffers[0][: self._due]
        within = [first, *buffers[1:]] if len(first) == len(buffers[0]) else [first]
        count = await self._connection.receive_into(within, sink)
        self._due -= count
        return count


def body(connection: Connection, most: int) -> Answer:
    return cast(Answer, Body(connection, most))


class Took:
    """Who takes the blocks, and puts in place what is not there yet."""

    def __init__(self, store: Store, file: BlobFile) -> None:
        self.blocks: dict[int, Block] = {}  # that have landed
        self.arrived = 0  # blocks
        self.in_place = 0  # of these, when they arrived
        self.wrong: list[str] = []
        self.taker = Taker(self._arrived, self._landed, self._room)
        self._store = store
        self._file = file
        self._loop = threading.current_thread()

    def _room(self, run: Extent) -> Room:
        return self._store.room(self._file, run)

    def _landed(self, start: int, blocks: Sequence[Block]) -> None:
        if threading.current_thread() is not self._loop:
            self.wrong.append("landed elsewhere")
        for index, block in enumerate(blocks, start):
            if index in self.blocks or block != CONTENT[index * BLOCK : (index + 1) * BLOCK]:
                self.wrong.append(f"landed {index}")
            self.blocks[index] = block

    def _arrived(self, start: int, blocks: Sequence[Block], checksums: Sequence[int]) -> None:
        if start != self.arrived or list(checksums) != [records.checksum(block) for block in blocks[: len(checksums)]]:
            self.wrong.append(f"arrived {start}")
        self.arrived += len(blocks)
        self.in_place += len(checksums)
        rest = blocks[len(checksums) :]
        self._store.write(self._file, start + len(checksums), rest)


async def shake_hands(connection: Connection, peer: socket.socket, authority: Authority) -> ssl.SSLSocket:
    """Have TLS between the two, and return the peer's end of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("server", *LOOPBACK))
    secured = context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.to_thread.run_sync, secured.do_handshake))
        await connection.secure(Trust(authority.pem), "localhost")
    return secured


def receiving_from(
    store: Store, authority: Authority | None, main: Callable[[Connection, socket.socket, Took, BlobFile], Any]
) -> Took:
    """Run `main` with a connection, the socket of its peer, and a blob."""

    async def run() -> Took:
        with socket.create_server(("127.0.0.1", 0)) as server:
            connection = await Connection.open(*server.getsockname())
            peer, _ = server.accept()
            if authority is not None:
                peer = await shake_hands(connection, peer, authority)
            with peer, closing(connection), closing(store.open_blob(BLOB, "http://x/", SIZE)) as file:
                took = Took(store, file)
                with trio.fail_after(60):
                    await main(connection, peer, took, file)
                await trio.testing.wait_all_tasks_blocked()
                assert took.wrong == []
                assert store.quota._taken == 0, "what was reserved is settled"
                return took

    return trio.run(run)


def send(peer: socket.socket, content: bytes, seed: int = 0) -> threading.Thread:
    def pieces() -> None:
        rest, rng = memoryview(content), random.Random(seed)
        while rest:
            length = rng.choice([1, 1000, BLOCK, 300_000, 3_000_000])
            peer.sendall(rest[:length])
            rest = rest[length:]

    thread = threading.Thread(target=pieces)
    thread.start()
    return thread


@pytest.mark.parametrize("head", [0, 700, BLOCK, 3 * BLOCK + 5, SIZE])
def test_all_of_a_body_lands_and_is_put_in_place(store: Store, authority: Authority | None, head: int) -> None:
    async def main(connection: Connection, peer: socket.socket, took: Took, file: BlobFile) -> None:
        sender = send(peer, CONTENT[head:], head)
        assembler = Assembler(file.geometry, 0, CONTENT[:head])
        await assembler.receive(body(connection, SIZE - head), took.taker)
        sender.join()
        for index in range(file.geometry.blocks):
            file.record(index, records.checksum(took.blocks[index]))
            assert file.read(index, wait=True) == took.blocks[index]
        assert b"".join(took.blocks[index] for index in sorted(took.blocks)) == CONTENT

    took = receiving_from(store, authority, main)
    assert (took.in_place > 0) == (receiving.AVAILABLE and head < SIZE)


@pytest.mark.parametrize("sent", [0, 10, BLOCK, 2 * BLOCK - 1, 20 * BLOCK + 77, 12 * BLOCK])
def test_a_body_that_ends_early_has_the_blocks_that_are_whole(
    store: Store, authority: Authority | None, sent: int
) -> None:
    async def main(connection: Connection, peer: socket.socket, took: Took, file: BlobFile) -> None:
        sender = send(peer, CONTENT[:sent], sent)
        await Assembler(file.geometry, 0, b"").receive(body(connection, sent), took.taker)
        sender.join()

    took = receiving_from(store, authority, main)
    assert sorted(took.blocks) == list(range(sent // BLOCK))
    assert took.arrived == sent // BLOCK


def test_a_connection_that_is_reset_in_mid_block_leaves_the_blocks_before_it(
    store: Store, authority: Authority | None
) -> None:
    async def main(connection: Connection, peer: socket.socket, took: Took, file: BlobFile) -> None:
        async def receive() -> None:
            with suppress(ConnectionResetError):  # or it is seen as an end, which is as early
                await Assembler(file.geometry, 0, b"").receive(body(connection, SIZE), took.taker)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.to_thread.run_sync(peer.sendall, CONTENT[: 9 * BLOCK + 99])
            while took.arrived < 9:
                await trio.sleep(SOON / 10)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()

    assert receiving_from(store, authority, main).arrived == 9


def test_who_is_cancelled_in_mid_receive_is_done_with_the_buffers(store: Store, authority: Authority | None) -> None:
    async def main(connection: Connection, peer: socket.socket, took: Took, file: BlobFile) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Assembler(file.geometry, 0, b"").receive, body(connection, SIZE), took.taker)
            await trio.to_thread.run_sync(peer.sendall, CONTENT[: 7 * BLOCK + 99])
            while len(took.blocks) < 7:  # the rest of the piece is waited for
                await trio.sleep(SOON / 10)
            nursery.cancel_scope.cancel()
        assert took.arrived == 7
        for block in took.blocks.values():
            assert isinstance(block, bytearray)
            block.clear()  # nobody writes to it any more

    receiving_from(store, authority, main)


def test_a_block_lands_before_the_next_ones_come(store: Store, authority: Authority | None) -> None:
    async def main(connection: Connection, peer: socket.socket, took: Took, file: BlobFile) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Assembler(file.geometry, 0, b"").receive, body(connection, SIZE), took.taker)
            for stop in (1, 2, 5, 9):
                peer.sendall(CONTENT[len(took.blocks) * BLOCK : stop * BLOCK])
                while len(took.blocks) < stop:
                    await trio.sleep(SOON / 10)
            nursery.cancel_scope.cancel()

    receiving_from(store, authority, main)


def test_blocks_come_without_room_for_them(store: Store, authority: Authority | None) -> None:
    store.set_bounds(6 * BLOCK, None)

    async def main(connection: Connection, peer: socket.socket, took: Took, file: BlobFile) -> None:
        sender = send(peer, CONTENT)
        await Assembler(file.geometry, 0, b"").receive(body(connection, SIZE), took.taker)
        sender.join()

    took = receiving_from(store, authority, main)
    assert len(took.blocks) == took.arrived == -(-SIZE // BLOCK)
    assert took.in_place <= 6
