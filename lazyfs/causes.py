"""Why something is fetched: who reads, noted for each task; and the last fetches, which `status --why` shows.

The task that reads notes the process it reads for, and that a profile is replayed is noted where that is launched. What
is launched from there inherits it, as it inherits all context variables, so nothing is handed through the read path.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from lazyfs import urls
from lazyfs.extents import Extent
from lazyfs.urgency import Urgency
from lazyfs.versions import BlobId

KEPT: Final = 500
"""Fetches that are remembered."""

reader: Final = ContextVar("reader", default=0)
"""The process for which is read here; 0: not known."""

_replaying: Final = ContextVar("replaying", default=False)

_CAUSES: Final = {Urgency.DEMAND: "read", Urgency.READAHEAD: "readahead", Urgency.PREFETCH: "fetch"}
"""What somebody waits for was read; what nobody reads yet, and no readahead wants, a command has asked for."""


class Answered(Protocol):
    """What of an answer is shown."""

    @property
    def url(self) -> str:
        """What was asked."""

    @property
    def received(self) -> int:
        """Bytes of body so far."""


@dataclass(slots=True)
class Fetch:
    """A request for a run of bytes. *Units*: bytes; seconds, `at` since the epoch."""

    at: float
    blob_id: BlobId
    extent: Extent
    cause: str
    pid: int  # of who reads, or has read where this follows from; 0: not known
    command: str  # of that process; empty: not known
    began: float
    answer: Answered | None = None  # while it is under way: it holds buffers
    received: int = 0
    origin: str = ""
    seconds: float | None = None  # None while it is under way
    error: str = ""

    def look(self) -> None:
        """Take over what has come so far."""
        if self.answer is not None:
            self.received = self.answer.received
            self.origin = urls.shown_origin(urls.origin_of(self.answer.url))

    def end(self) -> None:
        """Note that it is over, and let go of the answer."""
        self.look()
        self.answer = None
        self.seconds = time.monotonic() - self.began

    def as_dict(self) -> dict[str, Any]:
        """Return it as `status` shows it."""
        self.look()
        return {
            "time": self.at,
            "blob": self.blob_id,
            "offset": self.extent.start,
            "length": len(self.extent),
            "bytes": self.received,
            "cause": self.cause,
            "pid": self.pid or None,
            "command": self.command or None,
            "origin": self.origin or None,
            "seconds": time.monotonic() - self.began if self.seconds is None else self.seconds,
            "under_way": self.seconds is None,
            "error": self.error or None,
        }


class Fetches:
    """The last fetches of a process, the oldest first."""

    def __init__(self) -> None:
        self._last: deque[Fetch] = deque(maxlen=KEPT)

    def __iter__(self) -> Iterator[Fetch]:
        return iter(self._last)

    @contextmanager
    def noting(self, blob_id: BlobId, extent: Extent, urgency: Urgency) -> Iterator[Fetch]:
        """Note a fetch while inside; whoever gets an answer puts it there."""
        cause = "profile" if _replaying.get() and urgency is not Urgency.READAHEAD else _CAUSES[urgency]
        pid = reader.get() if cause != "fetch" else 0
        fetch = Fetch(time.time(), blob_id, extent, cause, pid, command_of(pid), time.monotonic())
        self._last.append(fetch)
        try:
            yield fetch
        except Exception as exc:
            fetch.error = str(exc)
            raise
        finally:
            fetch.end()


@contextmanager
def replaying() -> Iterator[None]:
    """Have what is launched inside be for a profile."""
    token = _replaying.set(True)
    try:
        yield
    finally:
        _replaying.reset(token)


def command_of(pid: int) -> str:
    """Return what a process is called, as far as it is still there and we may see it."""
    if pid:
        with suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    return ""
