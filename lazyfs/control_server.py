"""The mount's side of the control socket (control.py): answers what the commands ask for."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from lazyfs.control import Operation, reachable
from lazyfs.errors import first_reason

log = logging.getLogger(__name__)

REQUEST_MAX: Final = 1 << 20
"""Bytes in one request."""


async def serve(path: Path, operations: Mapping[str, Operation], *, task_status: trio.TaskStatus[None]) -> None:
    """Answer requests until cancelled; the socket goes with it."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with reachable(path) as name:
        listening.bind(name)
    ours = path.lstat()
    listening.listen(64)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    try:
        task_status.started()
        await trio.serve_listeners(partial(_answer, operations), [listener])
    finally:
        # A daemon that was detached with readers left may outlive the next mount's start at the same place.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.lstat(), ours):
                path.unlink()


async def _answer(operations: Mapping[str, Operation], stream: trio.SocketStream) -> None:
    async with stream:
        request = await _receive_line(stream)
        if request is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hang_up, stream, nursery.cancel_scope)
            await _perform(stream, request, operations)
            nursery.cancel_scope.cancel()


async def _perform(stream: trio.SocketStream, line: bytes, operations: Mapping[str, Operation]) -> None:
    try:
        request = json.loads(line)
        reply = {"done": await operations[request["op"]](request, partial(_send, stream))}
    except Exception as exc:
        reason = first_reason(exc)
        if reason is None:
            log.exception("an unforeseen failure in a control request")
        reply = {"error": str(reason or f"the mount could not do it ({type(exc).__name__}); its log says more")}
    await _send(stream, reply)


async def _send(stream: trio.SocketStream, message: Any) -> None:
    """Send one line; to nobody when the client has gone, which `_hang_up` sees too and acts on.

    *Raises*: nothing of the client's doing: what escapes from here would end the mount.
    """
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(json.dumps(message).encode() + b"\n")


async def _receive_line(stream: trio.SocketStream) -> bytes | None:
    """Return a request; None for a client that goes before it is whole, or sends too much."""
    received = bytearray()
    with contextlib.suppress(trio.BrokenResourceError):
        while b"\n" not in received:
            piece = await stream.receive_some()
            if not piece or len(received) > REQUEST_MAX:
                return None
            received += piece
        return bytes(received.partition(b"\n")[0])
    return None


async def _hang_up(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel what a client asked for when it goes."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    scope.cancel()
