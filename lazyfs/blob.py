"""An open blob and the one read algorithm.

    read ── each block ── in memory, checked? ── answer
                             │ no
                          a flight has it? ── landed: answer; else join it, up to the read's deadline
                             │ no
                          in the store, matching its checksum? ── answer
                             │ no
                          launch a flight (fetch.py) and join it

Only bytes of checked blocks are answered. A read waits for the blocks it touches and for nothing else; what readahead
launches beside it, it does not wait for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import trio

from lazyfs import urls
from lazyfs.awake import Awake
from lazyfs.blockuses import BlockUses
from lazyfs.causes import Fetches, replaying
from lazyfs.counters import Counters
from lazyfs.derived import Unpack, fetcher_of
from lazyfs.errors import DeadlineExceeded, DigestMismatch, LazyfsError, OriginOffline, StoreError
from lazyfs.extents import Block, Extent, Geometry, runs, trimmed
from lazyfs.failures import Failures
from lazyfs.fetch import LONGEST_RUN
from lazyfs.flight import Flight, FlightEnded, Hold
from lazyfs.memory import CheckedBlocks
from lazyfs.options import Limits as Limits
from lazyfs.origin.client import Client
from lazyfs.readahead import Budget, Readahead
from lazyfs.replay import Run
from lazyfs.slowreads import Read, SlowReads
from lazyfs.store import BlobFile, Store
from lazyfs.store.layout import Layout
from lazyfs.stored import read_samples, read_stored, read_stored_run
from lazyfs.urgency import Urgency
from lazyfs.versions import BlobId, Known, digest_of
from lazyfs.ways import Ways

log = logging.getLogger(__name__)

FAILED_FOR: Final = 3.0
"""Seconds for which a block that failed fails at once."""

FILL_WORKERS: Final = 4
"""Runs fetched at a time when a whole blob is wanted."""


class Shared(Protocol):
    """What the open blobs of a process share (blobs.py)."""

    store: Store
    client: Client
    counters: Counters
    nursery: trio.Nursery
    limits: Limits
    memory: CheckedBlocks
    awake: Awake
    ahead: Budget
    fetches: Fetches
    slow: SlowReads

    def forget_if_idle(self, blob: Blob) -> None:
        """Close a blob's files once nobody needs them."""

    async def mark_complete(self, file: BlobFile) -> None:
        """Record that all of a blob is in the store."""

    async def throw_away(self, blob: Blob, mismatch: DigestMismatch) -> None:
        """Let a blob that does not match its digest go. *Cancellation*: none."""


