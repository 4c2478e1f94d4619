"""The whole store, compared with itself: catalogue and blobs, maps and data, quota and disk, names and modes.

    FORMAT ── what lies where ── each blob (inspection.py) ── catalogue ── trash ── sockets ── quota

It runs beside live processes and keeps none of them waiting. Damage is what no process of ours leaves, killed or not;
what a killed one leaves is reported as left over, and the store is sound all the same. To mend is to drop: a damaged
block becomes missing, a blob whose map says nothing goes, a damaged catalogue is made anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from lazyfs import records
from lazyfs.errors import StoreError
from lazyfs.store import database, trash
from lazyfs.store import layout as layouts
from lazyfs.store.blobfile import look_into
from lazyfs.store.catalogue import BlobRow, Catalogue
from lazyfs.store.eviction import Evictor
from lazyfs.store.inspection import Finding, Inspection, check_mode, inspect
from lazyfs.store.layout import Layout
from lazyfs.store.quota import QuotaKeeper
from lazyfs.versions import BlobId, is_blob_id

STORE: Final = "the store"

_FILES: Final = ("FORMAT", "quota", "scrub")
_DIRECTORIES: Final = ("blobs", "trash", "run")
_TEMPORARY: Final = re.compile(r"FORMAT\.[0-9a-f]{8}")
_OTHERS: Final = re.compile(r"catalogue\.db(?:-journal|-wal|-shm|\.damaged-.*)?|lost\+found")
_SHELF: Final = re.compile(r"[0-9a-f]{2}")
_STAGED: Final = re.compile(r"(?:sha256|url)-[0-9a-f]{64}\.[0-9a-f]{8}")

_OLD: Final = 60.0
"""Seconds after which a temporary file is nobody's any more."""


