"""Blocks of which small parts are read again and again: the kernel is handed them whole, and reads the rest without us.

A read that the kernel sends costs some hundred microseconds here, one of its page cache a few. So the second small read
of a block has the block pushed, all of it, by a thread of its own (FUSE_NOTIFY_STORE). One alone says nothing: a reader
who jumps about in a large blob comes back to few of the blocks.

A push waits, uninterruptibly, for pages that a request under way has locked. That is why it is not the event loop's,
and why nothing is pushed into an inode while a read of more than one block is under way there: such a read may wait for
an origin, and whoever killed the daemon then would leave a process that does not end before the mount is aborted, or
the next daemon answers. That one must not wait for it in turn: the thread has no files open but FUSE's (front.c), so it
keeps no lock. It must not write a log either.

*Source*: Linux 6.18, fs/fuse/dev.c, fuse_notify_store.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from lazyfs.extents import Block, Extent

SMALL: Final = 64 * 1024
"""Bytes of a read up to which it is a small one."""

REMEMBERED: Final = 1 << 14
"""Blocks of which it is remembered that there was one small read."""

WAITING: Final = 16
"""Pushes that may wait; what comes then is not worth to wait for either."""

PATIENCE: Final = 1.0
"""Seconds to wait for a push in the end."""

Push = Callable[[int, int, Block], None]
"""Puts bytes into the kernel's pages of an inode, at an offset. *Raises*: OSError."""


class Neighbours:
    """The blocks of a mount that are handed to the kernel whole. All but the push itself is the event loop's."""

    def __init__(self, push: Push) -> None:
        self._push = push
        self._once: OrderedDict[tuple[int, int], None] = OrderedDict()  # inode and block of one small read
        self._wide = Counter[int]()  # reads of more than one block that are under way, by inode
        self._queue: queue.Queue[tuple[int, int, Block] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def reading(self, inode: int, blocks: Extent) -> Iterator[None]:
        """Say that blocks are being read, while inside."""
        if len(blocks) == 1:
            yield
            return
        self._wide[inode] += 1
        try:
            yield
        finally:
            self._wide[inode] -= 1
            if not self._wide[inode]:
                del self._wide[inode]

    def wants(self, inode: int, block: int) -> bool:
        """Note a small read of one block, and say whether to `put` all of it."""
        if inode in self._wide:
            return False
        key = inode, block
        if key in self._once:
            del self._once[key]
            return True
        self._once[key] = None
        if len(self._once) > REMEMBERED:
            self._once.popitem(last=False)
        return False

    def put(self, inode: int, offset: int, block: Block) -> None:
        """Have a block handed to the kernel, unless many wait already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="neighbours", daemon=True)
            self._thread.start()
        with suppress(queue.Full):
            self._queue.put_nowait((inode, offset, block))

    def close(self) -> None:
        """Push nothing more. Blocks for a push that is under way, `PATIENCE` at the most."""
        self._closed = True
        if self._thread is not None:
            with suppress(queue.Full):  # then it sees that by what it takes next
                self._queue.put_nowait(None)
            self._thread.join(PATIENCE)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None and not self._closed:
            with suppress(OSError):  # the kernel has forgotten the inode, or the mount is gone
                self._push(*item)
