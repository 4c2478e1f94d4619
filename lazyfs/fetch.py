"""The leader of a flight: takes the blocks' locks, looks again, asks the origin, lands the blocks, commits them.

    pending ── try its lock ──┬─ held elsewhere ── poll: present now? lock free now? ──┐
       ▲                      └─ ours ── look again: present? ── settled               │
       │                                    │ missing                                  │
       │    retryable failure               ▼                                          │
       └──── back off, unlocked ◄──── one ranged request ── landed ── written ── recorded ── settled, unlocked
       ▲                                                                               │
       └───────────────────────────────────────────────────────────────────────────────┘

A flight's blocks are received in a worker thread (connection.py). A block lands, that is, is given to this process's
waiters, as soon as its bytes are whole in memory; then the same thread commits it, while it is in the CPU's cache, so
neither a slow disk nor a full one keeps who waits for it. Where there was room for a block before it came, C has put it
in place (assembler.py), and records follow for all that came in one go. The block's lock is held until the commit, so
other processes never fetch what is on its way to the disk.

A blob that is known by its digest is different in one thing: its blocks land after they are recorded, and the last one
is recorded only when the whole matches (verify.py).

Where the disk fails, blocks land all the same. One whose lock cannot be had is fetched without it, and not written: who
else fetches it gets the same bytes.

An origin that ignores ranges answers with the whole blob. Its flight then widens to all that is missing and becomes
the blob's *pass*: every block is committed as it goes by, and it goes on to the end as long as the blob is open,
whatever its first reader does, because another reader would have to begin it again from byte 0.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final

import trio

from lazyfs.assembler import Assembler, Taker
from lazyfs.causes import Fetches
from lazyfs.commits import Commits
from lazyfs.counters import Counters
from lazyfs.errors import DigestMismatch, LazyfsError, OriginBadAnswer, OriginError, StoreError
from lazyfs.extents import Block, Extent, runs
from lazyfs.flight import Flight, FlightTable, Hold
from lazyfs.memory import CheckedBlocks
from lazyfs.origin.backoff import Backoff
from lazyfs.origin.client import Answer
from lazyfs.records import MISSING
from lazyfs.stages import Why
from lazyfs.store import BlobFile, Store
from lazyfs.store.room import Room
from lazyfs.stored import read_stored
from lazyfs.urgency import Urgency
from lazyfs.versions import Known, digest_of
from lazyfs.ways import Ways

log = logging.getLogger(__name__)

LONGEST_RUN: Final = 16 * 1024 * 1024
"""Bytes in one ranged request at the most: what a new demand may have to share a connection's worth with."""

_POLL_FIRST: Final = 0.001
_POLL_LARGEST: Final = 0.01
"""Seconds between two looks at a block that another process fetches: a commit is seen within a few milliseconds, a
holder's death within 10."""

ANSWER_FIRST: Final = 0.001
"""Seconds before a single block that somebody waits for is committed: the commit would take turns with the answer."""

PASS_TRIES: Final = 5
"""Times that a pass is begun again without a single new block; each costs the origin the whole blob."""

PASS_AGAIN: Final = 30.0
"""Seconds until another one is begun after that."""

_UNBOUNDED: Final = 1 << 62


