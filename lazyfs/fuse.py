"""The pyfuse3 adapter: translates between the kernel's requests and `Vfs`, nothing else.

pyfuse3 ends its main loop, and with it the mount, on any exception but FUSEError; so every handler turns each of them
into an errno here. Inodes and attributes of visible nodes never change (tree.py), so the kernel may keep them, and the
pages with them, for as long as it likes; what must not be believed any longer is invalidated by name.

*Source*: pyfuse3 3.5 `handlers.pxi`, `internal.pxi`; kernel fs/fuse/dir.c, file.c.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import signal
import stat
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from lazyfs import native  # before pyfuse3, whose calls it takes

# isort: split
import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FlagT, FUSEError, InodeT, ReaddirToken, RequestContext

from lazyfs import causes, inorder, neighbours, shortcut
from lazyfs.attach import ALWAYS
from lazyfs.errors import LazyfsError, NameMissing, errno_for
from lazyfs.extents import Block
from lazyfs.neighbours import Neighbours
from lazyfs.passthrough import Kernel, Passthrough
from lazyfs.rootfs.nodes import ImageFile, ImageNode, ImageRoot, image_node, mode_of
from lazyfs.shortcut import Shortcut
from lazyfs.tree import Directory, File, Node, Pending, Symlink, cookie
from lazyfs.vfs import Vfs

log = logging.getLogger(__name__)

OPTIONS: Final = ALWAYS | {"subtype=lazyfs"}
"""The options that every mount has, as libfuse takes them."""

KEEP: Final = 86400.0
"""Seconds for which the kernel may keep names and attributes."""

MAX_REQUESTS: Final = 10_000
"""Requests under way at a time: pyfuse3's own limit of 99 lets as many stalled reads stop `ls` as well."""

WORKERS_KEPT: Final = 8
"""Tasks that pyfuse3 keeps for the next requests; it would keep one, and start another for nearly every request."""

DIRECT: Final = 1 << 63
"""In a file handle, which is an inode's number otherwise: it was opened with O_DIRECT, and reads no page cache."""

WAKE_EVERY: Final = 0.5
"""Seconds between two timer signals; see `_never_blocked`."""

P = ParamSpec("P")
R = TypeVar("R")


