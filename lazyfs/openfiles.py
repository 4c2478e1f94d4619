"""The open files of a mount: each inode once, however often the kernel has it open, with the blob behind it.

What is open is written down for the next daemon (journal.py). What the last one had open is opened anew when the kernel
reads from it, not at once: there may be ten thousand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from lazyfs.blob import Blob
from lazyfs.blobs import Blobs
from lazyfs.errors import NameMissing
from lazyfs.given import GivenBlob
from lazyfs.journal import Journal, Opened
from lazyfs.turns import Turns

Describe = Callable[[], GivenBlob | None]
"""Returns what a file's blob is, for who opens it without knowing its name; None when nobody can say."""

Reopen = Callable[[GivenBlob], Awaitable[Blob]]

_CLOSED: Final = "the kernel reads from a file that is not open"


@dataclass(slots=True)
class _File:
    blob: Blob
    times: int


class OpenFiles:
    """The open files, by inode, which is their handle, too."""

    def __init__(self, blobs: Blobs, reopen: Reopen) -> None:
        self.journal: Journal | None = None
        self._blobs = blobs
        self._reopen = reopen
        self._files: dict[int, _File] = {}
        self._inherited: dict[int, Opened] = {}
        self._recalling = Turns[int]()

    def inherit(self, opened: dict[int, Opened]) -> None:
        """Take over what another daemon had open."""
        self._inherited = {inode: replace(there) for inode, there in opened.items()}  # the journal counts, too

    def inherited(self, inode: int) -> Opened | None:
        """Return what another daemon had open, and nobody has read here yet."""
        return self._inherited.get(inode)

    def opened(self, inode: int, blob: Blob, path: str, describe: Describe) -> None:
        """Note an open; who has the inode open already keeps the blob that is there."""
        file = self._files.get(inode)
        if file is None:
            inherited = self._inherited.pop(inode, None)
            file = self._files[inode] = _File(blob, 0 if inherited is None else inherited.times)
        else:
            self._blobs.close(blob)
        file.times += 1
        if self.journal is None:
            return
        if file.times > 1:
            self.journal.note("open", inode=inode)
        else:
            given = describe()
            self.journal.note("open", inode=inode, path=path, blob=None if given is None else given.as_dict())

    async def recall(self, handle: int) -> None:
        """See to it that a file is open. *Raises*: NameMissing, for one that never was; as `Blobs.open`."""
        async with self._recalling.of(handle):
            inherited = self._inherited.get(handle)
            if handle in self._files:
                return
            if inherited is None or inherited.blob is None:
                raise NameMissing(_CLOSED)
            blob = await self._reopen(inherited.blob)
            if self._inherited.pop(handle, None) is None:  # closed meanwhile
                self._blobs.close(blob)
                raise NameMissing(_CLOSED)
            self._files[handle] = _File(blob, inherited.times)

    def opened_now(self) -> dict[int, tuple[Blob, int]]:
        """Return the open files by inode: the blob of each, and how often it is open."""
        return {inode: (file.blob, file.times) for inode, file in self._files.items()}

    def has(self, handle: int) -> bool:
        """Say whether a file is open here: what another daemon had open may not be, yet."""
        return handle in self._files

    def blob(self, handle: int) -> Blob:
        """Return the blob of an open file."""
        return self._files[handle].blob

    def swap(self, handle: int, old: Blob, new: Blob) -> None:
        """Put another blob in the place of one, and close that which is not wanted."""
        file = self._files.get(handle)
        if file is not None and file.blob is old:
            file.blob, new = new, old
        self._blobs.close(new)

    def released(self, handle: int) -> None:
        """Note that the kernel has closed a file once."""
        if self.journal is not None:
            self.journal.note("close", inode=handle)
        file = self._files.get(handle)
        if file is None:
            inherited = self._inherited.get(handle)
            if inherited is not None:
                inherited.times -= 1
                if not inherited.times:
                    del self._inherited[handle]
            return
        file.times -= 1
        if not file.times:
            del self._files[handle]
            self._blobs.close(file.blob)
