"""What a mount has done so far, as numbers.  Pure."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Counters:
    """Counts since the mount began; `status --json` prints them under these names. *Units*: `*_bytes` bytes."""

    origin_requests: int = 0
    origin_bytes: int = 0  # of bodies
    reads: int = 0
    shortcut_reads: int = 0  # of these, large ones that the C library has answered from the store
    read_bytes: int = 0
    blocks_fetched: int = 0
    blocks_awaited: int = 0  # another process fetched them for us
    blocks_hit: int = 0  # they were in memory or in the store
    blocks_bypassed: int = 0  # fetched, read, and not taken by the store, which is full or failing
    blocks_corrupt: int = 0  # present, but not matching their checksum
    passthrough_opens: int = 0  # opens whose reads go past the daemon, and count as none
    blocks_scrubbed: int = 0  # looked at although nobody read them
    retries: int = 0
    hedges: int = 0  # requests sent beside one that was slow
    failovers: int = 0  # requests that a mirror answered in place of an earlier one
    daemon_restarts: int = 0  # how often this mount's daemon had to be started again; by the journal
    errors: int = 0  # reads and look-ups that ended in an error

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return dataclasses.asdict(self)
