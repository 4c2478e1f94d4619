"""From a body as it comes to whole blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import trio

from lazyfs import buffers
from lazyfs.bell import bell_of_this_loop
from lazyfs.extents import Block, Extent, Geometry
from lazyfs.native import receiving
from lazyfs.native.receiving import Receive, Reception
from lazyfs.origin.client import Answer
from lazyfs.origin.connection import hand_over
from lazyfs.store.room import Room

LARGEST_PIECE: Final = 4 * 1024 * 1024
"""Bytes for which there are buffers at a time: what is received in one go costs one wake-up, however much it is."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Who takes the blocks of a body. Each call names some that follow each other by the index of the first.

    `landed`, where there is one, hears in the event loop of blocks that are whole, as soon as they are. `arrived` hears
    of the same ones later, in a worker thread, and with the checksums of those, the first, that are in place already;
    receiving waits for it. `room` is asked there too, for where blocks belong that have not come yet.
    """

    arrived: Callable[[int, Sequence[Block], Sequence[int]], None]
    landed: Callable[[int, Sequence[Block]], None] | None
    room: Callable[[Extent], Room]


class Assembler:
    """Receives a body that begins at byte `start`, a block's first, into whole blocks.

    `head` are bytes of it that are here already. A block of which the body has only a part is dropped.
    """

    def __init__(self, geometry: Geometry, start: int, head: bytes) -> None:
        self._geometry = geometry
        self._index = start // geometry.block_size
        self._head = head

    async def receive(self, answer: Answer | None, taker: Taker) -> None:
        """Tell of the blocks of the head and of what `answer` sends, each as soon as it is whole.

        The first is received alone, since somebody may wait for it, what follows in pieces. *Raises*: as
        `Answer.receive_into`. *Cancellation*: at any time; what has arrived was told.
        """
        length, stop = 1, self._geometry.blocks
        if answer is not None:
            stop = min(stop, -(-answer.body.extent.stop // self._geometry.block_size))
        while self._index < stop:
            run = Extent(self._index, min(self._index + length, stop))
            piece = _Piece(run.start, [buffers.unfilled(self._geometry.length(index)) for index in run.blocks()], taker)
            with piece.heard():
                if self._head:
                    count = await hand_over(self._head, piece.rest, piece)
                    self._head = self._head[count:]
                while piece.rest:
                    if answer is None or not await answer.receive_into(*piece.rest, sink=piece):
                        return
            self._index = run.stop
            length = max(1, LARGEST_PIECE // self._geometry.block_size)
        if answer is not None:
            await answer.receive_into(memoryview(bytearray(1)))  # its end, which proves the rest, frees the connection


class _Piece:
    """Some blocks that are being filled, one after the other: the `Sink` of a connection."""

    def __init__(self, start: int, blocks: Sequence[bytearray], taker: Taker) -> None:
        self.rest = [memoryview(block) for block in blocks]
        self.spent = 0.0
        self._start = start
        self._blocks = blocks
        self._taker = taker
        self._landed = 0  # blocks; changes only in the event loop
        self._whole: Callable[[], int] = lambda: 0  # how many of them are, as far as can be seen from any thread
        self._loop = trio.lowlevel.current_trio_token()
        self._bell = bell_of_this_loop() if taker.landed is not None and receiving.AVAILABLE else None

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Have blocks land as they come, while inside, and at the end those of which nothing was heard yet."""
        with nullcontext() if self._bell is None else self._bell.heard_by(self._land):
            try:
                yield
            finally:
                self._land()

    def filled(self, count: int) -> None:
        """Note that so many more bytes are here."""
        self._filled(count, (), rung=False)

    def _filled(self, count: int, checksums: Sequence[int], *, rung: bool) -> None:
        first = len(self._blocks) - len(self.rest)
        buffers.advance(self.rest, count)
        stop = len(self._blocks) - len(self.rest)
        if first < stop:
            began = time.monotonic()
            self._whole = lambda: stop
            if self._taker.landed is not None and not rung:
                self._loop.run_sync_soon(self._land)
            self._taker.arrived(self._start + first, self._blocks[first:stop], checksums)
            self.spent += time.monotonic() - began

    def receive(self, receive: Receive, most: int, seconds: float) -> tuple[int, int]:
        """Do what `filled` hears of, and put blocks in place, without Python's lock."""
        first = len(self._blocks) - len(self.rest)
        reception = Reception(self._blocks[first:], len(self._blocks[first]) - len(self.rest[0]))
        self._whole = lambda: first + reception.whole
        stop = self._start + min(len(self._blocks), first + receiving.MOST)
        with self._taker.room(Extent(self._start + first, stop)) as room:
            failure = reception.run(receive, most, seconds, -1 if self._bell is None else self._bell.fd, room.place)
            room.used = len(reception.checksums)
        self.spent += reception.spent
        self._filled(reception.came, reception.checksums, rung=True)
        return reception.came, failure

    def _land(self) -> None:
        landed, whole = self._landed, self._whole()
        if self._taker.landed is not None and landed < whole:
            self._landed = whole
            self._taker.landed(self._start + landed, self._blocks[landed:whole])
