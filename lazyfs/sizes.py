"""Sizes as people write and read them: `64K`, `1.5G`, `12.3 MiB`.  Pure."""

from __future__ import annotations

import re

from lazyfs.errors import UsageError

SIZE_MAX = 2**63 - 1
"""The largest size of a file: off_t is a signed 64-bit number."""

_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)


def parse_size(text: str, *, zero: bool = True) -> int:
    """Return the bytes that `text` means: a number, then K, M, G or T for powers of 1024 (also `KB`, `KiB`).

    *Units*: bytes; a fraction of a byte is dropped. `zero` says whether 0 can be meant.
    *Raises*: UsageError when no size, no size that a file can have, or a forbidden zero is written.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text[:40]!r} is not a size: write bytes, or a number with K, M, G or T")
    whole, fraction, unit = match.groups()
    if fraction and not unit:
        raise UsageError(f"{text[:40]!r} is not a size: there are no fractions of a byte")
    factor = 1 << 10 * ("KMGT".index(unit.upper()) + 1) if unit else 1
    # Integers throughout: a float would be off by bytes above 2**53.
    size: int = int(whole) * factor + int(fraction or 0) * factor // 10 ** len(fraction or "")
    if size > SIZE_MAX:
        raise UsageError(f"{text[:40]!r} is more than a file can hold")
    if size == 0 and not zero:
        raise UsageError(f"{text[:40]!r}: the size must be more than zero")
    return size


def format_size(n: int) -> str:
    """Return `n` for a person: `512 B`, `1.0 KiB`, `12.3 MiB`.

    *Units*: `n` is bytes, not negative; the units shown are powers of 1024.
    """
    if n < 1024:
        return f"{n} B"
    value = float(n)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        # 1023.95 and above would be printed as "1024.0" of this unit.
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} EiB"
