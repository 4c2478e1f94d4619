"""Runs of a blob: what is asked for first is recorded, and what was in runs before is fetched ahead (replay.py).

A run is from when a blob is opened until its last reader closes it. It is recorded for its first `LASTS` and the first
GiB of it, and only for a blob that is not all in the store by then: who starts from that needs no profile, and the
kernel reads it past us. What is recorded goes to the catalogue a few seconds later, written behind; a daemon that takes
over begins a run of its own.

Runs are added up, since none sees everything: a daemon hears only of what the kernel has no pages of. One that began
with nothing of the blob in the store has seen the true order, so its blocks come first, and then those that only the
profile had. Any other one adds behind the profile what that had not. Nothing is lost so by a short look at an image;
what nobody asks for any more moves to the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from lazyfs import profiles
from lazyfs.blob import Blob
from lazyfs.errors import LazyfsError, StoreError
from lazyfs.extents import Extent
from lazyfs.pace import Pace
from lazyfs.readahead import Budget
from lazyfs.replay import Replay
from lazyfs.store import Store
from lazyfs.store.profiled import find, remember

log = logging.getLogger(__name__)

LEAST: Final = 4 * 1024 * 1024
"""Bytes of a blob that is worth it: smaller ones take a request or two, and there may be very many."""

LASTS: Final = 600.0
"""Seconds of a run that are recorded: after that it is no start any more."""

EVERY: Final = 5.0
"""Seconds until what is new in a run is written down: what a daemon that is killed may lose."""


class Recorder:
    """Has the runs of blobs recorded and, if it `replays`, those before replayed. `nursery` runs what that takes."""

    def __init__(self, store: Store, nursery: trio.Nursery, budget: Budget, *, replays: bool) -> None:
        self.store = store
        self.nursery = nursery
        self.budget = budget
        self.replays = replays

    def begin(self, blob: Blob, *, cold: bool) -> Recording | None:
        """Begin a run of a blob that was just opened; None for one that is not worth it. End it with `end`.

        `cold` says that nothing of it is in the store.
        """
        with suppress(StoreError):  # its files have gone: the first read says so
            if blob.geometry.size >= LEAST and blob.file.lacks_one():
                return Recording(self, blob, cold=cold)
        return None


class Recording:
    """One run of a blob."""

    def __init__(self, recorder: Recorder, blob: Blob, *, cold: bool) -> None:
        self._recorder = recorder
        self._blob = blob
        self._cold = cold
        self._asked: dict[int, None] = {}  # blocks, in the order in which they were asked for first
        self._most = profiles.MOST * profiles.UNIT // blob.geometry.block_size
        self._replay: Replay | None = None
        self._looked = False  # whether it was looked for what there is to replay
        self._noted = False  # whether what is new is about to be written down
        self._until = trio.current_time() + LASTS
        self._ended = trio.Event()

    def on_read(self, run: Extent) -> None:
        """Note that a reader asks for blocks. In the way of every read: what was asked for before costs nothing."""
        asked = self._asked
        for index in run.blocks():
            if index not in asked and len(asked) < self._most:
                asked[index] = None
                if self._replay is not None:
                    self._replay.on_new(index)
                if not self._noted and trio.current_time() < self._until:
                    self._noted = True
                    self._recorder.nursery.start_soon(self._keep)

    def next(
        self, due: int, pace: Callable[[], Pace | None], now: float, missing: Callable[[Extent], Iterable[int]]
    ) -> Iterable[Extent]:
        """Return the runs of blocks to fetch now; as `Replay.next`."""
        return () if self._replay is None else self._replay.next(due, pace, now, missing)

    def end(self) -> None:
        """Note that nobody has the blob open any more."""
        self._replay = None
        self._ended.set()

    async def _keep(self) -> None:
        """Write down what is new, a little later; with the first read of a run, begin to replay."""
        try:
            if not self._looked:
                self._looked = True
                if self._recorder.replays and self._blob.known.ranged:  # else all of it comes anyway, in its own order
                    await self._begin_replay()
            with trio.move_on_after(EVERY):
                await self._ended.wait()
        finally:
            self._noted = False
            self._write()

    async def _begin_replay(self) -> None:
        blob, store = self._blob, self._recorder.store
        try:
            profile = await trio.to_thread.run_sync(find, store.catalogue, blob.blob_id, blob.known.version)
            if profile is None or self._ended.is_set():  # then its files may be closed
                return
            if blob.file.writable and not store.trouble.at_rest:  # else it would be fetched once more when it is read
                blocks = profile.blocks(blob.geometry)
                self._replay = Replay(blob.geometry, blocks, self._asked, self._recorder.budget)
                blob.launch_ahead()
        except (LazyfsError, OSError) as exc:
            log.info("blob %s: nothing is replayed: %s", blob.blob_id, exc)

    def _write(self) -> None:
        blob, catalogue = self._blob, self._recorder.store.catalogue
        fresh = profiles.of_blocks(blob.blob_id, blob.known.version, blob.geometry, tuple(self._asked))
        write = partial(remember, catalogue, fresh, blob.known.version, first=self._cold)
        self._recorder.store.behind.note(write)
