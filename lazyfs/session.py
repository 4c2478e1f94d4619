"""A process's working set: store, client, blobs, names, wired together, and the sources that feed the names.

A mount is a session with a FUSE adapter on its `vfs`; `lazyfs fetch` is one without.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from lazyfs import urls
from lazyfs.blobs import Blobs
from lazyfs.counters import Counters
from lazyfs.entries import Entry, Kind, Refusal
from lazyfs.errors import LazyfsError, SourceError, StoreError, UsageError
from lazyfs.options import Settings as Settings
from lazyfs.origin.client import Client
from lazyfs.resolve import Resolver
from lazyfs.rootfs.nodes import ImageRoot
from lazyfs.sources.feed import Pieces, list_index, list_kept, local_pieces, read_manifest
from lazyfs.sources.reference import SCHEME
from lazyfs.sources.spec import Form, Source
from lazyfs.store import Store
from lazyfs.tree import Directory, File
from lazyfs.versions import blob_id_for
from lazyfs.vfs import Vfs

if TYPE_CHECKING:
    from lazyfs.images import Images

log = logging.getLogger(__name__)

MANY: Final = 10_000
"""Names that come in between two calls of `on_names`."""

LISTED_AT_ONCE: Final = 100
"""Directories whose listings are taken in at a time, in turns with what the kernel asks meanwhile."""

ADD_AGAIN: Final = 15.0
"""Seconds until a source that another daemon had is tried again."""

ROOTFS: Final = "rootfs"
"""The name under which an image's tree is shown."""

TIDY_EVERY: Final = 3600.0
"""Seconds between two looks for what killed processes left in the store."""


