"""What a command says on stderr, in one voice: `lazyfs: `, what failed and for what, `; ` and what to do.

It is one line, whatever is in a name or in an answer, and no URL in it has a user, a password or a query: also what
others have written, such as click, which repeats what it was given.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final

from lazyfs.errors import one_line

TRACEBACK: Final = "LAZYFS_TRACEBACK"
"""The variable of the environment that has the traceback of a defect shown."""

_USER: Final = re.compile(r"(?<=://)[^/?#\s]*@")

_QUERY: Final = re.compile(r"(://[^?#\s]*)[?#]\S*?(?=['\"),;:.]*(?:\s|$))")


def complain(text: object, name: str = "lazyfs") -> None:
    """Say a line on stderr, if anybody has it open."""
    try:
        print(f"{name}: {redacted(one_line(str(text)))}", file=sys.stderr)
    except OSError:  # a full disk: nobody is left to be told
        sys.stderr = None


def redacted(text: str) -> str:
    """Return a text with the URLs in it as they may be shown."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def of_the_host(exc: OSError) -> str | None:
    """Say what the host does not let a command do; None where that is of no use to anybody."""
    try:
        os.getcwd()  # noqa: PTH109 - of which there is none to be resolved
    except OSError:
        return "the directory that this was started in is gone; change to one that is there, or write absolute paths"
    return f"{exc.filename}: {exc.strerror}" if exc.filename is not None else None


def of_a_defect(exc: BaseException) -> str:
    """Describe what nobody foresaw."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{exc!r} was not foreseen: a defect of lazyfs, please report it; {TRACEBACK}=1 shows where it was met"
