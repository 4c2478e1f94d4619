"""The open files of a mount: each inode once, however often the kernel has it open, with the blob behind it.

What is open is written down for the next daemon (journal.py). What the last one had open is opened anew when the kernel
reads from it, not at once: there may be ten thousand.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from lazyfs.blob import Blob
from lazyfs.blobs import Blobs
from lazyfs.errors import BlobChanged, DigestMismatch, LazyfsError, NameMissing
from lazyfs.given import GivenBlob
from lazyfs.journal import Describe, Journal, Opened
from lazyfs.turns import Turns
from lazyfs.versions import Known

log = logging.getLogger(__name__)

Reopen = Callable[[GivenBlob], Awaitable[Blob]]

_CLOSED: Final = "the kernel reads from a file that is not open"


@dataclass(slots=True)
class _File:
    blob: Blob | None  # None: another daemon has opened it, and nobody has read from it here yet
    times: int
    given: GivenBlob | None = None  # of such a one, to open it anew


class OpenFiles:
    """The open files, by inode, which is their handle, too. `on_change` hears of what an origin has changed."""

    def __init__(self, blobs: Blobs, reopen: Reopen, on_change: Callable[[Known], None]) -> None:
        self.journal: Journal | None = None
        self._blobs = blobs
        self._reopen = reopen
        self._on_change = on_change
        self._files: dict[int, _File] = {}
        self._recalling = Turns[int]()

    def inherit(self, opened: dict[int, Opened]) -> None:
        """Take over what another daemon had open."""
        self._files = {inode: _File(None, there.times, there.blob) for inode, there in opened.items()}

    def counted(self, request: int) -> bool:
        """Say whether another daemon has noted a request to open or to close, and could not answer it any more."""
        return self.journal is not None and self.journal.counted(request)

    def opened(self, inode: int, blob: Blob, path: str, describe: Describe, request: int) -> None:
        """Note an open; who has the inode open already keeps the blob that is there.

        `request` is the kernel's number, 0 for an open of our own, of which the next daemon need not know.
        """
        file = self._files.setdefault(inode, _File(blob, 0))
        if file.blob is None:
            file.blob = blob
        elif file.times:
            self._blobs.close(blob)
        file.blob.path = path
        if self.counted(request):
            return
        file.times += 1
        if self.journal is not None and request:
            self.journal.note_open(inode, path, describe, request)

    async def recall(self, handle: int) -> None:
        """See to it that a file is open. *Raises*: NameMissing, for one that never was; as `Blobs.open`."""
        async with self._recalling.of(handle):
            file = self._files.get(handle)
            if file is not None and file.blob is not None:
                return
            if file is None or file.given is None:
                raise NameMissing(_CLOSED)
            blob = await self._reopen(file.given)
            if file.blob is None and self._files.get(handle) is file:
                file.blob = blob
            else:  # opened meanwhile, or closed
                self._blobs.close(blob)
        if not self.has(handle):
            raise NameMissing(_CLOSED)

    def opened_now(self) -> dict[int, tuple[Blob, int]]:
        """Return the open files by inode: the blob of each, and how often it is open."""
        return {inode: (file.blob, file.times) for inode, file in self._files.items() if file.blob is not None}

    def has(self, handle: int) -> bool:
        """Say whether a file is open here: what another daemon had open may not be, yet."""
        file = self._files.get(handle)
        return file is not None and file.blob is not None

    def blob(self, handle: int) -> Blob:
        """Return the blob of a file that is open here."""
        blob = self._files[handle].blob
        assert blob is not None
        return blob

    async def read_pieces(self, handle: int, offset: int, length: int, until: int | None = None) -> list[memoryview]:
        """Return bytes of an open file, in pieces. *Raises*: as `Blob.read_pieces`. *Units*: bytes."""
        while True:
            blob = self.blob(handle)
            if self._blobs.worth_another_try(blob):
                blob = await self._try_to_store(handle, blob)
            try:
                return await blob.read_pieces(offset, length, until)
            except BlobChanged:
                self._on_change(blob.known)
                raise
            except DigestMismatch:
                if blob.given_out:  # who has some of the wrong bytes must not get the rest of the right ones
                    raise
                await self._open_anew(handle, blob)

    async def _open_anew(self, handle: int, wrong: Blob) -> None:
        """Put a new blob in the place of one that is wrong, or that the store did not take.

        *Raises*: DigestMismatch, when there is no other way to it; StoreError.
        """
        unwanted = await self._blobs.open(wrong.blob_id, wrong.known, wrong.ways.urls)
        file = self._files.get(handle)
        if file is not None and file.blob is wrong:
            file.blob, unwanted = unwanted, wrong
        self._blobs.close(unwanted)

    async def _try_to_store(self, handle: int, blob: Blob) -> Blob:
        """Open a blob once more that the store did not take; return what there is now."""
        try:
            await self._open_anew(handle, blob)
        except LazyfsError as exc:
            log.info("could not be opened anew: %s", exc)
        return self.blob(handle) if self.has(handle) else blob

    def released(self, handle: int, request: int) -> None:
        """Note that a file was closed once."""
        if self.journal is not None and request:
            self.journal.note("close", inode=handle, request=request)
        file = self._files.get(handle)
        if file is None:
            return
        file.times -= 1
        if not file.times:
            del self._files[handle]
            if file.blob is not None:
                self._blobs.close(file.blob)