class Blob:
    """A blob that is open in this process, shared by all its readers; made by `Blobs.open` (blobs.py)."""

    def __init__(
        self, blob_id: BlobId, file: BlobFile, known: Known, shared: Shared, unpack: Unpack | None = None
    ) -> None:
        self.blob_id = blob_id
        self.known = known
        self.geometry: Geometry = file.geometry
        self.path = ""  # one that leads to it, for people
        self.opens = 0
        self.closed = False
        self.given_out = False  # whether anybody has bytes of it
        self.lost = False  # whether its files have gone while they were not open
        self.run: Run | None = None  # who records what is asked for, and knows what was in runs before
        self._file = file
        self._shared = shared
        self._local = unpack is not None  # its origin is no other host
        digest = digest_of(blob_id) is not None
        samples = partial(read_samples, file, shared.counters)
        self.ways = Ways(known, shared.client, shared.counters, shared.nursery, samples, digest=digest)
        common = shared.store, file, known, self.ways, shared.memory, shared.counters, shared.fetches
        self._fetcher = fetcher_of(unpack)(*common)
        self._flights = self._fetcher.flights
        self._fetcher.on_landed = self.launch_ahead
        self._readahead = Readahead(file.geometry, shared.ahead)
        self._ahead: list[Hold] = []
        self._failures = Failures[int](FAILED_FOR, f"blob {blob_id}, block {{}}: ".format)
        self._busy = 0  # tasks that need its files: readers, leaders of flights, who writes down what was read
        self._complete = file.complete()
        self._fills = 0  # who fill it now; while there are some, it is leased
        self._uses = BlockUses(file, shared.store, shared.nursery, self._begin_use, self._end_use)

    async def read(self, offset: int, length: int) -> bytes:
        """Return the bytes `[offset, offset + length)` in one piece; otherwise as `read_pieces`."""
        return b"".join(await self.read_pieces(offset, length))

    async def read_pieces(self, offset: int, length: int, until: int | None = None) -> list[memoryview]:
        """Return the bytes `[offset, offset + length)`, cut at the end of the blob only, as pieces of its blocks.

        `until` is where it ends, or a larger read that it is a part of, where that is known.
        *Raises*: DeadlineExceeded, when the origin did not deliver in time; OriginError; StoreError. *Cancellation*:
        at any time; flights that nobody else waits for end. *Units*: bytes.
        """
        extent = self.geometry.covering(offset, length)
        if not extent:
            return []
        read = Read(self, offset, length, self._shared.limits.read_timeout)
        holds: list[Hold] = []
        self._begin_use()
        if self.run is not None:
            self.run.on_read(extent)
        try:
            content = await self._stored_run(extent, read)
            if not self._complete:
                self._readahead.on_read(offset, length, until)
                holds = self._launch_around(extent if content is None else Extent(extent.stop, extent.stop))
            blocks = [content] if content else [await self._block(index, read) for index in extent.blocks()]
        except OSError as exc:
            raise self._store_fails(exc) from exc
        finally:
            _release(holds)
            self._end_use()
            if read.waits is not None:
                self._shared.slow.note(read)
        self.given_out = True
        return trimmed(blocks, self.geometry.bytes_of(extent), offset, length)

    async def fill(self, progress: Callable[[int], None] = lambda present: None) -> None:
        """Fetch every missing block, however long it takes while it goes on; `progress` hears how many bytes are here.

        *Raises*: DeadlineExceeded, when nothing comes for `read_timeout`; OriginError; StoreError. *Cancellation*: at
        any time; what has landed stays. *Locks*: takes a lease, so that nothing of it is evicted meanwhile.
        """
        self._shared.store.refuse_too_large(self.geometry.size, self.ways.shown)
        self._begin_use()
        if not self._fills:
            with suppress(OSError):  # without one, what is evicted meanwhile is fetched again
                self._file.locks.take_lease()
        self._fills += 1
        try:
            progress(present := await self.count())
            while present < self.geometry.size:
                await self._fill(present, progress)
                progress(present := await self.count())  # less than all: a block was evicted just before
        finally:
            self._fills -= 1
            if not self._fills:
                with suppress(OSError):
                    self._file.locks.end_lease()
            self._end_use()

    async def _fill(self, present: int, progress: Callable[[int], None]) -> None:
        blocks = max(1, LONGEST_RUN // self.geometry.block_size)
        starts = iter(range(0, self.geometry.blocks, blocks))
        failure: list[LazyfsError] = []

        async def worker() -> None:
            nonlocal present
            for start in starts:
                try:
                    came = await self._fill_run(Extent(start, min(start + blocks, self.geometry.blocks)))
                    present += came  # not in one step: the others add theirs meanwhile
                except LazyfsError as exc:
                    failure.append(exc)
                except OSError as exc:
                    failure.append(self._store_fails(exc))
                if failure:
                    return
                progress(present)

        async with trio.open_nursery() as nursery:
            for _ in range(FILL_WORKERS):
                nursery.start_soon(worker)
        if failure:
            raise failure[0]

    @property
    def file(self) -> BlobFile:
        """Its files, open until the next await at least. *Raises*: StoreError."""
        self._begin_use()
        self._end_use()
        return self._file

    def checked(self, index: int) -> tuple[int, Block] | None:
        """Return a block that is in memory, and at which byte it begins."""
        block = self._shared.memory.get((self.blob_id, index))
        return None if block is None else (index * self.geometry.block_size, block)

    @property
    def stored(self) -> bool:
        """Whether the store could take blocks of it, or only those that it had when the blob was opened, if any."""
        return self._file.writable

    async def count(self) -> int:
        """Return how many bytes of the blob are in the store: for a large one, that is a large map to look through."""
        self._begin_use()
        try:
            return await trio.to_thread.run_sync(self._file.present_bytes)
        finally:
            self._end_use()

    async def _fill_run(self, run: Extent) -> int:
        """See to it that a run of blocks is in the store, and return how many bytes of it were not."""
        missing = set(self._file.missing(run))
        lacking = sum(map(self.geometry.length, missing))
        while missing:
            self._refuse_offline(run)
            holds, gave_up = self._launch(run, Urgency.PREFETCH), False
            try:
                for index in missing:
                    if (flight := self._flights.find(index)) is not None:
                        await self._until_done(flight)
                        gave_up |= flight.dying  # it was already when we came
            finally:
                _release(holds)
            before, missing = missing, set(self._file.missing(run))
            if missing >= before and not gave_up:
                raise StoreError(f"blob {self.blob_id}: {self._shared.store.why_full()}")
        return lacking

    async def _until_done(self, flight: Flight) -> None:
        """Wait for a flight's end, as long as it comes nearer."""
        while True:
            left = len(flight.blocks)
            with trio.move_on_after(self._shared.limits.read_timeout):
                await flight.done()
                return
            if len(flight.blocks) >= left:
                raise self._too_late()

    def _launch_around(self, demand: Extent) -> list[Hold]:
        """Launch flights for the missing blocks of `demand`, and of what to fetch ahead, joined where they touch.

        Returns the holds that are the read's own. No await: to find no flight and to launch one are one step.
        """
        if self._shared.client.offline and not self._local:
            return []
        (run, part), holds = self._next_ahead(), list[Hold]()
        if run and run.start <= demand.stop:
            self._ahead += self._launch(Extent(demand.start, run.stop), Urgency.READAHEAD, part)
        else:
            self._ahead += self._launch(run, Urgency.READAHEAD, part)
            holds = self._launch(demand, Urgency.DEMAND)
        self._launch_recorded()
        return holds

    def launch_ahead(self) -> None:
        """Launch what is to be fetched ahead now that something has come in."""
        if self.opens:
            run, part = self._next_ahead()
            self._ahead += self._launch(run, Urgency.READAHEAD, part)
            self._launch_recorded()

    def _launch_recorded(self) -> None:
        """Launch what runs before have asked for, as far as it is its turn."""
        if self.run is not None:
            due = self._flights.due * self.geometry.block_size
            for run in self.run.next(due, self.ways.pace, trio.current_time(), self._file.missing):
                with replaying():
                    self._ahead += self._launch(run, Urgency.PREFETCH)

    def _next_ahead(self) -> tuple[Extent, int]:
        """Return what to fetch ahead, and how many blocks of it in one request."""
        self._ahead = [hold for hold in self._ahead if hold.active]
        block = self.geometry.block_size
        ahead = self._readahead.next(self._flights.due * block, self.ways.pace, trio.current_time())
        return ahead.run, max(1, ahead.part // block)

    def _launch(self, run: Extent, urgency: Urgency, part: int | None = None) -> list[Hold]:
        """Launch flights, of `part` blocks at the most, for the missing blocks of a run that have none.

        Returns a hold on each flight that has any of them, so that none ends because others leave it; but nothing
        keeps a dying one. The map is looked at only for blocks that are neither in memory nor under way.
        """
        memory = () if urgency is Urgency.PREFETCH else self._shared.memory  # what is read need not be in the store
        wanted = [index for index in run.blocks() if (self.blob_id, index) not in memory]
        flights = dict.fromkeys(flight for index in wanted if (flight := self._flights.find(index)) is not None)
        without = [index for index in wanted if self._flights.find(index) is None]
        if without:
            missing = self._file.missing(Extent(without[0], without[-1] + 1))
            longest = min(part or self._fetcher.longest_run, self._fetcher.longest_run)
            for piece in runs(sorted(set(without).intersection(missing)), longest):
                flights[self._take_off(piece.blocks())] = None
        return [flight.hold(urgency) for flight in flights if not flight.dying]

    def _take_off(self, blocks: Iterable[int]) -> Flight:
        flight = self._flights.launch(blocks)
        self._busy += 1  # as whoever asks for it is
        self._shared.nursery.start_soon(self._lead, flight)
        return flight

    async def _lead(self, flight: Flight) -> None:
        try:
            await self._fetcher.lead(flight)
            if self._fetcher.mismatch is None:
                await self._note_complete()
        finally:
            if self._fetcher.mismatch is not None:
                await self._shared.throw_away(self, self._fetcher.mismatch)
            self._end_use()

    def _begin_use(self) -> None:
        """Have its files open until `_end_use`; another may be opened in its place meanwhile. *Raises*: StoreError."""
        self._busy += 1
        try:
            self._wake()
        except BaseException:
            self._end_use()
            raise

    def _wake(self) -> None:
        """Have its files open. *Raises*: StoreError."""
        if self._file.resting:
            try:
                self._file.wake(self._shared.store.layout)
            except FileNotFoundError:
                self.lost = True
                reason = "its files were thrown away by another process, since they were wrong; open it again"
                raise StoreError(f"blob {self.blob_id}: {reason}") from None
            except OSError as exc:
                raise self._store_fails(exc) from exc
        self._shared.awake.use(self)

    def rest(self) -> bool:
        """Close its files but the lock, unless somebody uses them; say whether that was done."""
        if self._busy or self.mismatch is not None:  # what was thrown away would not be found again
            return False
        self._uses.write_now()
        return self._file.rest()

    def _end_use(self) -> None:
        self._busy -= 1
        self._shared.forget_if_idle(self)

    async def _note_complete(self) -> None:
        """Record, once, that the last block is in."""
        if self._complete or self._file.lacks_one():
            return
        try:
            if await trio.to_thread.run_sync(self._file.complete) and not self._complete:
                self._complete = True
                await self._shared.mark_complete(self._file)
        except OSError as exc:
            log.warning("blob %s: its map cannot be read: %s", self.blob_id, exc.strerror or exc)

    async def _stored_run(self, run: Extent, read: Read) -> Block | None:
        """Return several blocks in one piece, when all are in the store: that is what a sequential reader wants.

        They are not kept in memory: the kernel keeps what it asks for in large pieces.
        """
        if len(run) == 1 or self._fetcher.mismatch is not None:
            return None
        if any(self._flights.find(index) or (self.blob_id, index) in self._shared.memory for index in run.blocks()):
            return None
        content = await read_stored_run(self._file, run, read.on_disk)  # what is not is asked for block by block
        if content is not None:
            self._note_hits(run)
        return content

    def note_hits(self, run: Extent) -> None:
        """Note that somebody has read blocks of the store by another way. *Raises*: StoreError."""
        if self.run is not None:
            self.run.on_read(run)
        self._note_hits(run)

    def _note_hits(self, run: Extent) -> None:
        self._shared.counters.blocks_hit += len(run)
        for index in run.blocks():
            self._uses.note(index)

    async def _block(self, index: int, read: Read) -> Block:
        """Return one checked block by the read's deadline."""
        counters = self._shared.counters
        key = (self.blob_id, index)
        while True:
            if self._fetcher.mismatch is not None:
                raise self._fetcher.mismatch.with_traceback(None)
            block = self._shared.memory.get(key)
            if block is not None:
                counters.blocks_hit += 1
                return block
            flight = self._flights.find(index)
            if flight is not None:
                block = await self._join(flight, index, read)
            else:
                block = await read_stored(self._file, index, counters, read.on_disk)
                if block is not None:
                    counters.blocks_hit += 1
                    self._shared.memory.add(key, block)
                elif self._flights.find(index) is None:
                    self._complete = False
                    self._failures.refuse(index)
                    self._refuse_offline(Extent(index, index + 1))
                    self._take_off([index])
            if block is not None:
                self._uses.note(index)
                return block

    def note_whole_use(self) -> None:
        """Note that all of it is read, past us: nobody will say which blocks."""
        self._uses.note_all()

    async def _join(self, flight: Flight, index: int, read: Read) -> Block | None:
        """Wait for a block of a flight; None when the flight ended without it: look again."""
        if index not in flight.landed:
            self._failures.refuse(index)
        try:
            with self._shared.slow.waiting(read, flight.stages), trio.move_on_at(read.deadline):
                if not flight.dying:
                    return await flight.wait(index)
                await flight.ended.wait()
                return None
        except FlightEnded:
            return None
        except LazyfsError as exc:
            failure = exc
        else:
            _release(self._ahead)  # nobody reads on from here
            failure = self._too_late()
        read.failed(failure)
        raise self._failures.noted(index, failure) from None

    def _store_fails(self, exc: OSError) -> StoreError:
        return StoreError(f"blob {self.blob_id}: the store fails: {exc.strerror or exc}")

    def _too_late(self) -> DeadlineExceeded:
        seconds = self._shared.limits.read_timeout
        return DeadlineExceeded(urls.redact(self.known.url), f"not delivered by the origin in {seconds:g} s")

    def _refuse_offline(self, run: Extent) -> None:
        if self._shared.client.offline and not self._local and any(True for _ in self._file.missing(run)):
            shown = urls.redact(self.known.url)
            raise OriginOffline(shown, "not all of it is in the store, and --offline forbids asking the origin")

    def renew(self, known: Known) -> None:
        """Take over what its origin says of it now: a blob that is known by its digest may have got another ETag."""
        if known.url == self.known.url and known.version != self.known.version:
            self.known = known
            self.ways.renew(known)
            self._failures.clear()

    def release(self) -> None:
        """Give up what was fetched for readers that have left: the last of them has closed the blob."""
        _release(self._ahead)
        self._ahead.clear()
        self._fetcher.release_pass()

    @property
    def idle(self) -> bool:
        """Whether nobody has it open and nothing of it is under way."""
        return self.opens == 0 and self._busy == 0

    @property
    def flights(self) -> Collection[Flight]:
        """What is under way for it."""
        return self._flights.under_way

    @property
    def mismatch(self) -> DigestMismatch | None:
        """Why nothing of it is to be had any more."""
        return self._fetcher.mismatch

    def set_aside(self, layout: Layout) -> None:
        """Move its files into the trash; those that are open stay so. Blocks. *Raises*: OSError."""
        self._file.set_aside(layout)

    def close_file(self) -> None:
        """Close its files; it must be idle."""
        self.closed = True
        self._uses.write_now()
        self._file.close()


def _release(holds: Iterable[Hold]) -> None:
    for hold in holds:
        hold.release()
