"""Making very many objects that all stay, without the garbage collector looking at them again and again.  Pure."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Hold the collector off, if it is on.

    100,000 members with a piece each are unpacked in 0.5 s of processor time in place of 0.85 s (`packed.unpack`).
    Threads may do this at the same time: at the worst, it is on again too early.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