class Fetcher:
    """Leads the flights of one open blob."""

    def __init__(
        self,
        store: Store,
        file: BlobFile,
        known: Known,
        ways: Ways,
        memory: CheckedBlocks,
        counters: Counters,
        fetches: Fetches,
    ) -> None:
        self.flights = FlightTable()
        self._token = trio.lowlevel.current_trio_token()
        self.one_pass = not known.ranged
        self.longest_run = max(1, LONGEST_RUN // file.geometry.block_size)  # blocks worth asking for in one request
        self._store = store
        self._file = file
        self._head = known.head
        self._ways = ways
        self._memory = memory
        self._counters = counters
        self._fetches = fetches
        self._pass: Flight | None = None
        self._pass_hold: Hold | None = None
        # Blocks whose lock this process has. A flight releases only what is in here, never a range, since the
        # locks of all flights of this blob are on one descriptor.
        self._locked: set[int] = set()
        self._stuck: set[int] = set()  # blocks whose lock could not be released, for the next who releases any
        self._passes_begun = 0  # since the last new block
        self._pass_failed: tuple[float, OriginError] | None = None  # until when no pass is begun, and why
        self._digest = digest_of(file.blob_id)
        self._commits = Commits(store, file, ways, counters)
        self.mismatch: DigestMismatch | None = None  # set once: nothing of this blob is to be had any more
        self.on_landed: Callable[[], None] = lambda: None

    def release_pass(self) -> None:
        """Let a pass end with its last waiter: the blob is being closed."""
        if self._pass_hold is not None:
            self._pass_hold.release()

    async def lead(self, flight: Flight) -> None:
        """Fetch the flight's blocks. Never raises: failures go to the flight's waiters.

        *Cancellation*: by the flight's own scope; what has landed is committed first. *Locks*: takes and releases the
        blocks'.
        """
        error: LazyfsError | None = None
        try:
            with flight.scope:
                await self._fetch(flight)
        except LazyfsError as exc:
            error = exc
        except OSError as exc:
            error = StoreError(f"blob {self._file.blob_id}: the store fails: {exc.strerror or exc}")
        except Exception as exc:
            log.exception("blob %s: an unforeseen failure", self._file.blob_id)
            error = StoreError(f"blob {self._file.blob_id}: an unforeseen failure: {exc!r}")
        finally:
            self._release(flight.blocks)
            self.flights.end(flight, self.mismatch or error)
            if self._pass is flight:
                self._pass = None
                self._end_pass()

    async def _fetch(self, flight: Flight) -> None:
        backoff = Backoff()
        while flight.blocks and self.mismatch is None:
            pending = set(flight.blocks)  # not how many: others may be handed over meanwhile
            try:
                await self._fetch_some(flight)
            except OriginError as exc:
                if not exc.retryable or (self._pass_failed is not None and exc is self._pass_failed[1]):
                    raise
                self._counters.retries += 1
                flight.at(Why.RETRY, exc.reason.partition("; ")[0])  # not what is to be done: it is done
                if not pending <= flight.blocks:
                    backoff.after_progress()
                    self._passes_begun = 0
                wait = backoff.after_failure(exc.retry_after)
                log.log(logging.WARNING if backoff.tries == 1 else logging.DEBUG, "%s; next try in %.1f s", exc, wait)
                self._release(flight.blocks)
                if self._pass is flight and self._passes_begun >= PASS_TRIES:
                    self._passes_begun = 0
                    self._pass_failed = trio.current_time() + PASS_AGAIN, exc
                    raise
                await trio.sleep(wait)

    async def _fetch_some(self, flight: Flight) -> None:
        """Get the first pending run that nobody else fetches into the store, or wait for whoever does."""
        if self._pass is not None and self._pass is not flight:
            self.flights.hand_over(flight, self._pass)
            return
        locked = self._lock_free(flight.blocks)
        if not locked:
            await self._wait_for_others(flight)
            return
        missing = await self._look_again(flight, locked)
        for part in runs(missing, _UNBOUNDED):
            await self._ask(flight, part)
            if self.one_pass:
                if self._pass is None:
                    await self._let_pass(flight)
                return  # the pass, this flight or another, takes the other parts along

    def _lock(self, run: Extent) -> Extent:
        """Return what of a run's start this process may fetch: what it has locked, or all when nothing can be."""
        if not self._file.writable:
            return run
        try:
            locked = self._file.locks.try_blocks(run)
        except OSError as exc:
            self._store.trouble.failed(exc)
            return run
        self._locked.update(locked.blocks())
        return locked

    def _lock_each(self, blocks: Iterable[int]) -> None:
        for index in blocks:
            self._lock(Extent(index, index + 1))

    def _release(self, blocks: Iterable[int]) -> None:
        ours = self._locked.intersection(blocks)
        self._locked -= ours
        ours |= self._stuck - self._locked
        self._stuck.clear()
        for run in runs(sorted(ours), _UNBOUNDED):
            try:
                self._file.locks.release_blocks(run)
            except OSError as exc:
                self._stuck.update(run.blocks())
                self._store.trouble.failed(exc)

    def _try_pass(self) -> bool:
        """Take the pass lock; False while another process has it, True also when it cannot be had."""
        try:
            return not self._file.writable or self._file.locks.try_pass()
        except OSError as exc:
            self._store.trouble.failed(exc)
            return True

    def _end_pass(self) -> None:
        if self._file.writable:
            try:
                self._file.locks.end_pass()
            except OSError as exc:
                self._store.trouble.failed(exc)

    def _lock_free(self, blocks: Iterable[int]) -> Extent:
        """Lock the first run of these blocks that nobody else holds; empty when all of them are held.

        A process that is stopped while it holds one must not keep us from the others.
        """
        for run in runs(sorted(blocks), _UNBOUNDED):
            for start in run.blocks():
                if locked := self._lock(Extent(start, run.stop)):
                    return locked
        return Extent(0, 0)

    async def _wait_for_others(self, flight: Flight) -> None:
        """Wait until other processes have committed one of our blocks or let go of its lock; return with either."""
        flight.at(Why.LOCK)
        pause = _POLL_FIRST
        damaged: dict[int, int] = {}  # entries that did not match: not looked at again until they are others
        while True:
            pending = len(flight.blocks)
            for run in runs(sorted(flight.blocks), _UNBOUNDED):
                for index, entry in zip(run.blocks(), self._file.entries(run), strict=True):
                    if entry in (MISSING, damaged.get(index, MISSING)):
                        continue
                    if await self._settle_present(flight, index):
                        self._counters.blocks_awaited += 1
                    damaged[index] = entry
            if len(flight.blocks) < pending or self._lock_free(flight.blocks):
                return  # the next round looks again, and fetches what is missing
            await trio.sleep(pause)
            pause = min(pause * 2, _POLL_LARGEST)

    async def _let_pass(self, flight: Flight) -> None:
        """Wait while another process's pass goes by, until it has left one of our blocks or is over.

        *Locks*: releases the flight's blocks, which the pass commits.
        """
        self._release(flight.blocks)
        flight.at(Why.LOCK)
        pause = _POLL_FIRST
        while not self._try_pass():
            pending = sorted(flight.blocks)
            for run in runs(pending, _UNBOUNDED):
                missing = set(self._file.missing(run))
                for index in run.blocks():
                    if index not in missing and await self._settle_present(flight, index):
                        self._counters.blocks_awaited += 1
            if len(flight.blocks) < len(pending):
                return
            await trio.sleep(pause)
            pause = min(pause * 2, _POLL_LARGEST)
        self._end_pass()

    async def _look_again(self, flight: Flight, locked: Extent) -> list[int]:
        """Settle what was committed between the look that launched the flight and the lock; return the rest."""
        missing = set(self._file.missing(locked))
        for index in locked.blocks():
            if index not in missing and not await self._settle_present(flight, index):
                missing.add(index)
        return sorted(missing)

    async def _settle_present(self, flight: Flight, index: int) -> bool:
        """Settle a block that is marked present, landing it if it is awaited; False when its bytes are damaged."""
        if flight.awaited(index):
            block = await read_stored(self._file, index, self._counters)
            if block is None:
                return False
            self._land(flight, index, block)
        self._settle(flight, [index])
        return True

    def _land(self, flight: Flight, index: int, block: Block) -> None:
        if self.mismatch is None:
            self._memory.add((self._file.blob_id, index), block)
        flight.land(index, block)

    def _settle(self, flight: Flight, blocks: Iterable[int]) -> None:
        blocks = list(blocks)
        self._release(blocks)
        for index in blocks:
            self.flights.settle(flight, index)

    async def _ask(self, flight: Flight, run: Extent) -> None:
        """Ask the origin for a run of missing blocks. *Locks*: theirs, held."""
        if self.one_pass and self._pass_failed is not None and trio.current_time() < self._pass_failed[0]:
            raise self._pass_failed[1].with_traceback(None)
        if self.one_pass and not self._begin_pass(flight):
            return
        geometry = self._file.geometry
        extent, head = geometry.bytes_of(run), b""
        if self.one_pass:
            extent = Extent(0, geometry.size)
        else:
            head = self._head[extent.start : extent.stop]
            extent = Extent(extent.start + len(head), extent.stop)
        if not extent:  # the head is all there is of it
            await self._receive(flight, None, Assembler(geometry, extent.start - len(head), head))
            return
        async with self._asked(flight, extent) as answer:
            body = answer.body.extent
            if body.start != extent.start or body.stop > extent.stop:  # the range was ignored
                self.one_pass, head = True, b""
                if not self._begin_pass(flight):
                    return
            elif body.stop < extent.stop:
                # It gives so much at a time (a cache of slices, tools/shared-tier): more is to be had side by side.
                self.longest_run = min(self.longest_run, max(1, len(body) // geometry.block_size))
            self._passes_begun += self._pass is flight
            pending = set(flight.blocks)
            await self._receive(flight, answer, Assembler(geometry, body.start - len(head), head))
            if pending <= flight.blocks and self.mismatch is None:
                # It may be right, but asking on like that would never end.
                raise OriginBadAnswer(self._ways.shown, "an answer without a single whole block")
            self._passes_begun = 0

    @asynccontextmanager
    async def _asked(self, flight: Flight, extent: Extent) -> AsyncIterator[Answer]:
        flight.at(Why.FIRST_BYTE)
        with self._fetches.noting(self._file.blob_id, extent, flight.urgency()) as fetch:
            async with aclosing(await self._ways.ask(extent, flight.urgency)) as answer:
                flight.at(Why.BODY)
                fetch.answer = answer
                yield answer

    def _begin_pass(self, flight: Flight) -> bool:
        """Make a flight the pass and widen it to all that is missing; False when another is, here or elsewhere.

        No await: one pass is enough, however many flights learn at once that it takes one. *Locks*: tries the pass
        lock, and the blocks'.
        """
        if self._pass is None and self._try_pass():
            self._pass, self._pass_hold = flight, flight.hold(Urgency.PREFETCH)
        if self._pass is not flight:
            return False
        self.flights.widen(flight, self._file.missing(Extent(0, self._file.geometry.blocks)))
        for run in runs(sorted(flight.blocks - self._locked), _UNBOUNDED):
            start = run.start
            while start < run.stop:
                start = self._lock(Extent(start, run.stop)).stop + 1  # the block after it is held elsewhere
        return True

    async def _receive(self, flight: Flight, answer: Answer | None, assembler: Assembler) -> None:
        """Cut the body into blocks, and land and commit those that are this flight's."""
        room = partial(self._room, flight)
        if answer is None or answer.body.counted:
            landed = partial(self._land_all, flight) if self._digest is None else None
            try:
                await assembler.receive(answer, Taker(partial(self._arrive, flight), landed, room))
            finally:
                self._settle_committed(flight)
            return
        # The body proves itself only by its end: put it in place, and vouch for it then.
        awaited: dict[int, Block] = {}  # kept for those who wait, as the store may not take it
        checksums: dict[int, int] = {}

        def arrived(start: int, blocks: Sequence[Block], in_place: Sequence[int]) -> None:
            ours = self._ours(flight, start, blocks)
            awaited.update((index, block) for index, block in ours.items() if flight.awaited(index))
            checksums.update(enumerate(in_place, start))
            self._commits.write(self._owned(ours), checksums)

        try:
            await assembler.receive(answer, Taker(arrived, None, room))
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._commits.take_back, checksums)
            raise
        if not await trio.to_thread.run_sync(self._guarded, flight, partial(self._commits.record_written, checksums)):
            return
        for index in sorted(awaited.keys() | checksums.keys()):
            self._counters.blocks_fetched += 1
            if index in awaited:
                self._land(flight, index, awaited[index])
            await self._settle_present(flight, index)

    def _land_all(self, flight: Flight, start: int, blocks: Sequence[Block]) -> None:
        """Land blocks, and settle what was committed since the last time: one wake-up for both."""
        for index, block in self._ours(flight, start, blocks).items():
            self._land_new(flight, index, block)
        self._settle_committed(flight)
        self.on_landed()

    def _land_new(self, flight: Flight, index: int, block: Block) -> None:
        self._counters.blocks_fetched += 1
        self._land(flight, index, block)

    def _settle_committed(self, flight: Flight) -> None:
        """Settle what a worker thread has committed; what has not landed before, or was not to, does so now."""
        committed = [flight.committed.popleft() for _ in range(len(flight.committed))]  # the thread may add more
        for index, block in committed:
            if index not in flight.landed:
                self._land_new(flight, index, block)
        self._settle(flight, [index for index, _ in committed])

    # What runs in the worker thread that receives a flight's blocks.

    def _room(self, flight: Flight, run: Extent) -> Room:
        """Return the room that there is at once for the first blocks of a run, as far as they are ours and locked."""
        others = (index for index in run.blocks() if index not in flight.blocks or index not in self._locked)
        stop = next(others, run.stop)
        return self._store.room(self._file, Extent(run.start, stop))

    def _arrive(self, flight: Flight, start: int, blocks: Sequence[Block], in_place: Sequence[int]) -> None:
        """Commit blocks; they are settled with the next ones that land, or at the end.

        Those with a digest land only then.
        """
        if self.mismatch is not None:  # another flight has found it
            self._token.run_sync_soon(flight.scope.cancel)
            return
        ours = self._ours(flight, start, blocks)
        if self._digest is None and len(ours) == 1 and flight.urgency() is Urgency.DEMAND:
            time.sleep(ANSWER_FIRST)
        if not self._guarded(
            flight, partial(self._commits.commit, self._owned(ours), dict(enumerate(in_place, start)))
        ):
            return
        flight.committed.extend(ours.items())
        if self._digest is not None:
            self._token.run_sync_soon(self._land_all, flight, start, ())

    def _ours(self, flight: Flight, start: int, blocks: Sequence[Block]) -> dict[int, Block]:
        """Return those of some blocks that the flight is to fetch, by index."""
        return {index: block for index, block in enumerate(blocks, start) if index in flight.blocks}

    def _owned(self, blocks: Mapping[int, Block]) -> dict[int, Block]:
        """Return those that this process may write; a pass goes by some that it could not lock before."""
        if not self._file.writable:
            return dict(blocks)
        if unlocked := [index for index in blocks if index not in self._locked]:
            trio.from_thread.run_sync(self._lock_each, unlocked)
        return {index: block for index, block in blocks.items() if index in self._locked}

    def _guarded(self, flight: Flight, step: Callable[[], None]) -> bool:
        """Do a step of a commit; False, and the flight's end, for a blob that proves to be wrong."""
        try:
            step()
        except DigestMismatch as exc:
            self.mismatch = exc
            self._token.run_sync_soon(flight.scope.cancel)
            return False
        return True
