"""Which blob of a store is meant, by its id or the start of it, and what is known of it: all that it takes to read it.

Asks no origin.
"""

from __future__ import annotations

from lazyfs import urls
from lazyfs.errors import SourceError, StoreError
from lazyfs.given import GivenBlob
from lazyfs.sizes import format_size
from lazyfs.store import BlobRow, Store
from lazyfs.store import layout as layouts
from lazyfs.versions import BlobId, Version, blob_id_for, digest_of, same_blob


def with_start(store: Store, start: str) -> BlobId:
    """Return the one blob whose id starts so. *Raises*: StoreError."""
    ids = {row.blob_id for row in store.catalogue.blobs()} | set(layouts.blob_ids(store.layout))
    matching = sorted(blob_id for blob_id in ids if blob_id.startswith(start))
    if not matching:
        raise StoreError(f"the store {store.layout.path} has no blob {start}; see: lazyfs ls")
    if len(matching) > 1:
        raise StoreError(f"{start} is the start of {len(matching)} blobs; write more of it, as in {matching[0]}")
    return matching[0]


def row_of(store: Store, blob_id: BlobId) -> BlobRow:
    """Return what the catalogue says of a blob. *Raises*: StoreError, when it knows nothing."""
    row = store.catalogue.blob(blob_id)
    if row is None:
        raise StoreError(f"{blob_id} is not known to the catalogue: use its URL, or let lazyfs gc see to it")
    return row


def described(store: Store, row: BlobRow) -> tuple[GivenBlob, str]:
    """Describe a blob by what the catalogue knows of it, and say why not all of it might be had, where that is so.

    *Raises*: SourceError, when what the store lacks of it could not be fetched; StoreError.
    """
    seen = store.catalogue.version_of(row.blob_id)
    cut = seen is not None and seen[0] != urls.key(row.url)
    known = None if cut else store.catalogue.known(row.url)
    version = seen[1] if seen is not None else None
    if version is None and known is not None and blob_id_for(known.url, known.version, None) == row.blob_id:
        version = known.version
    warning, cached = "", store.present_bytes(row.blob_id)
    if cached < row.size:
        lacking = f"{format_size(row.size - cached)} of {format_size(row.size)}"
        provable = digest_of(row.blob_id) or (version and (version.etag or version.last_modified or not cut))
        if not row.url or not provable:
            raise SourceError(
                f"{row.blob_id}: {lacking} are not in the store, and it does not know where: name its URL"
            )
        if cut:
            warning = (
                f"{row.blob_id[:20]}: the store does not keep the query or the user of {row.url}, so the"
                f" {lacking} that it lacks may not be had; fetch them first"
            )
    ranged = known is None or version is None or not same_blob(known.version, version) or known.ranged
    return GivenBlob(row.blob_id, row.url, version or Version(row.size), ranged), warning
