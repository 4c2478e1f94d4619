"""The records of the backing store, format 1: this docstring is their specification.  Pure.

FORMAT, a text file:

    format   := "lazyfs store " number "\\n"         number: decimal; this code writes 1 and reads 1

map, one for each blob; all integers little-endian:

    map      := header entry*                        one entry for each block, ceil(size / block_size) of them
    header   := magic version block_size size reserved check          64 bytes in all
    magic    := "lazyfsmp"                           8 bytes
    version  := u32                                  1
    block_size := u32                                a power of two, 64 KiB to 8 MiB
    size     := u64                                  bytes in the blob
    reserved := 32 zero bytes
    check    := u64                                  XXH3-64 of the 56 bytes before it
    entry    := u64                                  0: the block is missing; else the checksum of its bytes

A worked example, a blob of 262,145 bytes whose first block is present:

    6c617a796673 6d70 | 01000000 | 00000400 | 0100040000000000 | 00*32 | check | first block's XXH3-64 | 00*8

uses, one for each blob, a file of hints: whatever it says, only which blocks are evicted first depends on it:

    uses     := use*                                 one for each block; a short file has zeros at its end
    use      := u64                                  0: never used; else 2 * clock + hot (replacement.py)

sums, one for each blob that is known by its digest; what does not match its check is not known:

    sums     := sum sum*                             of the whole, as soon as it has matched; then one for each block
    sum      := u8*24 check                          of a block that was evicted after it was given out
    u8*24    := the first 24 bytes of its SHA-256;   check: u64, their XXH3-64

quota, one for the store; its locks are quota.py's:

    quota    := magic version recounts reserved clock used max_cache min_free check slot*
    magic    := "lazyfsqt"                           8 bytes
    version  := u32                                  1
    recounts := u32                                  how often `used` was made what is there, modulo 2^32
    reserved := 8 zero bytes
    clock    := u64                                  bytes of blob data ever reserved: the store's logical time
    used     := u64                                  bytes of blob data on the disk or reserved, at the most
    max_cache, min_free := u64                       bytes; 0: no bound
    check    := u64                                  XXH3-64 of the 56 bytes before it
    slot     := u64                                  bytes that one process has reserved and may not have written

scrub, one for the store, a text file, a hint: where the scrub goes on (store/scrub.py):

    scrub    := began " " blob_id " " block "\\n"     began: when this round began, seconds since the epoch, decimal

A later version of a map or a quota keeps magic, version and check where they are, so that it can be told from a damaged
one: what is damaged may be dropped, what is newer is refused.

The checksum of a block is its XXH3-64 with seed 0, except that 0 is written as 1, because 0 says "missing". It is
there to find rot, torn writes and holes, not attackers. An entry is 8 bytes at a multiple of 8, so it lies in one
sector and one page: a write of it is seen whole or not at all. A short map, or one that ends in mid-entry, has missing
blocks at its end.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

import xxhash

FORMAT: Final = 1
MIN_BLOCK_SIZE: Final = 64 * 1024
MAX_BLOCK_SIZE: Final = 8 * 1024 * 1024
DEFAULT_BLOCK_SIZE: Final = 256 * 1024

MAP_HEADER_SIZE: Final = 64
ENTRY_SIZE: Final = 8
MISSING: Final = 0

QUOTA_SIZE: Final = 64
SLOT_SIZE: Final = 8
USE_SIZE: Final = 8
SUM_SIZE: Final = 32

_HEADER = struct.Struct("<8sIIQ32x")
_CHECK = struct.Struct("<Q")
_MAGIC = b"lazyfsmp"
_NO_ENTRY = bytes(ENTRY_SIZE)
_QUOTA = struct.Struct("<8sII8xQQQQ")
_QUOTA_MAGIC = b"lazyfsqt"
_FORMAT_PREFIX = "lazyfs store "


class BadRecord(ValueError):
    """Bytes of the store that are not what the format says."""


class NewerRecord(BadRecord):
    """Bytes of the store that a newer lazyfs wrote."""


@dataclass(frozen=True, slots=True)
class MapHeader:
    """What a map says of its blob. *Units*: bytes."""

    block_size: int
    size: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What all processes of a store share about its size. *Units*: bytes; bounds of 0 are none."""

    clock: int = 0
    used: int = 0
    max_cache: int = 0
    min_free: int = 0
    recounts: int = 0


@dataclass(frozen=True, slots=True)
class ScrubPosition:
    """The first block that the scrub has not looked at in this round. *Units*: `began` seconds since the epoch."""

    began: int = 0
    blob_id: str = ""
    block: int = 0


def checksum(block: bytes | bytearray | memoryview) -> int:
    """Return the checksum of a block's bytes; never 0."""
    return xxhash.xxh3_64_intdigest(block) or 1


def valid_block_size(block_size: int) -> bool:
    """Say whether a blob may be cut into blocks of this many bytes."""
    return MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE and block_size & (block_size - 1) == 0


def pack_map_header(header: MapHeader) -> bytes:
    """Encode a map's header."""
    body = _HEADER.pack(_MAGIC, FORMAT, header.block_size, header.size)
    return body + _CHECK.pack(xxhash.xxh3_64_intdigest(body))


