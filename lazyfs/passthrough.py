"""Which opens go past the daemon: the kernel then reads a blob that is whole straight from the store.

    open ── others have the inode open? ── yes ── as they do
               └ no ── is the blob whole, and was it looked through? ── yes, and it is as it was ── past us
                          └ no ── by us; if it is whole, it is looked through behind, for the next time

An inode is read either past us or by us, never both at once: the kernel fails an open that says otherwise. Who has it
open by us when its blob becomes whole goes on like that; the next open after the last of these has closed it goes past.

A mapping outlives the file it was made of, and of that the kernel tells nobody. But it keeps the inode in use, so what
the kernel was given is taken back when it forgets the inode; some time after the last close it is asked to.

What is read past us is not checked, so all of the blob is looked through first, by one daemon of the host, once since
that has started unless its files change (store/passage.py has what must hold). Nobody waits for that. What somebody
else does to the data of a blob that is being read past us, its readers see.

*Source*: Linux 6.9 and 6.18, fs/fuse/iomode.c, fs/fuse/passthrough.c.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import trio

from lazyfs.blob import Blob
from lazyfs.counters import Counters
from lazyfs.errors import StoreError
from lazyfs.extents import Extent
from lazyfs.journal import Journal, Legacy
from lazyfs.records import BadRecord
from lazyfs.store import Store, passage
from lazyfs.store import layout as layouts
from lazyfs.store.blobfile import BlobFile, look_into
from lazyfs.store.passage import Glance
from lazyfs.versions import BlobId

log = logging.getLogger(__name__)

LEAST: Final = 1024 * 1024
"""Bytes of a blob that is worth it: smaller ones take one request or two, and the kernel keeps their pages."""

RATE: Final = 256 * 1024 * 1024
"""Bytes a second that are read from the disk to look a blob through; what is in memory takes no such time."""

LINGER: Final = 1.0
"""Seconds after the last close until the kernel is asked to forget the inode: many are opened again at once."""

PIECE: Final = 8 * 1024 * 1024
"""Bytes that are looked through in one go."""

REASONS: Final = {
    errno.EPERM: "it takes CAP_SYS_ADMIN: mount as root",
    errno.ELOOP: "the store's file system lies on another one, as overlayfs does; name a store on a disk with --store",
}
"""Why the kernel does not take files, by errno."""


class Kernel(Protocol):
    """What reads files past us."""

    def register(self, fd: int) -> int:
        """Give the kernel a file to read from and return its id; it keeps the open file. *Raises*: OSError."""

    def unregister(self, backing: int) -> None:
        """Take a file back that nobody reads any more."""


@dataclass(slots=True)
class _Opened:
    """An inode that the kernel has open, and the kernel's id of its data if it is read past us."""

    backing: int | None
    opens: int = 0


class _Given(NamedTuple):
    """What the kernel was given for an inode: the blob as it was then, and the kernel's id."""

    seen: Glance
    backing: int


