"""Where the bytes of sparse files are in a tar: the four ways in which GNU tar writes them down.  Pure.

The oldest has its map in the header and in blocks after it; those of PAX have it in records (0.0: one for each number;
0.1: one for all) or in front of the content (1.0). A map says which runs of the file are there; the rest is zeros.

*Source*: GNU tar manual, "Storing Sparse Files"; its src/sparse.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lazyfs.errors import LayerError
from lazyfs.layers import bounds, pax
from lazyfs.layers.members import Packing, Piece

BLOCK = 512

Runs = list[tuple[int, int]]
"""Offset and length of each run of a file that is there, in bytes."""


def pieces(runs: Runs, size: int, at: int, stored: int) -> tuple[Piece, ...]:
    """Return the pieces of a file of `size` bytes whose runs lie one after the other, `stored` bytes at `at`.

    *Raises*: LayerError, when the runs overlap, leave the file, or are more or less than what is stored.
    """
    found = []
    done = 0
    here = at
    for offset, length in runs:
        if offset < done or length > size - offset:
            raise LayerError("a sparse file's map is not in order")
        if length == 0:
            continue
        if offset > done:
            found.append(zeros(done, offset - done))
        found.append(Piece(offset, length, here, length))
        done, here = offset + length, here + length
    if here != at + stored:
        raise LayerError("a sparse file's map does not fit its content")
    if done < size:
        found.append(zeros(done, size - done))
    return tuple(found)


def zeros(offset: int, length: int) -> Piece:
    """Return a piece of zeros."""
    return Piece(offset, length, 0, 0, Packing.ZEROS)


def old(header: bytes, block: Callable[[], bytes]) -> tuple[Runs, int]:
    """Return the runs and the size of a file with a header of type S; `block` reads what comes after it.

    *Raises*: LayerError; what `block` raises.
    """
    runs = _entries(header[386:482])
    more = header[482] != 0
    while more:
        if len(runs) * 24 > bounds.HEADER_MAX:
            raise LayerError("a sparse file's map is too long")
        extension = block()
        runs += _entries(extension[:504])
        more = extension[504] != 0
    return runs, _field(header[483:495])


def _entries(table: bytes) -> Runs:
    fields = [table[at : at + 12] for at in range(0, len(table), 12)]
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return [(_field(offset), _field(length)) for offset, length in pairs if offset[0] and length[0]]


def _field(field: bytes) -> int:
    """Return a number of the header: octal digits, or base 256 after a byte of 0x80."""
    if field[0] == 0x80:
        return bounds.number(int.from_bytes(field[1:], "big"), "sparse file's map")
    digits = field.split(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise LayerError("a sparse file's map is not made of numbers")
    return int(digits or b"0", 8)


def in_records(found: list[pax.Record]) -> Runs | None:
    """Return the runs that records say, as in formats 0.0 and 0.1; None when they say none.

    *Raises*: LayerError.
    """
    numbers: list[int] | None = None
    for key, value in found:
        if key == "GNU.sparse.map":
            numbers = [pax.number(word, "sparse file's map") for word in value.split(b",")] if value else []
            break
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            numbers = [] if numbers is None else numbers
            if (len(numbers) % 2 == 0) != (key == "GNU.sparse.offset"):
                raise LayerError("a sparse file's map is not made of pairs")
            numbers.append(pax.number(value, "sparse file's map"))
    return None if numbers is None else _pairs(numbers)


def in_front(block: Callable[[], bytes]) -> Runs:
    """Return the runs that stand in front of the content, as in format 1.0; `block` reads one block of that.

    They are a line with their number, and a line for each number of theirs, filled up to a whole block.

    *Raises*: LayerError; what `block` raises.
    """
    lines: list[bytes] = []
    rest = b""
    wanted = 1
    while len(lines) < wanted:
        *more, rest = (rest + block()).split(b"\n")
        lines += more
        if lines and wanted == 1:
            wanted = 1 + 2 * pax.number(lines[0], "sparse file's map")
        if len(rest) > 20 or len(lines) * 4 > bounds.HEADER_MAX:  # 20 digits are more than any number of ours has
            break
    if len(lines) < wanted:
        raise LayerError("a sparse file's map is damaged or too long")
    return _pairs([pax.number(line, "sparse file's map") for line in lines[1:wanted]])


def _pairs(numbers: list[int]) -> Runs:
    if len(numbers) % 2:
        raise LayerError("a sparse file's map is not made of pairs")
    return list(zip(numbers[::2], numbers[1::2], strict=True))
