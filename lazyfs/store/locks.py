"""The store's locks: what each protects, their one order, and who may wait for what.

Those on a file are open-file-description locks (fcntl(2), F_OFD_SETLK): the kernel drops them when the last descriptor
of the open file goes, so a killed process holds nothing, and closing some other descriptor of the file drops nothing. A
blob's are on its `lock` file, which is never unlinked while the blob is in `blobs/`, but for one on `data`; the store's
own are on `quota`.

| lock | where | protects | taken how | held while waiting for |
|---|---|---|---|---|
| turn | trio, by blob id (blob.py) | that a process opens a blob once | waited for | set-up, gate, writes |
| in use | 2^62 of `lock` | the blob's directory | shared: open, or evicted from; alone: tried, to remove | all below |
| set-up | 2^62 + 1 | the making of map and data | alone, tried again for 5 s | nothing |
| lease | 2^62 + 4 | the blob against eviction | shared: while it is filled; looked at, to evict | all below |
| data lease | 2^62 + 4 of `data` | the same, and its data | shared: while the kernel reads it (passage.py) | nothing |
| pass | 2^62 + 3 | the one pass over an origin that ignores ranges | alone: tried, then polled | blocks and below |
| block i | i | its fetch, its eviction | alone: tried; to fetch, then polled | all below, no block |
| evictor | thread (eviction.py) | a process's candidates | waited for, also a whole look long | writes and below |
| gate | thread, then 2^62 + 2 | which block is the last one missing (verify.py) | alone, tried again | nothing |
| writes | thread, then SQLite's | a transaction that writes; readers do not wait | waited for, 10 s | catalogue |
| catalogue | 2^62 + 1 of `quota` | which file is catalogue.db | shared: to open it; alone: to rename it | SQLite's |
| scrub | 2^62 + 2 of `quota` | the scrub: one process's (scrub.py) | alone, tried, until the process ends | - |
| quota | thread (quota.py) | a process's pool | waited for | update |
| update | 2^62 of `quota` | every change of the quota (quota.py) | alone, tried again for 2 s | nothing |
| slot i | i of `quota` | what a process has reserved | alone, tried, until the process ends | - |

The order is the table's: no task waits for a lock while it holds one from below it, except those that nobody waits for
(in use, leases, scrub, slots); so no two can wait for each other. Nor does one wait for a block while it holds
another: a flight takes the first run that is free, and waits only when none is; who makes room for a block only tries
those that are to go. An entry of the trash is locked by the in-use lock of the blob that it was (trash.py). Locks that
are held for a moment, in memory, are not listed.

What this comes to in every order of two or three processes' system calls, tests/model/protocol.py says and
`tools/interleavings` checks.

Within one process all flights of a blob share one open file description, for which these locks never conflict: there
the flight table (flight.py) keeps two flights off the same block. Eviction has a description of its own.

Waiting is polling. A blocked F_OFD_SETLKW needs a thread for each waiter, which no cancellation reaches; a look at the
map entry and a try cost 3 microseconds together, so a waiter that looks every few milliseconds is woken by a commit
as soon as it matters, and by the holder's death just as soon.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Iterator
from typing import Final

from lazyfs.extents import Extent

_FAR: Final = 1 << 62
_IN_USE: Final = _FAR
_SET_UP: Final = _IN_USE + 1
_GATE: Final = _IN_USE + 2
_PASS: Final = _IN_USE + 3
_LEASE: Final = _IN_USE + 4
_UPDATE: Final = _FAR
_CATALOGUE: Final = _UPDATE + 1
_SCRUB: Final = _UPDATE + 2
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, len, pid

_NAMES: Final = {
    "lock": {_IN_USE: "in use", _SET_UP: "set-up", _GATE: "gate", _PASS: "pass", _LEASE: "lease"},
    "data": {_LEASE: "data lease"},
    "quota": {_UPDATE: "update", _CATALOGUE: "catalogue", _SCRUB: "scrub"},
}


def named(file: str, first: int, last: int) -> str:
    """Return what the locks on these bytes of a file of ours are called, as in the table; the kernel joins them."""
    if far := [name for byte, name in _NAMES.get(file, {}).items() if first <= byte <= last]:
        return ", ".join(far)
    what = {"lock": "block", "quota": "slot"}.get(file, "byte")
    return f"{what} {first}" if first == last else f"{what}s {first}-{last}"


class _Locks:
    """Locks on a descriptor that nothing else uses (the caller closes it)."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def _try(self, kind: int, start: int, length: int) -> bool:
        try:
            self._set(kind, start, length)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def _set(self, kind: int, start: int, length: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, 0, start, length, 0))

    def _in_the_way(self, start: int, length: int) -> int | None:
        """Return where a lock of another process begins among these bytes; None when there is none.

        The kernel names some such lock, not the first.
        """
        found = self._lock_in(start, length)
        return None if found is None else found[0]

    def _lock_in(self, start: int, length: int) -> tuple[int, int] | None:
        """Return where such a lock begins, and how long it is: 0 for one without an end."""
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, start, length, 0))
        kind, _whence, found, its_length, _pid = _FLOCK.unpack(answer)
        return None if kind == fcntl.F_UNLCK else (found, its_length)


