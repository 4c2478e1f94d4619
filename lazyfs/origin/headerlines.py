"""Headers as the user writes them, with `--header` or in a file, a header a line.  Pure.

Every failure is a UsageError that names the place and, at most, the header: never its value, which may be a secret.
"""

from __future__ import annotations

import re
from typing import Final

from lazyfs.errors import UsageError

OURS: Final = frozenset({
    "accept-encoding", "connection", "content-length", "if-match", "if-modified-since", "if-none-match", "if-range",
    "if-unmodified-since", "range", "te", "transfer-encoding", "upgrade",
})  # fmt: skip
"""Headers that say which bytes come and how: with one of them from outside, no answer would prove anything."""


def parse_header(text: str, where: str) -> tuple[str, str]:
    """Read `Name: value`. `where` is the option or the file and line. *Raises*: UsageError.

    *Source*: RFC 9110 §5.1, §5.5.
    """
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        raise UsageError(f"{where}: a header is written as 'Name: value'")
    if not (value.isascii() and value.replace("\t", " ").isprintable()):
        raise UsageError(f"{where}: the value of {name} is not one line of ASCII")
    if name.lower() in OURS:
        raise UsageError(f"{where}: {name} is lazyfs's own to send")
    return name, value


def parse_header_lines(content: bytes, where: str) -> tuple[tuple[str, str], ...]:
    """Read a header file, called `where`; empty lines and those that start with `#` say nothing.

    *Raises*: UsageError, which names the line.
    """
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        lines = None
    if lines is None:  # out here, for an error that has no such cause: it would hold the content
        raise UsageError(f"{where} is not text")
    return tuple(
        parse_header(line, f"{where}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    )