class Session:
    """What is open; made by `open_session`."""

    def __init__(
        self, store: Store, client: Client, counters: Counters, nursery: trio.Nursery, settings: Settings
    ) -> None:
        limits, self._mirrors = settings.limits, settings.mirrors
        self.store = store
        self.client = client
        self.counters = counters
        self.blobs = Blobs(store, client, counters, nursery, limits)
        self.resolver = Resolver(store, client, counters, nursery, limits.read_timeout, settings.fresh_for)
        self.vfs = Vfs(self.blobs, self.resolver, self._list, nursery, self._mirrors)
        self._registries = settings.registries
        self.on_names: Callable[[], None] = lambda: None  # called now and then while very many names come in
        self._nursery = nursery

    async def add(self, source: Source) -> list[str]:
        """Take a source in and return the paths it named so far; a long manifest is read on behind.

        *Raises*: SourceError, OriginError, StoreError: then nothing of it is left.
        """
        match source.form:
            case Form.FILE:
                return [await self._add_file(source)]
            case Form.INDEX:
                return [await self._add_index(source)]
            case Form.BLOB:
                return [self._add_blob(source)]
            case Form.IMAGE:
                return [await self.images.add(source)]
            case Form.MANIFEST:
                paths: list[str] = await self._nursery.start(self._read_manifest, source)
                return paths

    @cached_property
    def images(self) -> Images:
        """The images that are mounted; what is loaded for them most mounts do without."""
        from lazyfs.images import Images
        from lazyfs.sources.registry import Registries

        registries = Registries(self.client, self.store, self._registries, self._mirrors)
        images = Images(self.vfs, registries, self._nursery, self.resolver.fresh_for)
        images.on_change = self._show_rootfs
        return images

    def _show_rootfs(self, path: str) -> None:
        """Show the tree of the image that is at a path now."""
        directory, layers = self.vfs.tree.find(path), self.images.mounted[path].layers
        if not isinstance(directory, Directory) or ROOTFS in directory.removed:
            return
        there = directory.children.get(ROOTFS)
        if isinstance(there, ImageRoot):
            if there.layers == layers:
                return
            self.vfs.take_away(there)
        node = self.vfs.tree.place(ImageRoot(ROOTFS, directory, layers))
        if isinstance(node, Refusal):
            self.vfs.problems.add(node.where, node.reason)

    async def restore(self, sources: Sequence[Source]) -> None:
        """Take in what another daemon had, from what is kept; what is old is asked for again behind, as ever.

        A source of which nothing is kept and whose origin does not answer is tried again later.
        """
        with self.vfs.listings.listed_by(self._list_kept):
            async with trio.open_nursery() as nursery:
                for source in sources:
                    nursery.start_soon(self._restore_one, source)
            looked_at = set[Directory]()
            while unlisted := [directory for directory in self._indexes() if directory not in looked_at]:
                looked_at.update(unlisted)
                for start in range(0, len(unlisted), LISTED_AT_ONCE):
                    async with trio.open_nursery() as nursery:
                        for directory in unlisted[start : start + LISTED_AT_ONCE]:
                            nursery.start_soon(self._restore_listing, directory)
        for root in [node for node in self.vfs.tree.nodes() if isinstance(node, ImageRoot)]:
            with suppress(LazyfsError):  # as for a listing
                await self.vfs.rootfs.look_kept(root)

    async def _restore_listing(self, directory: Directory) -> None:
        with suppress(LazyfsError):  # nobody has looked at it yet
            await self.vfs.listings.refresh(directory, patient=False)

    async def _list(self, url: str) -> list[Entry | Refusal]:
        if url.startswith(SCHEME):
            return await self.images.listed(url)
        return await list_index(self.client, self.store, self._mirrors, url)

    async def _list_kept(self, url: str) -> list[Entry | Refusal]:
        if url.startswith(SCHEME):
            return await self.images.listed(url, kept=True)
        return await list_kept(self.store, url)

    async def _restore_one(self, source: Source) -> None:
        try:
            await self.add(source)
        except LazyfsError as exc:
            self.vfs.problems.add(source.shown, str(exc))
            self._nursery.start_soon(self._add_later, source)

    async def _add_later(self, source: Source) -> None:
        while True:
            await trio.sleep(ADD_AGAIN)
            try:
                await self.add(source)
            except LazyfsError as exc:
                log.info("%s", exc)
            else:
                self.vfs.problems.solved(source.shown)
                return

    def _indexes(self) -> list[Directory]:
        """The directories that indexes list, and that have not been listed."""
        found = (node for node in self.vfs.tree.nodes() if isinstance(node, Directory))
        return [directory for directory in found if directory.urls and directory.listed_at is None]

    async def _add_file(self, source: Source) -> str:
        node = self.vfs.tree.add(Entry(source.name, url=source.place))
        if isinstance(node, Refusal):
            raise SourceError(f"{source.shown}: {node.reason}; give it another, as in NAME=URL")
        assert isinstance(node, File)
        try:
            await self.vfs.resolve(node, patient=False)
        except BaseException:
            self.vfs.take_away(node)
            raise
        return source.name

    def _add_blob(self, source: Source) -> str:
        if source.given is None:
            raise UsageError(f"{source.place} is not known as a blob of this store")
        node = self.vfs.give_name(source.name, source.given)
        if isinstance(node, Refusal):
            raise SourceError(f"{source.name}: {node.reason}; give it another, as in NAME=BLOB")
        return source.name

    async def _add_index(self, source: Source) -> str:
        there = self.vfs.tree.find(source.name)
        if isinstance(there, Directory) and source.place in there.urls:
            await self.vfs.listings.refresh(there, patient=False)
            return source.name
        directory = self.vfs.tree.add(Entry(source.name, Kind.DIRECTORY)) if source.name else self.vfs.tree.root
        if not isinstance(directory, Directory):
            raise SourceError(f"{source.shown}: the name {source.name} is taken; give it another, as in NAME=URL/")
        directory.urls.append(source.place)
        try:
            await self.vfs.listings.refresh(directory, source.place, patient=False)
        except BaseException:
            directory.urls.remove(source.place)
            if there is None:
                self.vfs.take_away(directory)
            raise
        return source.name

    async def _read_manifest(self, source: Source, task_status: trio.TaskStatus[list[str]]) -> None:
        """Announce a manifest's entries; ready after the first of them, so that one that is none fails its caller."""
        started, names = False, 0
        try:
            async with self._pieces(source) as pieces:
                async for found in read_manifest(source, pieces):
                    nodes = self.vfs.announce(_located(item, source) for item in found)
                    names += len(nodes)
                    if names >= MANY:
                        names = 0
                        self.on_names()
                    if not started and found:
                        started = True
                        task_status.started([node.path for node in nodes])
        except LazyfsError as exc:
            if not started:
                raise
            self.vfs.problems.add(source.shown, f"read only in part: {exc}")
        if not started:
            task_status.started([])

    @asynccontextmanager
    async def _pieces(self, source: Source) -> AsyncIterator[Pieces]:
        """Open a manifest: a local file, or a blob like any other, so that it is there again without its origin."""
        if not source.remote:
            yield local_pieces(Path(source.place))
            return
        ways = urls.ways(source.place, rules=self._mirrors)
        known = await self.resolver.known(ways, patient=False)
        blob = await self.blobs.open(blob_id_for(known.url, known.version, None), known, ways)
        try:
            yield blob.read
        finally:
            self.blobs.close(blob)


def _located(item: Entry | Refusal, source: Source) -> Entry | Refusal:
    """Name the manifest in what is reported of its lines."""
    return Refusal(f"{source.shown}, {item.where}", item.reason) if isinstance(item, Refusal) else item


@asynccontextmanager
async def open_session(settings: Settings) -> AsyncIterator[Session]:
    """Open a session; what it has under way when it is left is cancelled. *Raises*: StoreError."""
    store = await trio.to_thread.run_sync(_open_store, settings)
    counters = Counters()
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        async with trio.open_nursery() as nursery:
            client = Client(settings.client, counters, nursery)
            stack.push_async_callback(_close, client)  # when the nursery has ended, and all connections are back
            nursery.start_soon(_tidy, store)
            try:
                yield Session(store, client, counters, nursery, settings)
            finally:
                store.evictor.stop()
                nursery.cancel_scope.cancel()


def _open_store(settings: Settings) -> Store:
    store = Store.open(settings.store, settings.block_size)
    try:
        store.set_bounds(settings.max_cache, settings.min_free)
    except BaseException:
        store.close()
        raise
    return store


async def _close(client: Client) -> None:
    with trio.CancelScope(shield=True):
        await client.aclose()


async def _tidy(store: Store) -> None:
    """Delete what killed processes left, and come within the bounds: at once, and again and again."""
    while True:
        try:
            await trio.to_thread.run_sync(store.tidy)
        except (OSError, StoreError) as exc:
            log.warning("the store could not be tidied up: %s", exc)
        await trio.sleep(TIDY_EVERY)
