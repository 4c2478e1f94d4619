"""The backing store: one directory that every process naming it shares.  Opening it is the way in."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from lazyfs import records
from lazyfs.errors import StoreError
from lazyfs.store import trash
from lazyfs.store.blobfile import BlobFile, open_blob, open_known
from lazyfs.store.catalogue import BlobRow, Catalogue
from lazyfs.store.layout import Layout, default_path, open_layout
from lazyfs.versions import BlobId

__all__ = ["BlobFile", "BlobRow", "Store", "default_path"]


@dataclass(frozen=True, slots=True)
class Store:
    """An open backing store. *Units*: `block_size` bytes, for blobs that are new to it."""

    layout: Layout
    catalogue: Catalogue
    block_size: int

    @classmethod
    def open(cls, path: Path, block_size: int = records.DEFAULT_BLOCK_SIZE) -> Store:
        """Open the store at `path`, making it if need be. *Raises*: StoreError with one line."""
        layout = open_layout(path.absolute())
        try:
            return cls(layout, Catalogue(layout.catalogue), block_size)
        except BaseException:
            layout.close()
            raise

    def close(self) -> None:
        """Close it; blobs that are still open stay so."""
        self.catalogue.close()
        self.layout.close()

    def open_blob(self, blob_id: BlobId, url: str, size: int) -> BlobFile:
        """Open a blob, making it when it is new; blocks on the disk. *Raises*: StoreError, OSError."""
        blob = open_blob(self.layout, blob_id, size, self.block_size)
        try:
            self.catalogue.add_blob(blob_id, url, size, blob.geometry.block_size)
        except StoreError:
            blob.close()
            raise
        return blob

    def sweep(self) -> None:
        """Delete what was left in the trash; blocks on the disk. *Raises*: OSError."""
        trash.sweep(self.layout)

    def present_bytes(self, blob_id: BlobId, size: int) -> int:
        """Return how many bytes of a blob the store has; blocks on the disk. *Raises*: OSError."""
        try:
            with contextlib.closing(open_known(self.layout, blob_id, size)) as blob:
                return blob.present_bytes()
        except FileNotFoundError:
            return 0

    def bytes_on_disk(self) -> int:
        """Return the bytes of blob data that the store keeps on disk; blocks on the disk."""
        total = 0
        for shelf in os.scandir(self.layout.path / "blobs"):
            for blob in os.scandir(shelf):
                try:
                    total += os.stat(os.path.join(blob.path, "data"), follow_symlinks=False).st_blocks * 512
                except (FileNotFoundError, NotADirectoryError):
                    continue
        return total
