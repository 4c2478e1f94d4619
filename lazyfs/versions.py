"""Which version of a blob this is, and the id it has in the store.  Pure.

A *validator* tells one version from another: the strong ETag, else Last-Modified and size, else the size alone
(a server that sends neither can only be told apart by that). A weak ETag takes part in the comparison, since a
change of it means a change, but is never sent as a condition (RFC 9110 §13.1.5, §14.2).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NewType

BlobId = NewType("BlobId", str)

_BLOB_ID = re.compile(r"(?:sha256|url)-[0-9a-f]{64}")
_DIGEST = re.compile("sha256:[0-9a-fA-F]{64}")
_START = re.compile(r"(?:sha256|url)-[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of what a URL names, as its origin describes it. *Units*: `size` bytes; the rest as sent."""

    size: int
    etag: str | None = None
    last_modified: str | None = None

    @property
    def strong_etag(self) -> str | None:
        """The ETag when it may stand for the bytes themselves, else None."""
        return self.etag if self.etag and not self.etag.startswith("W/") else None

    @property
    def condition(self) -> str | None:
        """The strong ETag as a request may name it; None for one whose bytes are a guess, since they are not ASCII."""
        return self.strong_etag if self.strong_etag and self.strong_etag.isascii() else None

    @property
    def mtime_ns(self) -> int | None:
        """Last-Modified in nanoseconds since the epoch, or None."""
        return http_date_ns(self.last_modified)


@dataclass(frozen=True, slots=True)
class Known:
    """What a URL named when it was last asked, as far as it must be known to fetch from it.

    *Units*: `head` are the bytes from 0 that came along; `checked_at` seconds since the epoch.
    """

    url: str
    version: Version
    ranged: bool = True
    head: bytes = b""
    checked_at: float = 0.0


def etag_in(headers: Mapping[str, str]) -> str | None:
    """Return the ETag of an answer when it is one (RFC 9110 §8.8.3: quoted, perhaps weak), else None."""
    etag = headers.get("etag", "").strip()
    opaque = etag.removeprefix("W/")
    return etag if len(opaque) >= 2 and opaque[0] == opaque[-1] == '"' and '"' not in opaque[1:-1] else None


def http_date_ns(text: str | None) -> int | None:
    """Return an HTTP date in nanoseconds since the epoch; None for none and for nonsense."""
    if not text:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (ValueError, OverflowError, TypeError):
        return None


def blob_id_for(url: str, version: Version, digest: str | None) -> BlobId:
    """Return the id under which the store keeps this version.

    With a digest (`sha256:HEX`) it is the digest, so the same blob from two URLs is one; without, a SHA-256 over
    URL, validator and size.
    """
    if digest is not None:
        return BlobId("sha256-" + digest.removeprefix("sha256:"))
    validator = version.strong_etag or [version.etag, version.last_modified]
    text = json.dumps([url, validator, version.size], ensure_ascii=True)
    return BlobId("url-" + hashlib.sha256(text.encode("ascii")).hexdigest())


def same_blob(one: Version, other: Version) -> bool:
    """Say whether two versions of what one URL names are one blob."""
    return blob_id_for("", one, None) == blob_id_for("", other, None)


def is_digest(text: str) -> bool:
    """Say whether a text is a SHA-256 as people write it: `sha256:` and 64 hexadecimal digits, small or large."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(blob_id: BlobId) -> str | None:
    """Return the SHA-256, in hexadecimal, that a blob's bytes must have; None for a blob known by its URL."""
    kind, _, digest = blob_id.partition("-")
    return digest if kind == "sha256" else None


def starts_blob_id(text: str) -> bool:
    """Say whether `text` is a blob id or the start of one, with so much of it that it means nothing else."""
    return _START.fullmatch(text) is not None


def is_blob_id(text: str) -> bool:
    """Say whether `text` has the form of a blob id: then it is safe as a file name."""
    return _BLOB_ID.fullmatch(text) is not None
