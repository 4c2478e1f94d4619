"""`rootfs/` of the images under a mount: grown when somebody first looks, then read from the layers.

look ── grown? ── the tables of all layers, side by side ── merged, in a worker thread ── grafted, in one step
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from lazyfs.blobs import Blobs
from lazyfs.errors import DeadlineExceeded, LazyfsError, first_reason
from lazyfs.layers.members import Member
from lazyfs.layers.merge import merge
from lazyfs.problems import Problems
from lazyfs.rootfs import nodes
from lazyfs.rootfs.contents import Contents
from lazyfs.rootfs.nodes import ImageFile, ImageRoot
from lazyfs.rootfs.openlayers import OpenLayers
from lazyfs.rootfs.pieces import Pieces
from lazyfs.rootfs.streams import Streams
from lazyfs.rootfs.tables import Tables
from lazyfs.shared import Shared
from lazyfs.tree import Tree

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Layers whose tables are read at a time."""


class ImageTrees:
    """The images' trees in `tree`. `nursery` runs what goes on when those who wait for it have left."""

    def __init__(
        self,
        tree: Tree,
        problems: Problems,
        blobs: Blobs,
        nursery: trio.Nursery,
        mirrors: Sequence[tuple[str, str]],
    ) -> None:
        layers = OpenLayers(blobs, nursery, mirrors)
        self._tree = tree
        self._problems = problems
        self._tables = Tables(blobs.store, layers, nursery)
        self._contents = Contents(Pieces(layers, nursery), Streams(layers, self._tables))
        self._read_timeout = blobs.limits.read_timeout
        self._nursery = nursery
        self._growing = Shared[None](nursery)

    async def look(self, root: ImageRoot) -> None:
        """See to it that an image's tree is there.

        Who comes too early is told so; it is grown all the same, for who comes next. *Raises*: DeadlineExceeded;
        LayerError; as `Blob.read`. *Cancellation*: at any time.
        """
        if root.grown:
            return
        grow = partial(self._growing.do, f"{id(root)}", partial(self._grow, root))
        self._nursery.start_soon(self._note_problems, root, grow)
        with trio.move_on_after(self._read_timeout):
            await grow()
            return
        raise DeadlineExceeded(f"/{root.path}", f"its layers are still being read, after {self._read_timeout:g} s")

    async def look_kept(self, root: ImageRoot) -> None:
        """The same, from what is kept, if all of it is; asks nobody."""
        tables = [await self._tables.kept(layer) for layer in root.layers]
        known = [table for table in tables if table is not None]
        if len(known) == len(tables):
            await self._graft(root, known)

    async def read_pieces(self, file: ImageFile, offset: int, length: int) -> list[memoryview]:
        """Return bytes of a file; as `Contents.read`."""
        return await self._contents.read(file, offset, length)

    async def _note_problems(self, root: ImageRoot, grow: Callable[[], Awaitable[None]]) -> None:
        """Wait to the end, whoever else does, and note why a tree cannot be shown."""
        where = f"{root.path}/"
        try:
            await grow()
        except LazyfsError as exc:
            log.warning("/%s cannot be shown: %s", where, exc)
            self._problems.add(where, str(exc))
        else:
            self._problems.solved(where)

    async def _grow(self, root: ImageRoot) -> None:
        tables: list[list[Member]] = [[] for _ in root.layers]
        limit = trio.CapacityLimiter(AT_ONCE)

        async def read(number: int) -> None:
            async with limit:
                tables[number] = await self._tables.members(root.layers[number])

        try:
            async with trio.open_nursery() as nursery:
                for number in range(len(root.layers)):
                    nursery.start_soon(read, number)
        except BaseExceptionGroup as group:
            raise (first_reason(group) or group) from None
        await self._graft(root, tables)

    async def _graft(self, root: ImageRoot, tables: list[list[Member]]) -> None:
        grown = await trio.to_thread.run_sync(lambda: nodes.grow(root, merge(tables)))
        if root.attached and not root.grown:
            self._tree.graft(root, grown.children, grown.nodes)
            root.member, root.links, root.grown = grown.member, grown.links, True
