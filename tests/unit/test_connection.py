"""lazyfs.origin.connection: what is received into whose buffers, and when."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from lazyfs.origin import connection as connections
from lazyfs.origin.connection import SOON, Connection

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


def test_buffers_are_filled_one_after_the_other() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        peer.sendall(b"abcdefgh")
        into = buffers(3, 5)
        assert await connection.receive_into(into) == 8
        assert b"|".join(into) == b"abc|defgh"

    between(main)


def test_who_receives_is_woken_once_for_all_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = 0
    wait_readable = trio.lowlevel.wait_readable

    async def counting(sock: socket.socket) -> None:
        nonlocal waits
        waits += 1
        await wait_readable(sock)

    monkeypatch.setattr(connections, "SOON", 30.0)
    monkeypatch.setattr(trio.lowlevel, "wait_readable", counting)

    async def main(connection: Connection, peer: socket.socket) -> None:
        into = buffers(1000, 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive_into, into)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(20):
                peer.sendall(bytes(range(100)))
                await trio.testing.wait_all_tasks_blocked()
        assert b"".join(into) == bytes(range(100)) * 20
        assert waits == 1

    between(main)


def test_what_has_come_is_handed_out_soon() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        peer.sendall(b"abc")
        into = buffers(1 << 20)
        began = trio.current_time()
        with trio.fail_after(30):
            assert await connection.receive_into(into) == 3
        assert trio.current_time() - began >= SOON / 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive_into, into)
            await trio.sleep(3 * SOON)
            with trio.fail_after(30):
                peer.sendall(b"d")  # the first byte is late, and does not wait for others
                while nursery.child_tasks:
                    await trio.sleep(SOON / 10)

    between(main)


def test_the_end_is_told_after_what_came_before_it() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        assert await connection.receive_into(buffers(10)) == 3
        assert await connection.receive_into(buffers(10)) == 0

    between(main)


def test_a_failure_is_told_after_what_came_before_it() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        class Resetting(socket.socket):
            def recvmsg_into(self, into: list[memoryview]) -> tuple[int]:  # type: ignore[override]
                try:
                    return (super().recvmsg_into(into)[0],)
                except BlockingIOError:
                    raise ConnectionResetError from None

        peer.sendall(b"abc")
        connection = Connection(Resetting(fileno=connection._socket.detach()))
        assert await connection.receive_into(buffers(10)) == 3
        with pytest.raises(ConnectionResetError):
            await connection.receive_into(buffers(10))
        connection.close()

    between(main)


def test_an_idle_connection_has_news_when_anything_is_to_be_read() -> None:
    async def main(connection: Connection, peer: socket.socket) -> None:
        assert not connection.has_news()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive_into, buffers(1 << 20))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not connection.has_news()
        peer.sendall(b"x")  # less than the socket was to wake us for
        assert connection.has_news()
        assert await connection.receive(1) == b"x"
        assert not connection.has_news()
        peer.close()
        assert connection.has_news()

    between(main)
