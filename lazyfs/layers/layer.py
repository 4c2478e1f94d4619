"""One layer of an image, as its manifest names it.  Pure.

*Source*: OCI image-spec v1.1, descriptor.md, and manifest.md; Docker image manifest version 2, schema 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its blob's `digest` (`sha256:HEX`) and `size` in bytes, and where it may be had, in order.

    `annotations` say where an eStargz or a zstd:chunked layer has its table of contents.
    """

    digest: str
    size: int
    media_type: str
    urls: tuple[str, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
