"""The standard streams of a command: all three are there, names can be printed, and what cannot be written is said."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING

from lazyfs.errors import LazyfsError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import ReadableBuffer


class OutputError(LazyfsError):
    """What was to be printed cannot be written, but not because nobody reads it: that is a BrokenPipeError."""


class _Output(io.FileIO):
    """Standard output, whose errors are told from those of all the other files that a command writes."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write what there is room for. *Raises*: OutputError; BrokenPipeError."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutputError(f"standard output cannot be written: {exc.strerror}; give it a place with room") from exc


def draws() -> bool:
    """Say whether standard output is a terminal on which there is a way back, and more than text."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def coloured() -> bool:
    """Say whether standard output takes colours. *Source*: no-color.org."""
    return draws() and not os.environ.get("NO_COLOR")


def write_to(place: Path | None, content: bytes) -> None:
    """Write a file, or to standard output where `-` or nothing is said. *Raises*: UsageError; OutputError."""
    if place is None or str(place) == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        place.write_bytes(content)
    except OSError as exc:
        raise UsageError(f"{place} cannot be written: {exc.strerror or exc}; name another file") from exc


def prepare() -> None:
    """Have all of that so.

    In the place of a stream that the caller has closed comes /dev/null: the next file that is opened would have its
    number else, and words written into it. A name that is not UTF-8 is printed byte by byte, and what the caller's
    encoding does not have is written as in Python; who has only ASCII gets UTF-8, as from Python itself (PEP 540).
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free is this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    encoding, terminal = codecs.lookup(sys.stdout.encoding).name, sys.stdout.isatty()
    encoding = "utf-8" if encoding == "ascii" else encoding
    errors = "surrogateescape" if encoding == "utf-8" else "backslashreplace"
    output = io.BufferedWriter(_Output(1, "w", closefd=False))
    sys.stdout = io.TextIOWrapper(output, encoding=encoding, errors=errors, line_buffering=terminal)
