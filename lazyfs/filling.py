"""Making what a name leads to complete in the store: a file's blob, or all that a file of an image is read from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from lazyfs.errors import BlobChanged, DigestMismatch
from lazyfs.rootfs.nodes import ImageFile
from lazyfs.tree import Node
from lazyfs.vfs import Vfs

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Gets the bytes that are present, and the size."""

PIECE: Final = 1024 * 1024
"""Bytes of a file of an image that are read at a time."""


async def fill(vfs: Vfs, path: str, progress: Progress) -> None:
    """Make what a name leads to complete in the store.

    *Raises*: NameMissing, LayerError, OriginError, StoreError. *Cancellation*: at any time.
    """
    while True:
        inode = await open_path(vfs, path)
        node = vfs.tree.node(inode)
        if isinstance(node, ImageFile):
            await _read_through(vfs, node, progress)
            return
        blob = vfs.files.blob(inode)
        try:
            await blob.fill(partial(_show_present, progress, blob.geometry.size))
            vfs.problems.solved(path)
            return
        except DigestMismatch as exc:
            log.info("%s: %s; trying another way to it, if there is one", path, exc)
        finally:
            vfs.release(inode)


async def _read_through(vfs: Vfs, file: ImageFile, progress: Progress) -> None:
    for offset in range(0, file.member.size, PIECE):
        progress(offset, file.member.size)
        await vfs.rootfs.read_pieces(file, offset, PIECE)
    progress(file.member.size, file.member.size)


async def open_path(vfs: Vfs, path: str) -> int:
    """Look a path up and open it, once more when it has changed in between. *Raises*: as `Vfs.open`."""
    for last in (False, True):
        node: Node = vfs.tree.root
        for part in filter(None, path.split("/")):
            node = await vfs.lookup(node.inode, part)
        try:
            return await vfs.open(node.inode)
        except BlobChanged:
            if last:
                raise
    raise AssertionError


def _show_present(progress: Progress, size: int, present: int) -> None:
    progress(present, size)
