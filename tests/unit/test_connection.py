"""lazyfs.origin.connection: what is received into whose buffers, and when."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

from lazyfs.native import receiving
from lazyfs.native.receiving import Receive
from lazyfs.origin.connection import AT_ONCE, SOON, Connection

Main = Callable[[Connection, socket.socket], Awaitable[None]]


def between(main: Main) -> None:
    """Run `main` with a connection and the socket of its peer."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            host, port = server.getsockname()
            connection = await Connection.open(host, port)
            peer, _ = server.accept()
            with peer:
                await main(connection, peer)
            connection.close()

    trio.run(run)


def buffers(*lengths: int) -> list[memoryview]:
    return [memoryview(bytearray(length)) for length in lengths]


class Told:
    """What was told of bytes that came."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.counts: list[int] = []
        self.threads: set[threading.Thread] = set()

    def filled(self, count: int) -> None:
        self.counts.append(count)
        self.threads.add(threading.current_thread())

    def receive(self, receive: Receive, most: int, seconds: float) -> tuple[int, int]:
        raise AssertionError("not in Python")


@pytest.fixture(autouse=True)
def _in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is received in C is test_assembler.py's and test_receiving.py's."""
    monkeypatch.setattr(receiving, "AVAILABLE", False)


def test_what_has_come_is_taken_at_once() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        peer.sendall(b"abcdefgh")
        into = buffers(3, 9)
        assert await connection.receive_into(into) == 3
        assert await connection.receive_into(into[1:]) == 5
        assert b"|".join(into) == b"abc|defgh\0\0\0\0"

    between(main)


def test_buffers_are_filled_one_after_the_other() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        lengths = [70_000] * (2 * AT_ONCE + 1)
        content = random.Random(1).randbytes(sum(lengths))
        into, told = buffers(*lengths), Told()
        sender = threading.Thread(target=peer.sendall, args=[content])
        sender.start()
        count = 0
        while count < len(content):
            came = await connection.receive_into(list(cut_off(into, count)), told)
            assert came > 0
            count += came
            assert sum(told.counts) == count
        sender.join()
        assert b"".join(into) == content
        assert threading.current_thread() not in told.threads

    between(main)


def cut_off(into: list[memoryview], count: int) -> Iterator[memoryview]:
    """Yield what is left of buffers behind their first `count` bytes."""
    for buffer in into:
        if count < len(buffer):
            yield buffer[count:]
        count = max(0, count - len(buffer))


def test_what_has_come_is_handed_out_soon() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        peer.sendall(b"abc")
        told = Told()
        with trio.fail_after(30):
            assert await connection.receive_into(buffers(1 << 20), told) == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive_into, buffers(1 << 20), told)
            await trio.sleep(3 * SOON)  # the first byte is late,
            peer.sendall(b"d")
            with trio.fail_after(30):  # and does not wait for others
                while nursery.child_tasks:
                    await trio.sleep(SOON / 10)
        assert told.counts == [3, 1]

    between(main)


def test_who_is_cancelled_waits_for_no_more() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        peer.sendall(b"abc")
        with trio.fail_after(30), trio.move_on_after(SOON / 10):
            while True:
                await connection.receive_into(buffers(1 << 20), Told())

    between(main)


@pytest.mark.parametrize("told", [None, Told()])
def test_the_end_is_told_after_what_came_before_it(told: Told | None) -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        assert await connection.receive_into(buffers(10), told) == 3
        assert await connection.receive_into(buffers(10), told) == 0

    between(main)


def test_a_failure_is_told_after_what_came_before_it() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        class Resetting(socket.socket):
            def recvmsg_into(self, into: Any, *rest: int) -> Any:
                if told.counts:
                    raise ConnectionResetError
                return super().recvmsg_into(into, 0, socket.MSG_DONTWAIT)

        told = Told()
        peer.sendall(b"abc")
        assert isinstance(connection._socket, socket.socket)
        connection = Connection(Resetting(fileno=connection._socket.detach()))
        assert await connection.receive_into(buffers(10), told) == 3
        peer.sendall(b"d")
        with pytest.raises(ConnectionResetError):
            await connection.receive_into(buffers(10), told)
        connection.close()

    between(main)


def test_an_idle_connection_has_news_when_anything_is_to_be_read() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        assert not connection.has_news()
        peer.sendall(b"x")
        assert connection.has_news()
        assert await connection.receive(1) == b"x"
        assert not connection.has_news()
        peer.close()
        assert connection.has_news()

    between(main)
