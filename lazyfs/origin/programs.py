"""Programs that know credentials: run, told what is wanted, listened to, and killed when they take too long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

import trio

from lazyfs.origin.login import NoLogin

COMMAND_TIMEOUT: Final = 30.0
"""Seconds that one may take; it is killed then, and whatever it has started."""

_REAP_TIMEOUT: Final = 2.0
"""Seconds in which what was killed is gone, unless it hangs in the kernel."""


async def run(words: Sequence[str], what: str, stdin: bytes, limit: int) -> tuple[int | None, bytes]:
    """Run a program; return its status, None when it was killed for its time, and its output.

    `what` is what messages call it. *Units*: `limit` is the most bytes that it may write; with 0 its output is not
    looked at. *Raises*: NoLogin. *Cancellation*: kills it.
    """
    try:
        # A session of its own makes it a process group that can be killed as one, and keeps it from a terminal nobody
        # expects it at.
        process = await trio.lowlevel.open_process(
            list(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if limit else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as exc:
        raise NoLogin(f"{what} cannot be run: {exc.strerror}") from None
    output = bytearray()
    status: int | None = None
    try:
        with trio.move_on_after(COMMAND_TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell, process, stdin)
                while process.stdout is not None and len(output) <= limit:
                    if not (piece := await process.stdout.receive_some(4096)):
                        break
                    output += piece
                if len(output) <= limit:
                    status = await process.wait()
    finally:
        if status is None:
            await _kill(process)
        await _close(process.stdin)
        await _close(process.stdout)
    if len(output) > limit:
        raise NoLogin(f"{what} writes too much")
    return status, bytes(output)


async def _tell(process: trio.Process, stdin: bytes) -> None:
    """Send what the program may read; it need not."""
    assert process.stdin is not None
    with contextlib.suppress(trio.BrokenResourceError):
        await process.stdin.send_all(stdin)
    await _close(process.stdin)


async def _kill(process: trio.Process) -> None:
    """Kill the program and what it has started. It is not reaped yet, so its process group is no other's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with trio.move_on_after(_REAP_TIMEOUT, shield=True):
        await process.wait()


async def _close(stream: trio.abc.AsyncResource | None) -> None:
    """Close a pipe, also when cancelled: it is closed at once either way."""
    if stream is not None:
        with trio.CancelScope(shield=True):
            await stream.aclose()
