"""What happened so far: counts for each path, versions, tokens, signatures; what `/control/reset` forgets.

`/control/stats` is `Ledger.stats()`:

    {"connections": {"open": 0, "peak": 3, "total": 9},      those that asked for anything but /control
     "paths": {"/plain/random-1M-x": {
         "requests": 4, "statuses": {"206": 4},              by arrival · by answer
         "body_bytes": 1048576,                              handed to the kernel
         "ranges": ["bytes=0-0", null, ...],                 by arrival; the first 10000
         "open": 0, "peak": 2}}}                             requests under way

Locks: one, `Ledger.changed`, taken by the methods and never held while anything is sent.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

RANGES_KEPT = 10_000


@dataclass
class Lease:
    """A right that ends: after so many uses, or at a time of the monotonic clock, or never."""

    uses: int | None = None
    until: float | None = None

    def take(self) -> bool:
        """Use it once; say whether that was still allowed.  Locks: the ledger's, held."""
        if self.until is not None and time.monotonic() >= self.until:
            return False
        if self.uses is not None:
            self.uses -= 1
            return self.uses >= 0
        return True


@dataclass
class PathCount:
    """What happened under one path."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    body_bytes: int = 0
    ranges: list[str | None] = field(default_factory=list)
    open: int = 0
    peak: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it as the stats show it."""
        return {**vars(self), "statuses": {str(status): count for status, count in self.statuses.items()}}


class Ledger:
    """The book in which every connection's thread writes."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._open = self._peak = self._total = 0
        self._forget()

    def _forget(self) -> None:
        self._paths: dict[str, PathCount] = {}
        self._versions: dict[str, tuple[int, int | None]] = {}
        self._leases: dict[str, Lease] = {}

    def reset(self) -> None:
        """Forget everything but the connections that are open."""
        with self.changed:
            self._forget()
            self._peak = self._total = self._open
            self.changed.notify_all()

    def connected(self, change: int) -> None:
        """Note a connection that came (1) or went (-1)."""
        with self.changed:
            self._open += change
            self._total += max(change, 0)
            self._peak = max(self._peak, self._open)
            self.changed.notify_all()

    def arrived(self, path: str, asked: str | None) -> tuple[PathCount, int]:
        """Note a request and its Range; return the path's count and this request's number, from 1."""
        with self.changed:
            count = self._paths.setdefault(path, PathCount())
            count.requests += 1
            if len(count.ranges) < RANGES_KEPT:
                count.ranges.append(asked)
            count.open += 1
            count.peak = max(count.peak, count.open)
            self.changed.notify_all()
            return count, count.requests

    def answered(self, count: PathCount, status: int) -> None:
        """Note the status that is about to be sent."""
        with self.changed:
            count.statuses[status] += 1

    def sent(self, count: PathCount, size: int) -> None:
        """Note bytes of body; less than 0 takes back those that could not be sent."""
        with self.changed:
            count.body_bytes += size

    def ended(self, count: PathCount) -> None:
        """Note that a request is over, however it went."""
        with self.changed:
            count.open -= 1
            self.changed.notify_all()

    def wait(
        self,
        path: str | None,
        requests: int = 0,
        most_open: int | None = None,
        most_connected: int | None = None,
        timeout: float = 0.0,
    ) -> bool:
        """Wait until `path`, or all together, saw so many requests and has so few open; say if it came true.

        `most_connected` is of all connections.  *Units*: seconds.
        """

        def reached() -> bool:
            counts = list(self._paths.values()) if path is None else [self._paths.get(path, PathCount())]
            return (
                sum(count.requests for count in counts) >= requests
                and (most_open is None or sum(count.open for count in counts) <= most_open)
                and (most_connected is None or self._open <= most_connected)
            )

        with self.changed:
            return self.changed.wait_for(reached, timeout)

    def stats(self, path: str | None = None) -> dict[str, Any]:
        """Return one path's counts, or everything."""
        with self.changed:
            if path is not None:
                return self._paths.get(path, PathCount()).as_json()
            return {
                "connections": {"open": self._open, "peak": self._peak, "total": self._total},
                "paths": {name: count.as_json() for name, count in self._paths.items()},
            }

    def under_way(self) -> int:
        """Return how many requests are under way."""
        with self.changed:
            return sum(count.open for count in self._paths.values())

    def version(self, name: str) -> tuple[int, int | None]:
        """Return the version of a blob's name that is current, and its size if that was changed."""
        with self.changed:
            return self._versions.get(name, (1, None))

    def swap(self, name: str, size: int | None) -> int:
        """Make a new version current and return its number."""
        with self.changed:
            version, old_size = self._versions.get(name, (1, None))
            self._versions[name] = version + 1, old_size if size is None else size
            return version + 1

    def grant(self, lease: Lease) -> str:
        """Return a secret that stands for `lease`."""
        secret = secrets.token_hex(12)
        with self.changed:
            self._leases[secret] = lease
        return secret

    def take(self, secret: str) -> bool:
        """Use the lease of a secret once; say whether it still held."""
        with self.changed:
            lease = self._leases.get(secret)
            return lease is not None and lease.take()
