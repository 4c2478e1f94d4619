"""What is known of a URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lazyfs.urls import last_segment


@dataclass(frozen=True, slots=True)
class Info:
    """What a URL names. *Units*: bytes; `mtime_ns` nanoseconds since the epoch.

    What an index lists has a size only where the index prints it exactly, and neither ETag nor blob: `info` of its URL
    has them. `cached` is how many of its bytes are in the store.
    """

    url: str
    kind: Literal["file", "directory"]
    size: int | None = None
    mtime_ns: int | None = None
    etag: str | None = None
    blob: str | None = None
    cached: int | None = None

    @property
    def name(self) -> str:
        """The last part of its path, percent-decoded."""
        return last_segment(self.url.partition("?")[0].rstrip("/"))
