"""The link between a mount's supervisor and its daemon: messages of a few words, and descriptors.

    daemon ── {"op": "charge", "mountpoint", "source", "options", "user", "keep", "own"}, once, before all else
           ── {"op": "mount", "log", "outlives"} ──▶ supervisor
           ◀── {}, with FUSE's descriptor, and with a journal if the mount outlives the daemon; or {"error": "words"}
           ── {"op": "tune"} ──▶ {"reason"} why not, or None
           ── {"op": "backing"}, with a file for the kernel to read ──▶ {"id"} or {"errno"}
           ── {"op": "no backing", "id"}
           ── {"op": "metrics"}, with a socket that listens, for the next daemon, too
           ── {"op": "serving", "canary"}, a thread's id
           ── {"op": "journal"}, with a new one
           ◀── {"op": "well?"}
           ── {"op": "well"}
           ── {"op": "upgrade"}
           ◀── {"op": "not upgraded", "why"}, or never anything more
           ── {"op": "ending"}: have the mount detached
           ── {"op": "detach"} ──▶ {"detached"}

    the next daemon, of an upgrade ── {"op": "prepared"} ──▶ supervisor
                                   ◀── {"op": "go"}, with the journal
                                   ── {"op": "serving", "canary"}

A supervisor outlives the upgrades of its daemons, so both have to put up with what the other one does not know yet:
messages with other words in them, and other messages, which are passed over. Answers have no "op".

*Source*: unix(7), SOCK_SEQPACKET and SCM_RIGHTS.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

SUPERVISOR: Final = "lazyfs-supervisor"
"""How a supervisor shows itself in `ps`."""

MESSAGE: Final = 1 << 16
"""Bytes in a message at the most."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new link."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(link: socket.socket, message: dict[str, Any], *fds: int) -> None:
    """Send a message. *Raises*: OSError, when nobody is at the other end, or does not take it any more."""
    socket.send_fds(link, [json.dumps(message).encode()], fds, socket.MSG_DONTWAIT)


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and the descriptors that came with it; none at the end. Blocks. *Raises*: OSError."""
    content, fds, _, _ = socket.recv_fds(link, MESSAGE, 4, socket.MSG_CMSG_CLOEXEC)
    return (json.loads(content) if content else {}), fds
