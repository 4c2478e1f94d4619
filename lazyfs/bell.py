"""A bell that threads ring without the interpreter's lock, and the event loop hears: an eventfd.

*Source*: eventfd(2).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

Listener = Callable[[], None]


class Bell:
    """One for each event loop; whoever rings it writes to `fd`."""

    def __init__(self) -> None:
        self.fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._listeners: dict[object, Listener] = {}

    @contextmanager
    def heard_by(self, listener: Listener) -> Iterator[None]:
        """Have a function called in the event loop when the bell was rung, while inside: not for every single ring."""
        key = object()
        self._listeners[key] = listener
        try:
            yield
        finally:
            del self._listeners[key]

    async def listen(self) -> None:
        """Hear it, until cancelled; then nobody may ring it any more."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self.fd)
                os.eventfd_read(self.fd)
                for listener in tuple(self._listeners.values()):
                    listener()
        finally:
            os.close(self.fd)


_bells: Final[trio.lowlevel.RunVar[Bell]] = trio.lowlevel.RunVar("bell")


def bell_of_this_loop() -> Bell:
    """Return the event loop's bell, which ends with it."""
    try:
        return _bells.get()
    except LookupError:
        made = Bell()
        trio.lowlevel.spawn_system_task(made.listen)
        _bells.set(made)
        return made