class Passthrough:
    """The opens of a mount, and the blobs that were looked through for them.

    `on_idle` is called with an inode that the kernel should forget; `forgotten` says that it has.
    """

    def __init__(self, store: Store, counters: Counters, nursery: trio.Nursery) -> None:
        self.refusal: str | None = "the mount has not begun"
        self.on_idle: Callable[[int], None] = lambda inode: None
        self._store = store
        self._counters = counters
        self._nursery = nursery
        self._kernel: Kernel | None = None  # None exactly when there is a refusal
        self._opened: dict[int, _Opened] = {}
        self._given: dict[int, list[_Given]] = {}  # by inode, until it is forgotten
        self._lingering: set[int] = set()
        self._seen: dict[BlobId, Glance] = {}
        self._looking: set[BlobId] = set()
        self.journal: Journal | None = None
        self._turn = trio.Lock()  # one blob is looked through at a time

    def refuse(self, reason: str) -> None:
        """Have all opens go by us, for a reason that `status` shows."""
        self.refusal, self._kernel = reason, None

    def begin(self, kernel: Kernel) -> None:
        """Have opens go past us from now on, if the kernel takes files of the store."""
        try:
            fd = layouts.open_file("FORMAT", self._store.layout.root, create=False)
            try:
                kernel.unregister(kernel.register(fd))
            finally:
                os.close(fd)
        except OSError as exc:
            unforeseen = f"the kernel does not take files of the store: {exc.strerror or exc}"
            self.refuse(REASONS.get(exc.errno or 0, unforeseen))
        else:
            self.refusal, self._kernel = None, kernel

    def state(self) -> dict[str, Any]:
        """What `status` shows: whether it is on, why not, how many opens go past us now, and how many blobs may."""
        now = sum(opened.opens for opened in self._opened.values() if opened.backing is not None)
        return {"on": self.refusal is None, "reason": self.refusal, "open": now, "blobs": len(self._seen)}

    def enter(self, inode: int, blob: Blob, *, again: bool = False) -> int | None:
        """Note an open and return the kernel's id of the blob's data, if it goes past us; pair it with `leave`.

        With `again`, another daemon has noted it, and could not tell the kernel any more. No await until the kernel
        has the reply: what the next open of the inode is told depends on it.
        """
        opened = self._opened.get(inode)
        if opened is None:
            opened = self._opened[inode] = _Opened(self._handed_over(inode, blob))
            if self.journal is not None and opened.backing is not None:
                self.journal.note("past", inode=inode, id=opened.backing)
        opened.opens += not again
        if opened.backing is not None:
            self._counters.passthrough_opens += 1
        return opened.backing

    def inherit(self, legacy: Legacy) -> None:
        """Take over what the kernel has open and was given by another daemon."""
        for inode, there in legacy.opened.items():
            self._opened[inode] = _Opened(legacy.past.get(inode), there.times)
        for inode, backings in legacy.backings.items():
            seen = (Glance(tuple(each["data"]), each["entries"]) for each in backings)
            self._given[inode] = [_Given(glance, each["id"]) for glance, each in zip(seen, backings, strict=True)]

    def leave(self, inode: int) -> None:
        """Undo one `enter`, when the kernel has closed what was opened."""
        opened = self._opened[inode]
        opened.opens -= 1
        if not opened.opens:
            del self._opened[inode]
            if inode in self._given and inode not in self._lingering:
                self._lingering.add(inode)
                self._nursery.start_soon(self._linger, inode)

    def forgotten(self, inode: int) -> None:
        """Take back what the kernel was given for an inode that nobody uses any more, nor has mapped."""
        given = self._given.pop(inode, ())
        for each in given:
            if self._kernel is not None:
                self._kernel.unregister(each.backing)
        if given and self.journal is not None:
            self.journal.note("no backing", inode=inode)

    async def _linger(self, inode: int) -> None:
        await trio.sleep(LINGER)
        self._lingering.discard(inode)
        if inode in self._given and inode not in self._opened:
            self.on_idle(inode)

    def look(self, file: BlobFile) -> None:
        """Have a blob looked through that seems to be whole, unless it is or was."""
        wanted = self._kernel is not None and file.geometry.size >= LEAST
        if wanted and file.blob_id not in self._looking and file.blob_id not in self._seen:
            self._looking.add(file.blob_id)
            self._nursery.start_soon(self._look, file.blob_id)

    def _handed_over(self, inode: int, blob: Blob) -> int | None:
        """Give the kernel a blob's data, if all of it is known to be sound. Takes a tenth of a millisecond or two."""
        if self._kernel is None or blob.geometry.size < LEAST or not blob.file.complete():
            return None
        seen = self._seen.get(blob.blob_id) or passage.recall(blob.file)
        before = self._given.get(inode)
        try:
            if before and before[-1].seen == seen == passage.glance(blob.file):
                return before[-1].backing
            if seen is not None and (fd := passage.take(self._store.layout, blob.file, seen)) is not None:
                try:
                    backing = self._kernel.register(fd)
                finally:
                    os.close(fd)
                self._seen[blob.blob_id] = seen
                self._given.setdefault(inode, []).append(_Given(seen, backing))
                if self.journal is not None:
                    given = {"id": backing, "data": seen.data, "entries": seen.entries}
                    self.journal.note("backing", inode=inode, backing=given)
                blob.note_whole_use()
                return backing
        except OSError as exc:
            log.info("blob %s is not read past the daemon: %s", blob.blob_id, exc.strerror or exc)
            return None
        self._seen.pop(blob.blob_id, None)
        self.look(blob.file)
        return None

    async def _look(self, blob_id: BlobId) -> None:
        try:
            async with self._turn:
                seen = await self._looked_through(blob_id)
            if seen is not None:
                self._seen[blob_id] = seen
        except (OSError, StoreError, BadRecord) as exc:
            log.info("blob %s could not be looked through: %s", blob_id, exc)
        finally:
            self._looking.discard(blob_id)

    async def _looked_through(self, blob_id: BlobId) -> Glance | None:
        """Look a blob through, and return a glance at it; None when not all of it is there, and sound."""
        with suppress(FileNotFoundError), closing(await trio.to_thread.run_sync(self._open, blob_id)) as file:
            if not await trio.to_thread.run_sync(file.complete):
                return None
            before = passage.glance(file)
            if passage.recall(file) == before:  # another daemon did it meanwhile
                return before
            step, sound = max(1, PIECE // file.geometry.block_size), True
            for start in range(0, file.geometry.blocks, step):
                run = Extent(start, min(start + step, file.geometry.blocks))
                from_disk = await trio.to_thread.run_sync(passage.check, file, run)
                sound = sound and from_disk is not None
                await trio.sleep((from_disk or 0) / RATE)
            if not sound:
                log.info("blob %s is damaged: it is read by the daemon until it is mended", blob_id)
                await trio.to_thread.run_sync(self._store.catalogue.mark_incomplete, [blob_id])
            elif passage.glance(file) == before:
                passage.remember(file, before)
                return before
        return None

    def _open(self, blob_id: BlobId) -> BlobFile:
        """Open a blob apart from those who read it. Blocks on the disk: what was written of it is synced."""
        file = look_into(self._store.layout, blob_id)
        try:
            file.sync()
        except BaseException:
            file.close()
            raise
        return file
