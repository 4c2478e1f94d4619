"""What trio's channels leave to do by hand."""

from __future__ import annotations

from typing import TypeVar

import trio

T = TypeVar("T")


def take_waiting(channel: trio.MemoryReceiveChannel[T]) -> list[T]:
    """Take what is in a channel now, without waiting for more."""
    taken = []
    while channel.statistics().current_buffer_used:
        taken.append(channel.receive_nowait())
    return taken
