"""The file system without FUSE: names to nodes, nodes to blobs, blobs to bytes.

`readdir` shows what is known now, and waits only for a listing that nobody has looked at before. Who wants to know of a
name that is announced but not resolved has it resolved at once, past all that is resolved in the background, and waits
for it. The kernel's look-ups alone do not wait: it lets one name at a time be looked up in a directory, and nobody list
it meanwhile (fuse_lock_inode in fs/fuse/inode.c, since pyfuse3 does not ask for FUSE_PARALLEL_DIROPS), so that one dead
origin would stop all the others' names. They are answered with a stand-in, of which the kernel then asks more.

What a source said and what the origin says may differ. A listing that is out of date gives way: the name gets a new
node, and ESTALE makes the kernel look it up again. A manifest that is wrong is an error.

A file handle is its inode number, so nothing is lost with the process that gave it out.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from lazyfs import inorder, urls
from lazyfs.blob import Blob
from lazyfs.blobs import Blobs
from lazyfs.entries import Entry, Refusal
from lazyfs.errors import (
    BlobChanged,
    DigestMismatch,
    InodeUnknown,
    LazyfsError,
    NameMissing,
    OriginBadAnswer,
    OriginDenied,
    OriginError,
    OriginRefused,
)
from lazyfs.given import GivenBlob
from lazyfs.journal import Journal, Legacy
from lazyfs.listings import Lister, Listings
from lazyfs.openfiles import OpenFiles
from lazyfs.passthrough import Passthrough
from lazyfs.problems import Problems
from lazyfs.resolve import Resolver
from lazyfs.rootfs.nodes import ImageDirectory, ImageFile, root_of
from lazyfs.tree import Directory, File, Node, Pending, Tree, below
from lazyfs.versions import BlobId, Known, Version, blob_id_for

if TYPE_CHECKING:
    from lazyfs.rootfs.trees import ImageTrees

log = logging.getLogger(__name__)

RESOLVING: Final = 32
"""Names resolved at a time in the background; what is looked up comes on top."""

LOOKED_AT_ONCE: Final = 500
"""Names that are looked at without a pause: some 3 ms."""

RESOLVE_WITHIN: Final = 10.0
"""Seconds for one of these, so that names whose origin is silent do not keep the others waiting."""

RESOLVE_AGAIN: Final = 15.0
"""Seconds until a name that could not be resolved is tried again in the background."""


class Vfs:
    """The names of a mount and what is behind them.

    `on_stale` is called with a directory's inode and a name in it that the kernel must not believe any longer.
    """

    def __init__(
        self,
        blobs: Blobs,
        resolver: Resolver,
        lister: Lister,
        nursery: trio.Nursery,
        mirrors: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.tree = Tree()
        self.problems = Problems()
        self.counters = blobs.counters
        self.on_stale: Callable[[int, str], None] = lambda inode, name: None
        self._blobs = blobs
        self._resolver = resolver
        self._nursery = nursery
        self._mirrors = mirrors
        self._read_timeout = blobs.limits.read_timeout
        self.files = OpenFiles(blobs, self._reopened, resolver.doubt)
        self.complete = trio.Event()  # set when all names are in that another daemon may have told the kernel of
        self.complete.set()
        self._journal: Journal | None = None
        self._bound: dict[str, set[File]] = {}  # files with `known`, by URL
        self._again, failed = trio.open_memory_channel[tuple[float, File]](math.inf)  # each with when it is due
        self._queue, announced = trio.open_memory_channel[File](math.inf)
        self.listings = Listings(
            self, lister, self.problems, self.counters, nursery, self._read_timeout, resolver.fresh_for
        )
        resolver.on_change = self._changed
        blobs.on_mismatch = self._mismatched
        self.passthrough = Passthrough(blobs.store, blobs.counters, nursery)
        self.passthrough.on_idle = self._let_go
        blobs.on_whole = self.passthrough.look
        for _ in range(RESOLVING):
            nursery.start_soon(self._resolve_announced, announced.clone())
        nursery.start_soon(self._resolve_again, failed)

    @functools.cached_property
    def rootfs(self) -> ImageTrees:
        """The trees of images, loaded with all that they need when there is one."""
        from lazyfs.rootfs.trees import ImageTrees

        return ImageTrees(self.tree, self.problems, self._blobs, self._nursery, self._mirrors)

    # Names come and go.

    def announce(self, found: Iterable[Entry | Refusal], base: Directory | None = None) -> list[Node]:
        """Take over what a source says; what it does not say is asked of the origins behind. Does not wait."""
        nodes = []
        for item in found:
            node = self.tree.add(item, base) if isinstance(item, Entry) else item
            if isinstance(node, Refusal):
                # A later entry of the same path is another problem than the path's own.
                self.problems.add(f"{node.where} (named again)" if isinstance(item, Entry) else node.where, node.reason)
                continue
            nodes.append(node)
            if isinstance(node, File) and not node.visible:
                self._queue.send_nowait(node)
        return nodes

    def remove(self, path: str) -> None:
        """Take a name away; who has it open reads on. *Raises*: NameMissing."""
        node = self.tree.find(path)
        if node is None or node.parent is None:
            raise NameMissing(f"/{path}: no such name")
        node.parent.removed.add(node.name)
        self.take_away(node)

    def give_name(self, name: str, given: GivenBlob) -> File | Refusal:
        """Name a blob. Asks nobody."""
        fixed = None if given.digest else given.blob_id
        node = self.tree.add(Entry(name, url=given.url, mirrors=given.mirrors, digest=given.digest, blob_id=fixed))
        if isinstance(node, File):
            self._bind(node, given.known)
        assert isinstance(node, File | Refusal)
        return node

    async def describe(self, path: str) -> GivenBlob:
        """Return the blob to which a name leads; asks its origin only when nothing else says which that is.

        *Raises*: NameMissing, OriginError, SourceError, StoreError.
        """
        node = self.tree.find(path)
        if node is None:
            node = self.tree.root
            for part in filter(None, path.split("/")):
                node = await self.lookup(node.inode, part)
        if not isinstance(node, File):
            raise NameMissing(f"{path}: not a file")
        if node.known is None and node.entry.digest is not None and node.size is not None:
            known = Known(node.entry.url or "", Version(node.size))
        else:
            if node.known is None:
                await self.resolve(node)
            assert node.known is not None
            known = node.known
        blob_id = node.blob_id or blob_id_for(known.url, known.version, node.entry.digest)
        return GivenBlob(blob_id, known.url, known.version, known.ranged, node.entry.mirrors, known.checked_at)

    async def led_to(self, blob_ids: Collection[BlobId]) -> list[BlobId]:
        """Return those of some blobs to which names lead, or open files."""
        found = set[BlobId]()
        for number, node in enumerate(self.tree.nodes()):
            blob_id = node.blob_id if isinstance(node, File) else None
            if blob_id is not None and blob_id in blob_ids:
                found.add(blob_id)
            if number % LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return sorted(found)

    async def resolve(self, file: File, *, patient: bool = True) -> None:
        """Learn what a file is, from its origin unless its source says all. *Raises*: OriginError, StoreError."""
        entry = file.entry
        assert entry.url is not None
        try:
            known = entry.known or await self._resolver.known(self._ways(entry), entry.size, patient=patient)
        except OriginError:
            if entry.digest is None or entry.size is None:
                raise
            # The blob is known all the same, and all of it may be in the store.
            known = Known(entry.url, Version(entry.size))
        self._bind(file, known)

    def _ways(self, entry: Entry) -> tuple[str, ...]:
        return urls.ways(entry.url or "", entry.mirrors, self._mirrors)

    def _bind(self, file: File, known: Known) -> None:
        if file.known is not None and file.known.version != known.version:
            # Somebody who asked at the same time heard of another version, and a file is of one all its life.
            self._changed(known)
            return
        if file.size is not None and file.size != known.version.size:
            if not self._listed_by_index(file):
                raise OriginBadAnswer(
                    urls.redact(known.url), f"{known.version.size} bytes, but the manifest says {file.size}"
                )
            if file.attached:
                self._replace(file, known)
            raise BlobChanged(urls.redact(known.url), "it is not as it was listed")
        if not file.visible and known.version.mtime_ns is not None and self._listed_by_index(file):
            file.mtime_ns = None  # the origin's own date counts: an index has it rounded, and in a zone of its server's
        self.tree.know(file, known)
        if file.entry.blob_id is None:
            self._bound.setdefault(known.url, set()).add(file)
        self.problems.solved(file.path)

    def _listed_by_index(self, file: File) -> bool:
        return file.parent is not None and any(file.name in names for names in file.parent.listed.values())

    def _changed(self, known: Known) -> None:
        """Another version is under a URL now: names lead to it from here on, open handles stay with the old one."""
        for file in list(self._bound.get(known.url, ())):
            if not file.attached or file.known is None or file.known.version == known.version:
                continue
            if file.entry.digest is not None and file.known.version.size != known.version.size:
                # The digest names one blob, of one size: what is there now cannot be it, and must not pass for it.
                self.problems.add(file.path, "its origin now has a blob of another size than its digest's")
            elif file.blob_id == blob_id_for(known.url, known.version, file.entry.digest):
                file.known = known  # the same blob with another date, or another ETag for the same digest
            else:
                self._replace(file, known)

    def _replace(self, file: File, known: Known) -> None:
        assert file.parent is not None
        log.info("%s has changed at its origin", file.path)
        self._unbind(file)
        new = self.tree.replace(file, known)
        if self._journal is not None:
            self._journal.note_alias(new.inode, new.path, _given(new))
        self._bound.setdefault(known.url, set()).add(new)
        self.on_stale(file.parent.inode, file.name)

    def _mismatched(self, blob_id: BlobId, mismatch: DigestMismatch) -> None:
        """A blob was not what its digest says: its names begin anew under other inodes, since the kernel has pages."""
        for files in list(self._bound.values()):
            for file in list(files):
                if file.blob_id == blob_id and file.attached and file.known is not None:
                    self.problems.add(file.path, mismatch.reason)
                    self._replace(file, file.known)

    def take_away(self, node: Node) -> None:
        """Take a name away, for now: the next listing that has it brings it back."""
        assert node.parent is not None
        for inner in below(node):
            if isinstance(inner, File):
                self._unbind(inner)
        self.tree.detach(node)
        self.on_stale(node.parent.inode, node.name)

    def _unbind(self, file: File) -> None:
        if file.known is not None:
            files = self._bound.get(file.known.url, set())
            files.discard(file)
            if not files:
                self._bound.pop(file.known.url, None)

    async def _resolve_announced(self, announced: trio.MemoryReceiveChannel[File]) -> None:
        """Resolve what is announced, in order; one of RESOLVING tasks."""
        async for file in announced:
            if file.visible or not file.attached:
                continue
            try:
                with trio.move_on_after(RESOLVE_WITHIN) as scope:
                    await self.resolve(file)
                if scope.cancelled_caught:
                    self._try_again(file, f"no answer from the origin in {RESOLVE_WITHIN:g} s")
            except OriginDenied as exc:
                self.problems.add(file.path, exc.reason)  # who looks it up has it asked for again
            except OriginRefused as exc:
                self.problems.add(file.path, exc.reason)
                if file.attached:
                    self.take_away(file)
            except LazyfsError as exc:
                self._try_again(file, str(exc))

    def _try_again(self, file: File, reason: str) -> None:
        self.problems.add(file.path, reason)
        self._again.send_nowait((trio.current_time() + RESOLVE_AGAIN, file))

    async def _resolve_again(self, failed: trio.MemoryReceiveChannel[tuple[float, File]]) -> None:
        async for due, file in failed:
            await trio.sleep_until(due)
            self._queue.send_nowait(file)

    # Directories.

    async def lookup(self, parent: int, name: str) -> Node:
        """Return the node of a name, resolved. *Raises*: NameMissing, OriginError, StoreError."""
        node = await self._named(parent, name)
        return await self._resolved(node) if isinstance(node, File) else node

    async def lookup_soon(self, parent: int, name: str) -> Node:
        """Return the node of a name, or what stands for it until `settled`. *Raises*: as `lookup`."""
        node = await self._named(parent, name)
        if isinstance(node, File) and not node.visible:
            node = self.tree.stand_in(node)
            if self._journal is not None:
                self._journal.note_alias(node.inode, node.path, None)
        return node

    async def settled(self, inode: int) -> Node:
        """Return the node of an inode number, resolved. *Raises*: as `lookup`."""
        node = self.node(inode)
        return await self._resolved(node.file) if isinstance(node, Pending) else node

    async def _named(self, parent: int, name: str) -> Node:
        directory = await self._directory(parent)
        node = directory.children.get(name)
        if node is None:
            raise NameMissing(f"/{directory.path}{'/' if directory.path else ''}{name}: no such name")
        return node

    async def _resolved(self, file: File) -> File:
        if not file.visible:
            try:
                await self.resolve(file)
            except OriginRefused as exc:
                self.problems.add(file.path, exc.reason)
                raise NameMissing(str(exc)) from exc
        return file

    async def entries(self, inode: int) -> Sequence[Node]:
        """Return the visible names of a directory, in their cookies' order; nobody changes the list."""
        return await inorder.in_order(await self._directory(inode))

    def node(self, inode: int) -> Node:
        """Return the node of an inode number. *Raises*: InodeUnknown."""
        node = self.tree.node(inode) or self._adopted(inode)
        if node is None:
            raise InodeUnknown(f"inode {inode} is not known")
        return node

    def inherit(self, legacy: Legacy) -> None:
        """Take over what the kernel knows from another daemon. Names are waited for until `complete` is set."""
        self.files.inherit(legacy.opened)
        self.passthrough.inherit(legacy)
        self.complete = trio.Event()

    def keep_journal(self, journal: Journal | None) -> None:
        """Have what the next daemon must know written down from now on."""
        self._journal = self.files.journal = self.passthrough.journal = journal

    def _adopted(self, inode: int) -> Node | None:
        """Return a node for an inode that the kernel has from another daemon, and that got no such number here."""
        there = None if self._journal is None else self._journal.known(inode)
        if there is None:
            return None
        if there.blob is not None:
            return self.tree.adopt(inode, there.path, there.blob)
        node = self.tree.find(there.path)
        return self.tree.stand_in(node) if isinstance(node, File) else None

    async def _directory(self, inode: int) -> Directory:
        directory = self.node(inode)
        if not isinstance(directory, Directory):
            raise NameMissing(f"{directory.path}: not a directory")
        if isinstance(directory, ImageDirectory):
            await self._look_at_image(directory)
        else:
            await self.listings.look(directory)
        return directory

    async def _look_at_image(self, node: Node) -> None:
        """See to it that an image's tree is there, and that its tag is asked for again, behind, when that is due."""
        root = root_of(node)
        if not root.grown:
            await self.rootfs.look(root)
        assert root.parent is not None
        if root.attached:
            await self.listings.look(root.parent)

    # Files.

    async def open(self, inode: int, request: int = 0) -> int:
        """Open a file and return its handle; `request` is the kernel's number, 0 for our own.

        *Raises*: NameMissing; BlobChanged, when it has to be looked up again; OriginError; StoreError.
        """
        file = await self.settled(inode)
        if isinstance(file, ImageFile):
            await self._look_at_image(file)
            return inode
        if not isinstance(file, File):
            raise NameMissing(f"{file.path}: not a file")
        began = time.time()
        if file.known is None:
            await self.resolve(file)
        assert file.known is not None
        if file.entry.blob_id is None:  # else it was given to one blob, whatever its URL names now
            await self._keep_up(file, file.known, began)
        assert file.blob_id is not None
        blob = await self._blobs.open(file.blob_id, file.known, self._ways(file.entry))
        self.files.opened(inode, blob, file.path, partial(_given, file), request)
        return inode

    def enter(self, handle: int, *, again: bool) -> int | None:
        """Note that the kernel has what was just opened; as `Passthrough.enter`."""
        return self.passthrough.enter(handle, self.files.blob(handle), again=again)

    def forget(self, inode: int, lookups: int) -> None:
        """Take back look-ups of the kernel's."""
        if self.tree.forget(inode, lookups):
            self.passthrough.forgotten(inode)
            if self._journal is not None:
                self._journal.note_forgotten(inode)

    def _let_go(self, inode: int) -> None:
        """Have the kernel forget an inode, as soon as nobody uses it; one without a name it forgets by itself."""
        node = self.tree.node(inode)
        named = node.file if isinstance(node, Pending) else node
        if named is not None and named.attached and named.parent is not None:
            self.on_stale(named.parent.inode, named.name)

    async def _keep_up(self, file: File, known: Known, began: float) -> None:
        """See to it that what a file was when it was opened is known, at once or behind. *Raises*: as `_check`."""
        if file.entry.known is not None and file.parent is not None:
            await self.listings.look(file.parent)  # only its directory can say that the name stands for another blob
        # The kernel may come by a name that it has not been told to forget yet: a reader who opens again after ESTALE.
        doubtful = not file.attached or self._resolver.doubts(known.url)
        if doubtful or (self._resolver.fresh_for == 0 and known.checked_at < began):
            await self._check(file, known)
        else:
            self._resolver.revalidate(known)

    async def _check(self, file: File, known: Known) -> None:
        """See that a file is what its origin has now. *Raises*: BlobChanged, when it is not."""
        now = await self._resolver.checked(known)
        if now.version != known.version:
            self._changed(now)
            if not file.attached:
                raise BlobChanged(urls.redact(known.url), "it has changed; look it up again")

    async def read(self, handle: int, offset: int, length: int) -> bytes:
        """Return bytes of an open file in one piece; otherwise as `read_pieces`."""
        return b"".join(await self.read_pieces(handle, offset, length))

    async def read_pieces(self, handle: int, offset: int, length: int) -> list[memoryview]:
        """Return bytes of an open file, in pieces. *Raises*: as `Blob.read_pieces`. *Units*: bytes."""
        file = None if self.files.has(handle) else self.tree.node(handle)
        if isinstance(file, ImageFile):
            pieces = await self.rootfs.read_pieces(file, offset, length)
        else:
            pieces = await self.files.read_pieces(handle, offset, length)
        self.counters.reads += 1
        self.counters.read_bytes += sum(map(len, pieces))
        return pieces

    async def _reopened(self, given: GivenBlob) -> Blob:
        return await self._blobs.open(given.blob_id, given.known, urls.ways(given.url, given.mirrors, self._mirrors))

    @property
    def opened(self) -> Mapping[int, tuple[Blob, int]]:
        """The open files by inode: the blob of each, and how often it is open."""
        return self.files.opened_now()

    def blob(self, handle: int) -> Blob:
        """Return the blob of an open file."""
        return self.files.blob(handle)

    def release(self, handle: int, request: int = 0) -> None:
        """Close a handle once; `request` as for `open`."""
        self.files.released(handle, request)

    async def xattrs(self, inode: int) -> dict[str, bytes]:
        """Return the extended attributes of a node: what is known of a file's blob, no secrets; an image's own."""
        file = await self.settled(inode)
        if isinstance(file, ImageDirectory | ImageFile):
            return dict(file.member.xattrs)
        if not isinstance(file, File):
            return {}
        values = {"url": urls.redact(file.entry.url or ""), "digest": file.entry.digest, "cached": "0"}
        if file.known is not None and file.blob_id is not None:
            values["etag"] = file.known.version.etag
            values["blob"] = file.blob_id
            values["cached"] = str(await self._blobs.present_bytes(file.blob_id))
        return {f"user.lazyfs.{name}": os.fsencode(value) for name, value in values.items() if value}


def _given(file: File) -> GivenBlob | None:
    """Describe what a file is, for a daemon that may not find its name."""
    if file.known is None or file.blob_id is None:
        return None
    known = file.known
    return GivenBlob(file.blob_id, known.url, known.version, known.ranged, file.entry.mirrors, known.checked_at)
