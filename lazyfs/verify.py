"""A blob known by its digest becomes whole only when it matches: the block that would complete it waits for that.

Which block that is, is settled at the gate, a lock that any two processes with this blob pass one after the other:

    at the gate: is any other block missing? ── yes ── record this one
                     └ no ── leave the gate; hash the whole, this block from memory ── matches ── record it
                                                                  └ does not ── all of it goes to the trash

Nobody completes the blob behind the verifier's back, since the block that is missing is locked by the verifier. Should
another block be found damaged or evicted meanwhile, the question is put again. So what is recorded is never a whole
blob that has not matched, and as nobody is given a block of such a blob before it is recorded, nobody reads a wrong one
to its end.

A block may be evicted after it was given out. What it was is remembered then, and when it comes once more it has to be
that: else one reader could have a wrong block of a blob that matches in the end. A blob that has matched once need not
be hashed again for a block that is what it was.

What the store cannot keep whole, because its bound is smaller, is never whole, and so never checked as such.

On a mismatch the blob's directory is set aside, in use as it is: every process that has it open keeps its own files and
comes to the same end, while whoever opens the blob from then on begins anew.
"""

from __future__ import annotations

import hashlib

from lazyfs.errors import DigestMismatch
from lazyfs.extents import Block
from lazyfs.store import BlobFile


def record_verified(file: BlobFile, index: int, block: Block, checksum: int, digest: str, shown: str) -> None:
    """Record a block whose bytes are in place, verifying the whole first when no other is missing.

    Blocks on the disk for as long as hashing the blob takes. `checksum` is what `write` returned, `digest` what the
    whole must have, `shown` the redacted URL for the error.

    *Raises*: DigestMismatch; OSError. *Locks*: the block's, held; takes the gate for moments.
    """
    as_before = _is_as_before(file, index, block, shown)
    while True:
        with file.gate():
            if not file.only_missing(index):
                file.record(index, checksum)
                return
        if as_before and file.was_whole(digest):
            file.record(index, checksum)
            return
        found = _digest_with(file, index, block)
        if found == digest:
            file.sync()  # else a power loss could bring back, beside this entry, what another block was before
            file.note_whole(digest)
            file.record(index, checksum)
            return
        if found is not None:
            reason = f"all of it was fetched, and its digest is sha256:{found}, not sha256:{digest}"
            raise DigestMismatch(shown, f"{reason}; it was thrown away")


def check_unrecorded(file: BlobFile, index: int, block: Block, shown: str) -> None:
    """See that a block which is given out and not kept is always the same.

    *Raises*: DigestMismatch; OSError. *Locks*: the block's, held.
    """
    if _is_as_before(file, index, block, shown) is None:
        file.note_sum(index, block)


def _is_as_before(file: BlobFile, index: int, block: Block, shown: str) -> bool | None:
    as_before = file.is_as_before(index, block)
    if as_before is False:
        raise DigestMismatch(shown, "a part of it that came once more is not what it was; all of it was thrown away")
    return as_before


def _digest_with(file: BlobFile, index: int, block: Block) -> str | None:
    """Return the digest of the blob with one block from memory; None when another one is missing after all.

    A block that is damaged, or cannot be read, is one more that is missing. *Raises*: OSError.
    """
    hashed = hashlib.sha256()
    for other in range(file.geometry.blocks):
        piece = block if other == index else _readable(file, other)
        if piece is None:
            file.forget(other)
            return None
        hashed.update(piece)
    return hashed.hexdigest()


def _readable(file: BlobFile, index: int) -> Block | None:
    try:
        return file.read(index, wait=True)
    except OSError:
        return None