def _translated(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Turn every exception into an errno: anything else would end the mount."""

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except Exception as exc:
            adapter = args[0]
            assert isinstance(adapter, Adapter)
            if not isinstance(exc, NameMissing):
                adapter.vfs.counters.errors += 1
            if not isinstance(exc, LazyfsError):
                log.exception("an unforeseen failure in %s", handler.__name__)
            raise FUSEError(errno_for(exc)) from None

    return wrapper


@dataclass(slots=True)
class _Listing:
    """A directory that is being listed, by all who do so; its handle is its inode's number."""

    nodes: Sequence[Node]
    opens: int = 0


def _with_names(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Wait until all names are in, where another daemon has told the kernel of some."""

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        adapter = args[0]
        assert isinstance(adapter, Adapter)
        if not adapter.vfs.complete.is_set():
            await adapter.vfs.complete.wait()
        return await handler(*args, **kwargs)

    return wrapper


class Adapter(pyfuse3.Operations):
    """Answers the kernel from a `Vfs`; `owner` is the user and the group that files belong to."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, vfs: Vfs, owner: tuple[int, int]) -> None:
        super().__init__()
        self.vfs = vfs
        self._uid, self._gid = owner
        self._mounted_ns = time.time_ns()
        self._listings: dict[int, _Listing] = {}
        self.neighbours = Neighbours(_push)
        self.shortcut = Shortcut(native.LIBRARY, vfs.counters, self.answer)
        self.answering = trio.Event()
        vfs.on_stale = self._invalidate

    def init(self) -> None:
        """Note that the kernel has shaken hands: the answer goes out before any other task runs."""
        self.answering.set()

    @_translated
    @_with_names
    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name."""
        node = await self.vfs.lookup_soon(parent_inode, os.fsdecode(name))
        self.vfs.tree.remember(node)
        return self._attributes(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Take back look-ups."""
        for inode, lookups in inode_list:
            self.vfs.forget(inode, lookups)

    @_translated
    @_with_names
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """Describe a node, once it is known what there is to say."""
        return self._attributes(await self.vfs.settled(inode))

    @_translated
    @_with_names
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        """Return where a symlink leads."""
        node = self.vfs.node(inode)
        if isinstance(node, ImageFile) and node.member.target:
            return os.fsencode(node.member.target)
        if not isinstance(node, Symlink):
            raise NameMissing(f"{node.path}: not a symbolic link")
        return os.fsencode(node.target)

    @_translated
    @_with_names
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """Begin a listing: what is known now, so that it need not be put in order again while it is read."""
        nodes = await self.vfs.entries(inode)
        listing = self._listings.setdefault(inode, _Listing(nodes))
        listing.nodes = nodes  # cookies are those of the names: who reads the old one goes on with this
        listing.opens += 1
        return FileHandleT(inode)

    @_translated
    @_with_names
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """Go on with a listing behind the name whose cookie is `start_id`."""
        if fh not in self._listings:  # another daemon has begun it
            self._listings[fh] = _Listing(await self.vfs.entries(fh), 1)
        nodes = self._listings[fh].nodes
        for place in inorder.behind(nodes, start_id):
            node = nodes[place]
            if not pyfuse3.readdir_reply(token, os.fsencode(node.name), self._attributes(node), cookie(node.name)):
                break
            self.vfs.tree.remember(node)

    @_translated
    async def releasedir(self, fh: FileHandleT) -> None:
        """End a listing."""
        listing = self._listings.get(fh)
        if listing is not None:
            listing.opens -= 1
            if listing.opens <= 0:
                del self._listings[fh]

    @_translated
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """Open a file to read."""
        request = _request()
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        await self.vfs.complete.wait()
        again = self.vfs.files.counted(request)
        try:
            handle = await self.vfs.open(inode, request)
        except Exception:
            if again:
                self._closed(inode, request)
            raise
        if not self.vfs.files.has(handle):  # a file of an image, which has no blob of its own
            return FileInfo(fh=FileHandleT(handle), keep_cache=True)
        backing = self.vfs.enter(handle, again=again)
        if flags & os.O_DIRECT:
            handle |= DIRECT
        if backing is None or native.LIBRARY is None:
            return FileInfo(fh=FileHandleT(handle), keep_cache=True)
        native.LIBRARY.answer_next(handle, backing)
        return FileInfo(fh=FileHandleT(handle))

    @_translated
    async def read(self, fh: FileHandleT, off: int, size: int) -> Any:
        """Read from an open file; pyfuse3 takes any buffer."""
        if native.LIBRARY is not None:
            causes.reader.set(native.LIBRARY.last_pid)
        pieces = await self._pieces(fh, off, size)
        if len(pieces) == 1:
            return pieces[0]
        return b"".join(pieces) if native.LIBRARY is None else native.LIBRARY.reply(pieces)

    async def answer(self, unique: int, handle: int, off: int, size: int) -> None:
        """Answer a read that the shortcut has handed back."""
        assert native.LIBRARY is not None
        try:
            pieces = await self._translated_pieces(FileHandleT(handle), off, size)
        except FUSEError as exc:
            native.LIBRARY.answer(unique, [], exc.errno)
        else:
            native.LIBRARY.answer(unique, pieces)

    async def _pieces(self, fh: FileHandleT, off: int, size: int) -> list[memoryview]:
        handle = fh & ~DIRECT
        if not self.vfs.files.has(handle):
            if isinstance(self.vfs.tree.node(handle), ImageFile):
                return await self.vfs.read_pieces(handle, off, size)
            await self.vfs.files.recall(handle)
        run = self.vfs.blob(handle).geometry.covering(off, size)
        with self.neighbours.reading(handle, run):
            pieces = await self.vfs.read_pieces(handle, off, size)
        if len(run) == 1 and size <= neighbours.SMALL and handle == fh and self.neighbours.wants(handle, run.start):
            block = self.vfs.blob(handle).checked(run.start)
            if block is not None:
                self.neighbours.put(handle, *block)
        if size >= shortcut.LEAST and self.vfs.files.has(handle):
            self.shortcut.offer(handle, self.vfs.blob(handle))
        return pieces

    _translated_pieces = _translated(_pieces)

    @_translated
    async def release(self, fh: FileHandleT) -> None:
        """Close a file."""
        request = _request()
        if isinstance(self.vfs.tree.node(fh & ~DIRECT), ImageFile):
            return
        if not self.vfs.files.counted(request):
            self._closed(fh & ~DIRECT, request)

    def _closed(self, handle: int, request: int) -> None:
        self.shortcut.withdraw(handle)  # while its blob is open; who has it open still offers it anew
        self.vfs.passthrough.leave(handle)
        self.vfs.release(handle, request)

    @_translated
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """Describe the mount: what it holds, and that nothing is free."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = -(-self.vfs.tree.size // 4096)
        data.f_files = self.vfs.tree.files
        data.f_bfree = data.f_bavail = data.f_ffree = data.f_favail = 0
        data.f_namemax = 255
        return data

    @_translated
    @_with_names
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[Any]:
        """Name the extended attributes."""
        return [os.fsencode(name) for name in await self.vfs.xattrs(inode)]

    @_translated
    @_with_names
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        """Return one extended attribute."""
        of_image = image_node(self.vfs.node(inode)) is not None
        if not (name.startswith(b"user.") or of_image):
            # `ls -l` asks each file for its SELinux label and its ACL, until it hears that there are none here.
            raise FUSEError(errno.EOPNOTSUPP)
        if not (name.startswith(b"user.lazyfs.") or of_image):
            raise FUSEError(pyfuse3.ENOATTR)
        value = (await self.vfs.xattrs(inode)).get(os.fsdecode(name))
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    def _attributes(self, node: Node) -> EntryAttributes:
        attributes = EntryAttributes()
        attributes.st_ino = InodeT(node.inode)
        attributes.entry_timeout = attributes.attr_timeout = KEEP
        attributes.st_uid, attributes.st_gid = self._uid, self._gid
        attributes.st_nlink = 1
        mtime_ns = None
        if (of_image := image_node(node)) is not None:
            return _of_image(attributes, of_image)
        match node:
            case File():
                attributes.st_mode = _mode(stat.S_IFREG | (0o444 if node.entry.mode is None else node.entry.mode))
                attributes.st_size = node.size or 0
                mtime_ns = node.mtime_ns
            case Pending():  # the kernel asks again before it believes any of this
                attributes.st_mode = _mode(stat.S_IFREG | 0o444)
                attributes.entry_timeout = attributes.attr_timeout = 0
            case Symlink():
                attributes.st_mode = _mode(stat.S_IFLNK | 0o777)
                attributes.st_size = len(os.fsencode(node.target))
                mtime_ns = node.entry.mtime_ns
            case Directory():
                attributes.st_mode = _mode(stat.S_IFDIR | 0o555)
                attributes.st_nlink = 2
        attributes.st_blksize = 4096
        attributes.st_blocks = -(-attributes.st_size // 512)
        mtime_ns = self._mounted_ns if mtime_ns is None else mtime_ns
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = mtime_ns
        return attributes

    def _invalidate(self, parent: int, name: str) -> None:
        """Have the kernel look a name up again; from pyfuse3's own thread, since it waits for look-ups under way."""
        pyfuse3.invalidate_entry_async(InodeT(parent), os.fsencode(name), ignore_enoent=True)


def _of_image(attributes: EntryAttributes, node: ImageNode) -> EntryAttributes:
    """Describe what an image says itself."""
    member = node.member
    attributes.st_mode = _mode(mode_of(member))
    attributes.st_nlink = node.links
    attributes.st_uid, attributes.st_gid = member.uid, member.gid
    attributes.st_size = len(os.fsencode(member.target)) if member.target else member.size
    attributes.st_rdev = os.makedev(*member.device)
    attributes.st_blksize = 4096
    attributes.st_blocks = -(-attributes.st_size // 512)
    attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = member.mtime_ns
    if isinstance(node, ImageRoot) and not node.grown:  # the kernel asks again before it believes any of this
        attributes.attr_timeout = 0
    return attributes


def _mode(mode: int) -> Any:
    return mode


def _request() -> int:
    """Return the number of the request that is handled: before its first await, it is the last that was read."""
    return 0 if native.LIBRARY is None else native.LIBRARY.last_request


def _push(inode: int, offset: int, block: Block) -> None:
    """Put bytes into the kernel's pages of an inode. *Raises*: OSError."""
    pyfuse3.notify_store(InodeT(inode), offset, block)  # type: ignore[arg-type] # it takes any buffer


@contextlib.contextmanager
def _libfuse_heard() -> Iterator[None]:
    """Put what libfuse and fusermount3 print into the exception, else into the log: nobody sees a daemon's stderr."""
    kept, heard = os.dup(2), os.memfd_create("libfuse")
    os.dup2(heard, 2)
    reason = None
    try:
        yield
    except RuntimeError as exc:
        reason = exc
    finally:
        os.dup2(kept, 2)
        words = os.pread(heard, 4096, 0).decode("utf-8", "replace").strip().splitlines()
        for fd in (kept, heard):
            os.close(fd)
    if reason is not None:
        raise RuntimeError(words[-1] if words else str(reason)) from reason
    for line in words:
        log.warning("%s", line)


async def _main(scope: trio.CancelScope) -> None:
    """Answer the kernel until the mount is gone, and end who still waits for the handshake of one that went at once."""
    await pyfuse3.main(WORKERS_KEPT, MAX_REQUESTS)
    scope.cancel()


@contextlib.contextmanager
def _never_blocked() -> Iterator[None]:
    """See to it that a read of the FUSE descriptor ends, also without the C library, which does that itself.

    The timer signal is for a race in pyfuse3: it reads the FUSE descriptor when that has become readable, but a request
    that is interrupted in between is gone, and the read then blocks the whole process until the next request. A signal
    ends it with EINTR, after which pyfuse3 looks again.
    """
    if native.LIBRARY is not None:
        yield
        return
    signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, WAKE_EVERY, WAKE_EVERY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _begin_passthrough(passthrough: Passthrough, kernel: Kernel, *, wanted: bool) -> None:
    """Let opens go past us, or say why they do not, when the kernel has shaken hands."""
    if not wanted:
        passthrough.refuse("--no-passthrough")
    elif native.LIBRARY is None:
        passthrough.refuse(native.MISSING)
    elif not native.LIBRARY.agreed:
        passthrough.refuse("the kernel does not offer it: that takes Linux 6.9, with CONFIG_FUSE_PASSTHROUGH")
    else:
        passthrough.begin(kernel)


async def serve(
    vfs: Vfs,
    options: frozenset[str],
    *,
    device: int,
    kernel: Kernel,
    detach: Callable[[], None],
    owner: tuple[int, int],
    greeting: bytes = b"",
    passthrough: bool,
    task_status: trio.TaskStatus[None],
) -> None:
    """Report readiness when the kernel has shaken hands, and answer it until the mount is gone.

    `device` is FUSE's descriptor of what is mounted; with `greeting`, it was served before, and that is what the kernel
    has said then. `passthrough` says whether it is wanted. *Raises*: RuntimeError with libfuse's words.
    *Cancellation*: unmounts, by `detach`, which may block.
    """
    adapter = Adapter(vfs, owner)
    if native.LIBRARY is not None:
        native.LIBRARY.want(passthrough)
        if greeting:
            native.LIBRARY.go_on(greeting)
    try:
        with _libfuse_heard():
            pyfuse3.init(adapter, f"/dev/fd/{device}", set(OPTIONS | options))
    except BaseException:
        detach()
        raise
    try:
        with _never_blocked():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_main, nursery.cancel_scope)
                await adapter.answering.wait()
                nursery.start_soon(adapter.shortcut.serve)
                _begin_passthrough(vfs.passthrough, kernel, wanted=passthrough)
                task_status.started()
    finally:
        adapter.neighbours.close()
        pyfuse3.close(unmount=False)
        detach()
