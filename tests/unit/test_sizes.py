"""Sizes as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.errors import UsageError
from lazyfs.sizes import SIZE_MAX, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64K", 65536),
        ("64k", 65536),
        ("64KB", 65536),
        ("64 KiB", 65536),
        ("512B", 512),
        ("1.5G", 3 << 29),
        ("8M", 8 << 20),
        ("2T", 2 << 40),
        (" 1G\n", 1 << 30),
        ("1.1K", 1126),
        ("9223372036854775807", SIZE_MAX),
    ],
)
def test_what_people_write(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "K",
        "-1",
        "-1K",
        "1.5",
        "1.5B",
        "1e6",
        "0x10",
        "1,5G",
        "1P",
        "1iB",
        "1 2",
        "٣",
        "nan",
        "9" * 5000,
        "9223372036854775808",
        "8388608T",
    ],
)
def test_nonsense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_zero_is_refused_where_it_cannot_be_meant() -> None:
    assert parse_size("0K", zero=True) == 0
    for text in ("0", "0.0T", "0.0001K"):
        with pytest.raises(UsageError, match="more than zero"):
            parse_size(text, zero=False)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (12_900_000, "12.3 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),  # not "1024.0 KiB"
        (3_000_000_000, "2.8 GiB"),
        (SIZE_MAX, "8.0 EiB"),
    ],
)
def test_what_people_read(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, SIZE_MAX), st.sampled_from("KMGT"))
def test_whole_numbers_of_a_unit_are_exact(n: int, unit: str) -> None:
    factor = 1024 ** ("KMGT".index(unit) + 1)
    n //= factor
    assert parse_size(f"{n}{unit}") == n * factor


@given(st.integers(1024, 1 << 49))
def test_a_formatted_size_reads_back_within_its_rounding(n: int) -> None:
    assert parse_size(format_size(n)) == pytest.approx(n, rel=0.051)
