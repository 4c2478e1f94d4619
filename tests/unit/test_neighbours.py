"""lazyfs.neighbours: which blocks are handed to the kernel whole."""

from __future__ import annotations

import threading

from lazyfs import neighbours
from lazyfs.extents import Extent
from lazyfs.neighbours import Neighbours


class Kernel:
    """Takes blocks, when it is let."""

    def __init__(self) -> None:
        self.pushed: list[tuple[int, int, bytes]] = []
        self.may = threading.Event()
        self.may.set()

    def push(self, inode: int, offset: int, block: bytes | bytearray) -> None:
        self.may.wait(30)
        self.pushed.append((inode, offset, bytes(block)))


def test_the_second_small_read_of_a_block_is_what_asks_for_it() -> None:
    asked = Neighbours(Kernel().push)
    assert [asked.wants(7, 3), asked.wants(7, 4), asked.wants(8, 3), asked.wants(7, 3)] == [False, False, False, True]
    assert not asked.wants(7, 3), "it was handed over, and begins anew when the kernel has let go of it"
    assert asked.wants(7, 3)


def test_nothing_is_handed_over_while_a_read_of_several_blocks_is_under_way() -> None:
    asked = Neighbours(Kernel().push)
    asked.wants(7, 3)
    with asked.reading(7, Extent(3, 5)):
        with asked.reading(7, Extent(9, 12)):
            assert not asked.wants(7, 3)
        assert not asked.wants(7, 3)
        with asked.reading(8, Extent(3, 4)):
            asked.wants(8, 3)
            assert asked.wants(8, 3), "that is another file"
    assert asked.wants(7, 3)


def test_only_so_many_blocks_are_remembered() -> None:
    asked = Neighbours(Kernel().push)
    for block in range(neighbours.REMEMBERED + 1):
        assert not asked.wants(7, block)
    assert not asked.wants(7, 0)
    assert asked.wants(7, neighbours.REMEMBERED)


def test_blocks_are_pushed_in_order_by_another_thread_and_what_is_too_much_is_not() -> None:
    kernel = Kernel()
    asked = Neighbours(kernel.push)
    kernel.may.clear()
    for number in range(3 * neighbours.WAITING):
        asked.put(7, number, b"x")
    assert not kernel.pushed, "nobody waits for it"
    kernel.may.set()
    while len(kernel.pushed) < neighbours.WAITING:
        pass
    asked.close()
    assert [offset for _, offset, _ in kernel.pushed][: neighbours.WAITING] == list(range(neighbours.WAITING))
    assert len(kernel.pushed) <= neighbours.WAITING + 1  # one was taken out of the queue before


def test_a_push_that_fails_is_the_last_of_nothing() -> None:
    pushed = threading.Event()

    def push(inode: int, offset: int, block: object) -> None:
        if offset == 0:
            raise FileNotFoundError(2, "the kernel has forgotten the inode")
        pushed.set()

    asked = Neighbours(push)
    asked.put(7, 0, b"x")
    asked.put(7, 1, b"x")
    assert pushed.wait(30)
    asked.close()
