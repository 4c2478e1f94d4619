"""A blob that is given a name: all that is needed to serve it without asking anybody what it is.  Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazyfs.errors import UsageError
from lazyfs.versions import BlobId, Known, Version, digest_of, is_blob_id


@dataclass(frozen=True, slots=True)
class GivenBlob:
    """A blob, the version of a URL that it is, and where else it may be had. The URL may hold secrets: never show it.

    *Units*: `checked_at` seconds since the epoch: when its origin was asked.
    """

    blob_id: BlobId
    url: str
    version: Version
    ranged: bool = True
    mirrors: tuple[str, ...] = ()
    checked_at: float = 0.0

    @property
    def known(self) -> Known:
        """What its URL named."""
        return Known(self.url, self.version, self.ranged, checked_at=self.checked_at)

    @property
    def digest(self) -> str | None:
        """Its digest, as sources write it."""
        digest = digest_of(self.blob_id)
        return f"sha256:{digest}" if digest else None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> GivenBlob:
        """Read what `as_dict` gave. *Raises*: UsageError, when it is no blob."""
        try:
            given = cls(
                fields["blob_id"], fields["url"], Version(**fields["version"]), fields["ranged"],
                tuple(fields["mirrors"]), fields["checked_at"],
            )  # fmt: skip
        except (KeyError, TypeError) as exc:
            raise UsageError(f"the blob to be named is not described ({exc})") from None
        if not is_blob_id(given.blob_id):
            raise UsageError("the blob to be named has no blob id")
        return given
