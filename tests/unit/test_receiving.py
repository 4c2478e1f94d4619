"""lazyfs.native.receiving: what C receives, hashes and puts in place, and what it says of it."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import pytest

from lazyfs import records
from lazyfs.native.receiving import MOST, Receive, Reception, from_socket

KIB = 1024
LINGER_0 = struct.pack("ii", 1, 0)
MUCH = 1 << 30
NOWHERE = (-1, 0, 0)  # a place without room
LONG = 60.0
"""Seconds."""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection; the first socket is to receive, and gives up after a while as the real ones do."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
        peer, _ = server.accept()
        with peer:
            yield ours, peer


@pytest.fixture
def bell() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def peer_of(connection: socket.socket | TextIO) -> Receive:
    receive = from_socket(connection.fileno())
    assert receive is not None, "the receiver was not built"
    return receive


def unfilled(*lengths: int) -> list[bytearray]:
    return [bytearray(length) for length in lengths]


def sent_in_pieces(peer: socket.socket, content: bytes, seed: int) -> threading.Thread:
    """Send in pieces of any length, from a thread."""

    def send() -> None:
        rest, rng = memoryview(content), random.Random(seed)
        while rest:
            length = rng.choice([1, 7, 4096, 65_536, 300_000, 2_000_000])
            peer.sendall(rest[:length])
            rest = rest[length:]

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("length", [64 * KIB, 256 * KIB, 3 * KIB * KIB])
@pytest.mark.parametrize("seed", range(3))
def test_each_block_is_received_hashed_and_put_in_place(
    pair: tuple[socket.socket, socket.socket], data: int, length: int, seed: int
) -> None:
    blocks = unfilled(*[length] * 9, 12_345)
    content, offset = random.Random(seed).randbytes(9 * length + 12_345), 7 * length
    sender = sent_in_pieces(pair[1], content, seed)
    checksums: list[int] = []
    begun = 0  # bytes that are in place, of the first block that is not whole
    while rest := blocks[len(checksums) :]:
        reception = Reception(rest, begun)
        place = (data, offset + len(checksums) * length, len(rest))
        assert reception.run(peer_of(pair[0]), MUCH, 0.01, -1, place) in (0, errno.EAGAIN)
        checksums += reception.checksums
        assert len(reception.checksums) == reception.whole
        begun += reception.came - sum(map(len, rest[: reception.whole]))
    sender.join()
    assert b"".join(blocks) == content
    assert checksums == [records.checksum(block) for block in blocks]
    assert os.pread(data, len(content), offset) == content
    assert begun == 0


def test_no_more_is_taken_than_is_due(pair: tuple[socket.socket, socket.socket], data: int) -> None:
    blocks = unfilled(1000, 1000)
    pair[1].sendall(b"a" * 1500 + b"HTTP/1.1")
    reception = Reception(blocks, 0)
    assert reception.run(peer_of(pair[0]), 1500, LONG, -1, (data, 0, 2)) == 0
    assert (reception.came, reception.whole, len(reception.checksums)) == (1500, 1, 1)
    assert pair[0].recv(100) == b"HTTP/1.1"
    assert os.fstat(data).st_size == 1000, "of a block that is not whole nothing is put in place"


def test_more_blocks_than_fit_are_left_for_the_next_time(pair: tuple[socket.socket, socket.socket]) -> None:
    blocks = unfilled(*[10] * (MOST + 1))
    pair[1].sendall(b"a" * 10 * (MOST + 1))
    reception = Reception(blocks, 0)
    assert reception.run(peer_of(pair[0]), MUCH, LONG, -1, NOWHERE) == 0
    assert (reception.came, reception.whole) == (10 * MOST, MOST)


@pytest.mark.parametrize("sent", [0, 10, 100, 130])
def test_an_early_end_is_told_after_what_came_before_it(
    pair: tuple[socket.socket, socket.socket], data: int, sent: int
) -> None:
    blocks = unfilled(100, 100)
    pair[1].sendall(b"a" * sent)
    pair[1].shutdown(socket.SHUT_WR)
    reception = Reception(blocks, 0)
    failure = reception.run(peer_of(pair[0]), MUCH, LONG, -1, (data, 0, 2))
    assert failure == (errno.EAGAIN if sent else 0)
    assert (reception.came, reception.whole, len(reception.checksums)) == (sent, sent // 100, sent // 100)
    rest, begun = blocks[sent // 100 :], sent % 100
    reception = Reception(rest, begun)
    assert reception.run(peer_of(pair[0]), MUCH, LONG, -1, (data, 0, 1)) == 0
    assert (reception.came, reception.whole) == (0, 0)


def test_a_reset_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    pair[1].close()
    reception = Reception(unfilled(100), 0)
    assert reception.run(peer_of(pair[0]), MUCH, LONG, -1, NOWHERE) == errno.ECONNRESET
    assert reception.came == 0


def test_silence_is_told_soon(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(b"abc")
    reception = Reception(unfilled(100), 50)
    assert reception.run(peer_of(pair[0]), MUCH, LONG, -1, NOWHERE) == errno.EAGAIN
    assert (reception.came, reception.whole) == (3, 0)


@pytest.mark.parametrize("room", [0, 1, 3])
def test_only_what_there_is_room_for_is_put_in_place(
    pair: tuple[socket.socket, socket.socket], data: int, room: int
) -> None:
    content = random.Random(1).randbytes(5000)
    pair[1].sendall(content)
    blocks = unfilled(*[1000] * 5)
    reception = Reception(blocks, 0)
    assert reception.run(peer_of(pair[0]), MUCH, LONG, -1, (data, 0, room)) == 0
    assert reception.whole == 5
    assert reception.checksums == [records.checksum(block) for block in blocks[:room]]
    assert os.pread(data, 9999, 0) == content[: room * 1000]


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDONLY])
def test_what_the_disk_does_not_take_is_received_all_the_same(
    pair: tuple[socket.socket, socket.socket], flags: int
) -> None:
    full = os.open("/dev/full", flags)  # read-only, it is EBADF in the place of ENOSPC
    pair[1].sendall(b"a" * 300)
    blocks = unfilled(100, 100, 100)
    reception = Reception(blocks, 0)
    assert reception.run(peer_of(pair[0]), MUCH, LONG, -1, (full, 0, 3)) == 0
    assert reception.whole == 3
    assert reception.checksums == []
    assert b"".join(blocks) == b"a" * 300
    os.close(full)


def test_a_block_is_seen_while_others_are_still_to_come(pair: tuple[socket.socket, socket.socket], bell: int) -> None:
    blocks = unfilled(*[1 << 20] * 3)
    reception = Reception(blocks, 0)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(_to_the_end, reception, pair[0].fileno(), bell)
        for number, fill in enumerate((b"a", b"b", b"c"), 1):
            pair[1].sendall(fill * (1 << 20))
            assert select.select([bell], [], [], LONG)[0]
            assert os.eventfd_read(bell) == 1
            assert reception.whole == number
            assert blocks[number - 1] == fill * (1 << 20)
            assert call.done() == (number == 3) or number == 3
        assert call.result() == 0


def _to_the_end(reception: Reception, fd: int, bell: int) -> int:
    timeless = socket.socket(fileno=os.dup(fd))
    with timeless:
        timeless.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 0))
        return reception.run(peer_of(timeless), MUCH, LONG, bell, NOWHERE)


def test_nobody_can_take_the_buffers_away_meanwhile(pair: tuple[socket.socket, socket.socket]) -> None:
    blocks = unfilled(1000, 1000)
    with ThreadPoolExecutor(1) as thread:
        pair[1].sendall(b"a")
        reception = Reception(blocks, 0)
        call = thread.submit(_to_the_end, reception, pair[0].fileno(), -1)
        while reception._progress[0] != 1 and not _exported(blocks):
            pass
        with pytest.raises(BufferError):
            blocks[1].clear()
        pair[1].sendall(b"a" * 1999)
        assert call.result() == 0
    blocks[1].clear()


def _exported(blocks: Sequence[bytearray]) -> bool:
    try:
        blocks[1].append(0)
    except BufferError:
        return True
    del blocks[1][-1]
    return False


@pytest.mark.parametrize(("blocks", "begun"), [([], 0), ([bytearray(10)], 10), ([bytearray(0)], 0)])
def test_where_there_is_nothing_to_fill_it_says_so(
    pair: tuple[socket.socket, socket.socket], blocks: list[bytearray], begun: int
) -> None:
    with pytest.raises(ValueError, match="no room"):
        Reception(blocks, begun).run(peer_of(pair[0]), MUCH, LONG, -1, NOWHERE)


def test_what_is_no_socket_is_an_error() -> None:
    with Path("/dev/null").open() as null:
        assert Reception(unfilled(10), 0).run(peer_of(null), MUCH, LONG, -1, NOWHERE) == errno.ENOTSOCK