def unpack_map_header(data: bytes) -> MapHeader:
    """Decode a map's header. *Raises*: BadRecord, when any bit of it is not as written."""
    if len(data) < MAP_HEADER_SIZE:
        raise BadRecord(f"the map's header is {len(data)} bytes long instead of {MAP_HEADER_SIZE}")
    body = data[: _HEADER.size]
    magic, version, block_size, size = _HEADER.unpack(body)
    if _CHECK.unpack_from(data, _HEADER.size)[0] != xxhash.xxh3_64_intdigest(body):
        raise BadRecord("the map's header does not match its checksum")
    if magic == _MAGIC and version > FORMAT:
        raise NewerRecord(_newer("the map", version))
    if magic != _MAGIC or version != FORMAT or not valid_block_size(block_size):
        raise BadRecord("the map's header is of another format")
    return MapHeader(block_size, size)


def entry_offset(index: int) -> int:
    """Return where in a map the entry of a block is."""
    return MAP_HEADER_SIZE + index * ENTRY_SIZE


def pack_entries(*values: int) -> bytes:
    """Encode entries of a map."""
    return struct.pack(f"<{len(values)}Q", *values)


def unpack_entries(data: bytes, count: int) -> tuple[int, ...]:
    """Decode `count` entries; what `data` is too short for is missing."""
    whole = min(len(data) // ENTRY_SIZE, count)
    return struct.unpack_from(f"<{whole}Q", data) + (MISSING,) * (count - whole)


def count_entries(data: bytes) -> int:
    """Return how many encoded entries are not missing."""
    if _NO_ENTRY not in data:  # twenty times as fast as decoding them
        return len(data) // ENTRY_SIZE
    whole = len(data) // ENTRY_SIZE
    return whole - unpack_entries(data, whole).count(MISSING)


def pack_sum(sha256: bytes) -> bytes:
    """Encode a SHA-256."""
    return sha256[:24] + _CHECK.pack(xxhash.xxh3_64_intdigest(sha256[:24]))


def sum_is_known(data: bytes) -> bool:
    """Say whether an encoded sum is one."""
    return len(data) >= SUM_SIZE and bool(_CHECK.unpack_from(data, 24)[0] == xxhash.xxh3_64_intdigest(data[:24]))


def sum_matches(data: bytes, sha256: bytes) -> bool | None:
    """Say whether an encoded sum is that of `sha256`; None when it is not known."""
    return data[:24] == sha256[:24] if sum_is_known(data) else None


def pack_quota(quota: Quota) -> bytes:
    """Encode the quota without its slots."""
    recounts = quota.recounts & 0xFFFFFFFF
    body = _QUOTA.pack(_QUOTA_MAGIC, FORMAT, recounts, quota.clock, quota.used, quota.max_cache, quota.min_free)
    return body + _CHECK.pack(xxhash.xxh3_64_intdigest(body))


def unpack_quota(data: bytes) -> Quota:
    """Decode the quota. *Raises*: BadRecord, when any bit of it is not as written."""
    if len(data) < QUOTA_SIZE:
        raise BadRecord(f"the quota is {len(data)} bytes long instead of {QUOTA_SIZE}")
    body = data[: _QUOTA.size]
    magic, version, recounts, clock, used, max_cache, min_free = _QUOTA.unpack(body)
    if _CHECK.unpack_from(data, _QUOTA.size)[0] != xxhash.xxh3_64_intdigest(body):
        raise BadRecord("the quota does not match its checksum")
    if magic == _QUOTA_MAGIC and version > FORMAT:
        raise NewerRecord(_newer("the quota", version))
    if magic != _QUOTA_MAGIC or version != FORMAT:
        raise BadRecord("the quota is of another format")
    return Quota(clock, used, max_cache, min_free, recounts)


def pack_scrub(position: ScrubPosition) -> bytes:
    """Encode where the scrub goes on."""
    return f"{position.began} {position.blob_id} {position.block}\n".encode("ascii")


def unpack_scrub(data: bytes) -> ScrubPosition:
    """Decode where the scrub goes on; what makes no sense is the beginning."""
    match = re.fullmatch(rb"([0-9]{1,15}) ([0-9a-z-]{0,80}) ([0-9]{1,15})\n", data)
    return ScrubPosition(int(match[1]), match[2].decode("ascii"), int(match[3])) if match else ScrubPosition()


def pack_format() -> bytes:
    """The content of FORMAT."""
    return f"{_FORMAT_PREFIX}{FORMAT}\n".encode()


def unpack_format(data: bytes) -> int:
    """Return the format number of a store. *Raises*: BadRecord."""
    text = data.decode("ascii", "replace")
    number = text.removeprefix(_FORMAT_PREFIX).strip()
    if not text.startswith(_FORMAT_PREFIX) or not number.isdecimal():
        raise BadRecord("FORMAT does not hold a format number")
    return int(number)


def _newer(what: str, version: int) -> str:
    return f"{what} was written by a newer lazyfs (format {version}, this one knows {FORMAT})"
