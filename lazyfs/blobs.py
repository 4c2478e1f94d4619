"""The blobs that are open in a process: each once, whoever reads it, and closed when nobody does."""

from __future__ import annotations

import logging
import math
import resource
from collections.abc import Callable, Collection, Sequence

import trio

from lazyfs import urls
from lazyfs.awake import Awake
from lazyfs.blob import Blob, Limits
from lazyfs.causes import Fetches
from lazyfs.counters import Counters
from lazyfs.derived import Unpack
from lazyfs.errors import DigestMismatch, LazyfsError, OriginBadAnswer, StoreError, TooManyOpen
from lazyfs.memory import CheckedBlocks
from lazyfs.origin.client import Client
from lazyfs.readahead import LARGEST, Budget
from lazyfs.recording import Recorder
from lazyfs.slowreads import SlowReads
from lazyfs.store import BlobFile, Store
from lazyfs.store import layout as layouts
from lazyfs.turns import Turns
from lazyfs.versions import BlobId, Known
from lazyfs.ways import REFUSED_FOR

log = logging.getLogger(__name__)


class Blobs:
    """The blobs that are open in this process, and what they share.

    `nursery` runs the flights; it must outlive every reader. `on_mismatch` hears of blobs that were thrown away,
    `on_whole` of those that are all in the store now.
    """

    def __init__(self, store: Store, client: Client, counters: Counters, nursery: trio.Nursery, limits: Limits) -> None:
        self.store = store
        self.client = client
        self.counters = counters
        self.nursery = nursery
        self.limits = limits
        self.memory = CheckedBlocks(limits.memory)
        self.awake = Awake(resource.getrlimit(resource.RLIMIT_NOFILE)[0] % (1 << 30))  # -1, for no limit, is many
        # What is fetched ahead is in the store until it is read, or, where that is small, in memory.
        bound = store.quota.look().max_cache
        self.ahead = Budget(LARGEST if not bound or bound >= 2 * LARGEST else min(LARGEST, limits.memory // 2))
        self.fetches = Fetches()
        self.slow = SlowReads()
        self._recorder: Recorder | None = None
        self.on_mismatch: Callable[[BlobId, DigestMismatch], None] = lambda blob_id, mismatch: None
        self.on_whole: Callable[[BlobFile], None] = lambda file: None
        self._open: dict[BlobId, Blob] = {}
        # Where bytes came from that were not a digest's, and until when they are not to be had from there again.
        self._wrong: dict[tuple[BlobId, str], tuple[float, DigestMismatch]] = {}
        self._opening = Turns[BlobId]()
        self._said_too_many = False

    def record(self) -> None:
        """Have what is read of blobs that are opened from here on recorded and, at the next time, replayed."""
        replays = not self.client.offline
        self._recorder = Recorder(self.store, self.nursery, self.ahead, replays=replays)

    async def open(
        self, blob_id: BlobId, known: Known, mirrors: Sequence[str] = (), unpack: Unpack | None = None
    ) -> Blob:
        """Open a blob, or share it with those who have it open; pair it with `close`.

        `mirrors` are further URLs, in order; with `unpack`, that is asked for it, and no URL. *Raises*: StoreError;
        OriginBadAnswer, when a digest is open with another size; DigestMismatch, when all it could come from was found
        wrong a while ago.
        """
        async with self._opening.of(blob_id):
            blob = self._open.get(blob_id)
            if blob is not None and blob.mismatch is not None:  # its flight has ended, and nobody was here yet
                await self._throw_away(blob, blob.mismatch)
                blob = None
            self._refuse_wrong(blob_id, (known.url, *mirrors))
            if blob is not None and (blob.lost or self.worth_another_try(blob)):
                blob = None
            cold = False
            if blob is None:
                if len(self._open) >= self.awake.most_open:
                    raise self._too_many()
                try:
                    file, cold = await trio.to_thread.run_sync(self._opened, blob_id, known)
                except OSError as exc:
                    if exc.errno in layouts.TOO_MANY_OPEN:
                        raise self._too_many() from None
                    raise StoreError(f"the store {self.store.layout.path}: {exc.strerror or exc}") from exc
                blob = self._open[blob_id] = Blob(blob_id, file, known, self, unpack)
                self.awake.use(blob)
                self._said_too_many = False
            elif blob.geometry.size != known.version.size:  # only a digest may name blobs of two sizes: one is a lie
                shown = urls.redact(known.url)
                raise OriginBadAnswer(shown, f"{known.version.size} bytes, but this digest is open with another size")
            blob.renew(known)
            for url in (known.url, *mirrors):
                blob.ways.add(url)
                if (wrong := self._wrong.get((blob_id, url))) is not None and trio.current_time() < wrong[0]:
                    blob.ways.refuse(url, wrong[1])
            blob.opens += 1
            if self._recorder is not None and blob.opens == 1 and unpack is None:  # else what it is made of is
                blob.run = self._recorder.begin(blob, cold=cold)
            return blob

    def _opened(self, blob_id: BlobId, known: Known) -> tuple[BlobFile, bool]:
        """Open a blob's files, and say whether nothing of it is in the store."""
        file = self.store.open_blob(blob_id, known.url, known.version.size, known.version)
        file.complete()  # here, since that may look through all of a large map; later looks go on from there
        return file, next(file.present(), None) is None

    def _too_many(self) -> TooManyOpen:
        """Return why no more can be opened; the log says it once, until one can."""
        most = (
            f"{len(self._open)} blobs are open, and this process may have no more than {self.awake.limit} descriptors"
        )
        remedy = "close some files, or give it more (ulimit -n, or LimitNOFILE of a systemd unit) and mount again"
        error = TooManyOpen(f"{most}: {remedy}")
        if not self._said_too_many:
            self._said_too_many = True
            log.error("%s", error)
        return error

    @property
    def opened(self) -> Collection[Blob]:
        """The blobs that are open."""
        return self._open.values()

    def worth_another_try(self, blob: Blob) -> bool:
        """Say whether a blob had better be opened anew: the store may take it by now, or its files have gone."""
        if blob.lost:
            return not blob.given_out  # else who has wrong bytes would get the rest of the right ones
        return not (blob.stored or self.store.trouble.at_rest)

    def _refuse_wrong(self, blob_id: BlobId, ways: Sequence[str]) -> None:
        """Refuse what would only be fetched to be thrown away again. *Raises*: DigestMismatch."""
        wrong = [self._wrong.get((blob_id, url), (-math.inf, None)) for url in ways]
        if all(trio.current_time() < until for until, _ in wrong) and (error := wrong[0][1]) is not None:
            raise DigestMismatch(error.url, error.reason)

    def close(self, blob: Blob) -> None:
        """Undo one `open`; what is under way for readers that have left is cancelled."""
        blob.opens -= 1
        if blob.opens == 0:
            if blob.run is not None:
                blob.run.end()
                blob.run = None
            blob.release()
            self.forget_if_idle(blob)

    def forget_if_idle(self, blob: Blob) -> None:
        """Close a blob's files once nobody needs them."""
        if blob.idle and not blob.closed:
            if self._open.get(blob.blob_id) is blob:
                del self._open[blob.blob_id]
            self.awake.forget(blob)
            blob.close_file()

    async def throw_away(self, blob: Blob, mismatch: DigestMismatch) -> None:
        """Let a blob that does not match its digest go: who opens it from now on begins anew.

        *Cancellation*: none, also when the process ends: the next to open it would meet the wrong blob again.
        """
        with trio.CancelScope(shield=True):
            async with self._opening.of(blob.blob_id):
                if self._open.get(blob.blob_id) is blob:
                    await self._throw_away(blob, mismatch)

    async def _throw_away(self, blob: Blob, mismatch: DigestMismatch) -> None:
        del self._open[blob.blob_id]
        self.memory.drop(blob.blob_id)
        now = trio.current_time()
        self._wrong = {key: noted for key, noted in self._wrong.items() if noted[0] > now}
        for url in blob.ways.used:  # not with what was raised: that keeps its frames, and a block in them
            self._wrong[blob.blob_id, url] = now + REFUSED_FOR, DigestMismatch(mismatch.url, mismatch.reason)
        log.error("blob %s: %s", blob.blob_id, mismatch)
        try:
            await trio.to_thread.run_sync(blob.set_aside, self.store.layout)
        except OSError as exc:
            log.warning("blob %s could not be thrown away: %s", blob.blob_id, exc.strerror or exc)
        self.on_mismatch(blob.blob_id, mismatch)

    async def present_bytes(self, blob_id: BlobId) -> int:
        """Return how many bytes of a blob are in the store, open or not. *Raises*: StoreError."""
        blob = self._open.get(blob_id)
        if blob is not None:
            return await blob.count()
        try:
            return await trio.to_thread.run_sync(self.store.present_bytes, blob_id)
        except OSError as exc:
            raise StoreError(f"the store {self.store.layout.path}: {exc.strerror or exc}") from exc

    async def mark_complete(self, file: BlobFile) -> None:
        """Record that all of a blob is in the store."""
        try:
            await trio.to_thread.run_sync(self.store.mark_complete, file)
        except (OSError, LazyfsError) as exc:
            log.warning("blob %s is whole but could not be marked so: %s", file.blob_id, exc)
        else:
            self.on_whole(file)
