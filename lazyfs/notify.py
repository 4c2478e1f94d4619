"""What systemd is told of a service: one datagram to $NOTIFY_SOCKET, when there is one.

*Source*: sd_notify(3); systemd.service(5), `Type=notify`.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def ready(status: str) -> None:
    """Say that the service does its work now, and what that is."""
    _tell("READY=1", f"STATUS={status}")


def stopping(status: str) -> None:
    """Say that the service is about to end, and why."""
    _tell("STOPPING=1", f"STATUS={status}")


def _tell(*lines: str) -> None:
    """Send lines, if anybody wants them. Who asked for them and does not take them is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # an abstract name, which has no file
        address = "\0" + address[1:]
    text = "\n".join(line.replace("\n", " ") for line in lines)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode("utf-8", "replace"), address)
    except OSError as exc:
        log.warning("systemd could not be told %s: %s", lines[0], exc.strerror or exc)
