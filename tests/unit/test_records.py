"""The records of the store, to the byte: what is written today is read for ever."""

from __future__ import annotations

import contextlib

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from lazyfs import records, replacement
from lazyfs.records import BadRecord, MapHeader, NewerRecord, ScrubPosition

headers = st.builds(MapHeader, st.sampled_from([1 << n for n in range(16, 24)]), st.integers(0, 2**64 - 1))

EXAMPLE = bytes.fromhex(
    "6c617a7966736d70 01000000 00000400 0100040000000000"  # the worked example of the format
    + "00" * 32
)


def test_the_worked_example() -> None:
    assert records.pack_map_header(MapHeader(256 * 1024, 262_145)) == EXAMPLE + bytes.fromhex("c439e201d909ac29")
    first = records.pack_entries(records.checksum(bytes(256 * 1024)))
    assert first == bytes.fromhex("28b95fe835c0642d")
    assert records.unpack_entries(first + bytes(8), 2) == (0x2D64C035E85FB928, records.MISSING)


@given(headers)
def test_a_header_comes_back(header: MapHeader) -> None:
    packed = records.pack_map_header(header)
    assert len(packed) == records.MAP_HEADER_SIZE
    assert records.unpack_map_header(packed + b"entries") == header


@given(headers, st.integers(0, records.MAP_HEADER_SIZE * 8 - 1))
def test_a_flipped_bit_is_seen(header: MapHeader, bit: int) -> None:
    packed = bytearray(records.pack_map_header(header))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadRecord):
        records.unpack_map_header(bytes(packed))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    with pytest.raises(BadRecord):
        records.unpack_map_header(data)


@pytest.mark.parametrize(
    "body",
    [
        EXAMPLE.replace(b"lazyfsmp", b"lazyfsmq"),
        EXAMPLE.replace(b"\x01\0\0\0", b"\0\0\0\0", 1),
        EXAMPLE.replace(b"\0\0\x04\0", b"\0\0\x05\0", 1),
        EXAMPLE.replace(b"\0\0\x04\0", b"\0\x80\0\0", 1),
    ],
    ids=["magic", "version", "no power of two", "too small"],
)
def test_another_format_is_refused_though_its_check_holds(body: bytes) -> None:
    with pytest.raises(BadRecord, match="of another format"):
        records.unpack_map_header(body + xxhash.xxh3_64_digest(body)[::-1])


@given(st.lists(st.integers(0, 2**64 - 1), max_size=9), st.integers(0, 12), st.integers(0, 7))
def test_a_short_map_ends_in_missing_blocks(entries: list[int], count: int, torn: int) -> None:
    data = b"".join(map(records.pack_entries, entries)) + bytes([255] * torn)
    assert records.unpack_entries(data, count) == tuple((entries + [records.MISSING] * count)[:count])


def test_no_block_has_the_checksum_that_says_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda _: 0)
    assert records.checksum(b"unlucky") == 1


def test_the_format_number() -> None:
    assert records.pack_format() == b"lazyfs store 1\n"
    assert records.unpack_format(records.pack_format()) == 1
    assert records.unpack_format(b"lazyfs store 12\n") == 12


@given(st.binary(max_size=40))
def test_any_bytes_are_a_format_number_or_refused(data: bytes) -> None:
    for candidate in (data, b"lazyfs store " + data):
        with contextlib.suppress(BadRecord):
            assert records.unpack_format(candidate) >= 0


QUOTA = bytes.fromhex(
    "6c617a7966737174 01000000 41424344 0000000000000000"
    "0102030405060708 1112131415161718 2122232425262728 3132333435363738"
    "a0b32ff032af07c9"
)


def test_the_quota() -> None:
    quota = records.Quota(0x0807060504030201, 0x1817161514131211, 0x2827262524232221, 0x3837363534333231, 0x44434241)
    assert records.pack_quota(quota) == QUOTA
    assert records.unpack_quota(QUOTA + b"slots") == quota
    for bit in range(len(QUOTA) * 8):
        flipped = bytearray(QUOTA)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord):
            records.unpack_quota(bytes(flipped))


def test_a_newer_record_is_told_from_a_damaged_one() -> None:
    for record, unpack in ((EXAMPLE, records.unpack_map_header), (QUOTA[:-8], records.unpack_quota)):
        newer = record.replace(b"\x01\0\0\0", b"\x02\0\0\0", 1)
        with pytest.raises(NewerRecord, match=r"newer lazyfs \(format 2, this one knows 1\)"):
            unpack(newer + xxhash.xxh3_64_digest(newer)[::-1])
        with pytest.raises(BadRecord) as caught:
            unpack(newer + bytes(8))
        assert not isinstance(caught.value, NewerRecord)


def test_the_uses() -> None:
    assert replacement.on_arrival(replacement.NEVER, 0x0102, 1) == 0x0204
    assert records.pack_entries(replacement.on_use(0x0204, 0x0304, 1)) == bytes.fromhex("0906000000000000")
    assert records.unpack_entries(bytes.fromhex("0906000000000000 04"), 2) == (0x0609, replacement.NEVER)
    assert records.USE_SIZE == records.SLOT_SIZE == 8


def test_the_sums() -> None:
    sum_ = records.pack_sum(bytes(range(32)))
    assert sum_ == bytes(range(24)) + bytes.fromhex("7a39b5a32a3b17eb")
    assert len(sum_) == records.SUM_SIZE
    assert records.sum_matches(sum_, bytes(range(32))) is True
    assert records.sum_matches(sum_, bytes(32)) is False
    assert records.sum_matches(sum_[:-1] + b"x", bytes(range(32))) is None


def test_where_the_scrub_goes_on() -> None:
    position = ScrubPosition(1_700_000_000, "url-" + "ab" * 32, 7)
    assert records.pack_scrub(position) == b"1700000000 url-" + b"ab" * 32 + b" 7\n"
    assert records.unpack_scrub(records.pack_scrub(position)) == position
    assert records.unpack_scrub(b"1700000000  0\n") == ScrubPosition(1_700_000_000)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_place_for_the_scrub_to_go_on(data: bytes) -> None:
    assert records.unpack_scrub(b"1 url-" + data + b" 7\n").block in (0, 7)


def test_block_sizes() -> None:
    good = [size for size in range(0, records.MAX_BLOCK_SIZE * 2 + 1, 1024) if records.valid_block_size(size)]
    assert good == [1 << n for n in range(16, 24)]