class Fsck:
    """A look through a store; `blobs` and `checked` count what it has seen. *Units*: `checked` bytes."""

    def __init__(self, path: Path, *, repair: bool) -> None:
        self._path = path
        self._repair = repair
        self._seen: dict[BlobId, Inspection] = {}
        self._clock = 0  # the quota's, before the blobs were looked at
        self._used = 0

    @property
    def blobs(self) -> int:
        """How many blobs it has looked at."""
        return len(self._seen)

    @property
    def checked(self) -> int:
        """How many bytes of them match."""
        return sum(seen.present for seen in self._seen.values())

    def run(self) -> Iterator[Finding]:
        """Yield what is not as it should be. Blocks on the disk. *Raises*: StoreError; OSError."""
        unusable = yield from self._names()
        if unusable:
            return
        with contextlib.ExitStack() as stack:
            layout = layouts.open_layout(self._path)
            stack.callback(layout.close)
            quota = QuotaKeeper(layout)
            stack.callback(quota.close)
            before = quota.look()
            self._clock, self._used = before.clock, before.used
            yield from self._shelves(layout)
            for blob_id in sorted(layouts.blob_ids(layout)):
                seen = self._seen[blob_id] = Inspection(blob_id)
                try:
                    yield from inspect(layout, seen, repair=self._repair)
                except OSError as exc:
                    yield Finding(blob_id, f"it cannot be looked at: {exc.strerror or exc}")
            yield from self._catalogue(layout, stack)
            yield from self._trash(layout)
            yield from self._run(layout)
            yield from self._quota(layout, quota)

    # What lies where. Before the store is opened, which would stumble over some of it.

    def _names(self) -> Generator[Finding, None, bool]:
        """Look at what lies in the store's directory; return whether the rest cannot be looked at."""
        try:
            root = layouts.open_directory(self._path)
        except OSError as exc:
            raise StoreError(f"the store {self._path} cannot be used: {exc.strerror or exc}") from exc
        try:
            found = sorted(os.listdir(root))
            ours = "blobs" in found and any(name in found for name in ("quota", "catalogue.db"))
            unusable = False
            for name in found:
                with contextlib.suppress(FileNotFoundError):
                    yield from self._name(root, name)
                    unusable |= not self._repair and not self._fits(root, name)
            yield from self._format(root, ours=ours)
        finally:
            os.close(root)
        return unusable

    def _name(self, root: int, name: str) -> Iterator[Finding]:
        if _TEMPORARY.fullmatch(name):
            if time.time() - os.stat(name, dir_fd=root, follow_symlinks=False).st_mtime > _OLD:
                if self._repair:
                    trash.remove(name, root)
                yield Finding(STORE, f"the temporary file {name}", damage=False, mended=self._repair)
        elif name not in (*_FILES, *_DIRECTORIES):
            if not _OTHERS.fullmatch(name):
                yield Finding(STORE, f"{name!r} is not ours, and is left alone", damage=False)
        elif not self._fits(root, name):
            if self._repair:
                trash.remove(name, root)
            kind = "directory" if name in _DIRECTORIES else "file"
            yield Finding(STORE, f"{name} is not a {kind}", mended=self._repair)
        else:
            yield from check_mode(STORE, name, root, 0o700 if name in _DIRECTORIES else 0o600, repair=self._repair)

    def _fits(self, root: int, name: str) -> bool:
        """Say whether something with a name of ours is of our kind."""
        kind = os.stat(name, dir_fd=root, follow_symlinks=False).st_mode
        if name in _DIRECTORIES:
            return stat.S_ISDIR(kind)
        return stat.S_ISREG(kind) or name not in _FILES

    def _format(self, root: int, *, ours: bool) -> Iterator[Finding]:
        """Write FORMAT anew where the rest is a store without a doubt; elsewhere opening it says what is wrong."""
        if not (ours and self._repair):
            return
        try:
            if layouts.read_format(root) is not None:
                return
            what = "there is no FORMAT"
        except records.BadRecord as exc:
            what = str(exc)
        layouts.write_format(root)
        yield Finding(STORE, what, mended=True)

    def _shelves(self, layout: Layout) -> Iterator[Finding]:
        """Look for what is no blob where blobs are."""
        for shelf in sorted(os.listdir(layout.blobs)):
            with contextlib.suppress(FileNotFoundError):
                if not _SHELF.fullmatch(shelf) or not _is_directory(shelf, layout.blobs):
                    yield self._strange(f"blobs/{shelf}", shelf, layout.blobs)
                    continue
                yield from check_mode(STORE, shelf, layout.blobs, 0o700, repair=self._repair)
                fd = layouts.open_directory(shelf, layout.blobs)
                try:
                    for name in sorted(os.listdir(fd)):
                        with contextlib.suppress(FileNotFoundError):
                            if is_blob_id(name) and layouts.shelf_of(BlobId(name)) == shelf and _is_directory(name, fd):
                                yield from check_mode(name, name, fd, 0o700, repair=self._repair)
                            else:
                                yield self._strange(f"blobs/{shelf}/{name}", name, fd)
                finally:
                    os.close(fd)

    def _strange(self, where: str, name: str, dir_fd: int) -> Finding:
        if self._repair:
            trash.remove(name, dir_fd)
        return Finding(STORE, f"{where!r} is no blob of ours", mended=self._repair)

    # What is said of the blobs.

    def _catalogue(self, layout: Layout, stack: contextlib.ExitStack) -> Iterator[Finding]:
        path, suspected = layout.catalogue, False
        if not path.exists() and self._seen:
            yield Finding(STORE, "there is no catalogue", mended=self._repair)
        else:
            try:
                database.examine(path)
            except database.Damaged as exc:
                suspected = True
                yield Finding(STORE, str(exc), mended=self._repair)
                if not self._repair:
                    return
        if not (self._repair or path.exists()):
            return
        catalogue = Catalogue(path, lambda: filter(None, map(_row, self._seen.values())), suspected=suspected)
        stack.callback(catalogue.close)
        if count := catalogue.damaged_rows():
            if self._repair:
                catalogue.drop_damaged_rows()
            yield Finding(STORE, f"{count} of the catalogue's rows say what was not written", mended=self._repair)
        yield from self._rows(layout, catalogue)

    def _rows(self, layout: Layout, catalogue: Catalogue) -> Iterator[Finding]:
        """Compare the catalogue's rows with the blobs."""
        rows = {row.blob_id: row for row in catalogue.blobs()}
        for blob_id in sorted(rows.keys() | self._seen.keys()):
            row, seen = rows.get(blob_id), self._seen.get(blob_id)
            found = _row(seen) if seen is not None else None
            if row is None and found is not None:
                if self._repair:
                    catalogue.correct(found)
                yield Finding(blob_id, "the catalogue does not know it", damage=False, mended=self._repair)
            elif row is not None and found is None and not _there(layout, blob_id):
                if self._repair:
                    catalogue.drop_blob(blob_id)
                yield Finding(blob_id, "only the catalogue knows it", damage=False, mended=self._repair)
            elif row is not None and found is not None:
                yield from self._row(layout, catalogue, row, found)

    def _row(self, layout: Layout, catalogue: Catalogue, row: BlobRow, found: BlobRow) -> Iterator[Finding]:
        if (row.size, row.block_size) != (found.size, found.block_size):
            if self._repair:
                catalogue.correct(BlobRow(row.blob_id, row.url, found.size, found.block_size, False, row.last_used))
            what = f"the catalogue says {row.size} bytes in blocks of {row.block_size}"
            yield Finding(row.blob_id, f"{what}, its map {found.size} and {found.block_size}", mended=self._repair)
        elif row.complete and not found.complete and not _complete(layout, row.blob_id):
            if self._repair:
                catalogue.mark_incomplete([row.blob_id])
            yield Finding(row.blob_id, "the catalogue says that it is complete", damage=False, mended=self._repair)

    # What killed processes leave.

    def _trash(self, layout: Layout) -> Iterator[Finding]:
        for name in sorted(os.listdir(layout.trash)):
            with contextlib.suppress(FileNotFoundError):
                strange = not _STAGED.fullmatch(name) or not _is_directory(name, layout.trash)
                if strange or trash.is_left(layout, name):
                    gone = self._repair and trash.take_over(layout, name)
                    yield Finding(STORE, f"trash/{name}", damage=strange, mended=gone)

    def _run(self, layout: Layout) -> Iterator[Finding]:
        run = layouts.open_directory("run", layout.root)
        try:
            for name in sorted(os.listdir(run)):
                with contextlib.suppress(FileNotFoundError):
                    kind = os.stat(name, dir_fd=run, follow_symlinks=False).st_mode
                    dead = name.endswith(".sock") and stat.S_ISSOCK(kind) and not _answers(run, name)
                    strange = not (stat.S_ISREG(kind) or stat.S_ISSOCK(kind))
                    if dead or strange:
                        if self._repair:
                            trash.remove(name, run)
                        what = "is not ours" if strange else "nobody listens there"
                        yield Finding(STORE, f"run/{name}: {what}", damage=strange, mended=self._repair)
        finally:
            os.close(run)

    def _quota(self, layout: Layout, quota: QuotaKeeper) -> Iterator[Finding]:
        """Compare what the quota counts with what was found; what was recorded since is in the clock."""
        damaged = quota.damaged
        after = quota.look()
        counted = max(self._used, after.used) + after.clock - self._clock
        wrong = damaged or counted < self.checked
        if self._repair:
            Evictor(layout, quota, lambda _: None).recount()
        if damaged:
            yield Finding(STORE, "the quota is damaged: its bounds are lost, set them again", mended=self._repair)
        elif wrong:
            what = f"the quota counts {counted} bytes, and there are {self.checked}"
            yield Finding(STORE, what, mended=self._repair)


def _row(seen: Inspection) -> BlobRow | None:
    """Return what a blob proved to be; None when there is nothing of it."""
    geometry = seen.geometry
    if geometry is None:
        return None
    return BlobRow(seen.blob_id, "", geometry.size, geometry.block_size, seen.complete, time.time())


def _is_directory(name: str, dir_fd: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)


def _there(layout: Layout, blob_id: BlobId) -> bool:
    """Say whether a blob has a directory by now."""
    try:
        os.close(layouts.blob_directory(layout, blob_id, create=False))
    except FileNotFoundError:
        return False
    return True


def _complete(layout: Layout, blob_id: BlobId) -> bool:
    """Look again whether a blob is complete: it may have become so since it was looked at."""
    with contextlib.suppress(OSError, records.BadRecord), closing(look_into(layout, blob_id)) as blob:
        return blob.complete()
    return False


def _answers(run: int, name: str) -> bool:
    """Say whether somebody listens at a socket."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
        client.settimeout(1.0)
        try:
            client.connect(f"/proc/self/fd/{run}/{name}")
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # it is busy
    return True