class QuotaLocks(_Locks):
    """The locks of the store's quota, on a descriptor of its file."""

    def try_update(self) -> bool:
        """Take the update lock; False while another process has it. *Raises*: OSError."""
        return self._try(fcntl.F_WRLCK, _UPDATE, 1)

    def end_update(self) -> None:
        """Release the update lock."""
        self._set(fcntl.F_UNLCK, _UPDATE, 1)

    def try_slot(self, slot: int) -> bool:
        """Take a slot; False when it is another process's. *Raises*: OSError."""
        return self._try(fcntl.F_WRLCK, slot, 1)

    def slot_is_held(self, slot: int) -> bool:
        """Say whether a slot is that of another process which lives. *Raises*: OSError."""
        return self._in_the_way(slot, 1) is not None


class StoreLocks(_Locks):
    """The locks of the store that have nothing to do with its quota, on a descriptor of the quota's file."""

    def try_catalogue(self, *, alone: bool) -> bool:
        """Take the catalogue lock, shared or exclusively; False while others are in the way. *Raises*: OSError."""
        return self._try(fcntl.F_WRLCK if alone else fcntl.F_RDLCK, _CATALOGUE, 1)

    def try_scrub(self) -> bool:
        """Take the scrub lock; False while another process has it. *Raises*: OSError."""
        return self._try(fcntl.F_WRLCK, _SCRUB, 1)


class DataLocks(_Locks):
    """The lease on a blob's data, on a descriptor of it; it lasts as long as anybody has this open file."""

    def take_lease(self) -> None:
        """Keep the blob from eviction, and its data whole, until the last descriptor of this open file is closed."""
        self._set(fcntl.F_RDLCK, _LEASE, 1)

    def is_leased(self) -> bool:
        """Say whether somebody with another descriptor has a lease. *Raises*: OSError."""
        return self._in_the_way(_LEASE, 1) is not None


class BlobLocks(_Locks):
    """The locks of one blob, on a descriptor of its lock file."""

    def try_use(self) -> bool:
        """Take the in-use lock shared; False while somebody removes the blob. *Raises*: OSError."""
        return self._try(fcntl.F_RDLCK, _IN_USE, 1)

    def try_own(self) -> bool:
        """Take the in-use lock exclusively; False while anybody has the blob open. *Raises*: OSError."""
        return self._try(fcntl.F_WRLCK, _IN_USE, 1)

    def is_in_use(self) -> bool:
        """Say whether anybody has the blob open, on another descriptor. *Raises*: OSError."""
        return self._in_the_way(_IN_USE, 1) is not None

    def try_set_up(self) -> bool:
        """Take the set-up lock; False while another process has it. *Raises*: OSError."""
        return self._try(fcntl.F_WRLCK, _SET_UP, 1)

    def end_set_up(self) -> None:
        """Release the set-up lock."""
        self._set(fcntl.F_UNLCK, _SET_UP, 1)

    def take_lease(self) -> None:
        """Keep the blob from eviction."""
        self._set(fcntl.F_RDLCK, _LEASE, 1)

    def end_lease(self) -> None:
        """Release the lease."""
        self._set(fcntl.F_UNLCK, _LEASE, 1)

    def is_leased(self) -> bool:
        """Say whether somebody with another descriptor has a lease. *Raises*: OSError."""
        return self._in_the_way(_LEASE, 1) is not None

    def try_pass(self) -> bool:
        """Take the pass lock; False while another process has it. *Raises*: OSError."""
        return self._try(fcntl.F_WRLCK, _PASS, 1)

    def end_pass(self) -> None:
        """Release the pass lock."""
        self._set(fcntl.F_UNLCK, _PASS, 1)

    def try_gate(self) -> bool:
        """Take the gate; False while another process has it. *Raises*: OSError."""
        return self._try(fcntl.F_WRLCK, _GATE, 1)

    def end_gate(self) -> None:
        """Release the gate."""
        self._set(fcntl.F_UNLCK, _GATE, 1)

    def try_blocks(self, run: Extent) -> Extent:
        """Lock as many blocks of `run` as are free from its start on; empty when the first is held elsewhere.

        *Locks*: takes those blocks. The caller then looks at the map again. *Raises*: OSError.
        """
        while run:
            if self._try(fcntl.F_WRLCK, run.start, len(run)):
                return run
            # What was in the way may be gone by now: then the same run is tried again, else a shorter one.
            run = Extent(run.start, min(self._first_held(run), run.stop))
        return run

    def are_held(self, run: Extent) -> bool:
        """Say whether somebody with another descriptor has locked any of these blocks. *Raises*: OSError."""
        return bool(run) and self._in_the_way(run.start, len(run)) is not None

    def held(self, run: Extent) -> Iterator[Extent]:
        """Yield what others have locked of these blocks, in no order, with a few calls for each run. *Raises*: OSError.

        Locks that are taken or released meanwhile may be missed or not.
        """
        rest = [run]
        while rest:
            within = rest.pop()
            found = self._lock_in(within.start, len(within)) if within else None
            if found is not None:
                start, length = found
                stop = min(start + length, within.stop) if length else within.stop
                one = Extent(max(start, within.start), stop)
                yield one
                rest += [Extent(within.start, one.start), Extent(one.stop, within.stop)]

    def release_blocks(self, run: Extent) -> None:
        """Release blocks that this process holds."""
        if run:
            self._set(fcntl.F_UNLCK, run.start, len(run))

    def _first_held(self, run: Extent) -> int:
        """Return the first block of `run` that another process holds; the run's end when none is."""
        first = run.stop
        while first > run.start and (found := self._in_the_way(run.start, first - run.start)) is not None:
            first = max(found, run.start)
        return first
