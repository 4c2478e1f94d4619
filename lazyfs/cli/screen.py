"""Standard output for what is shown again and again: blocks of lines, on a terminal one over the other, in colour."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import click

from lazyfs.cli import streams

_UP: Final = "\x1b[{}F"
_CLEAR: Final = "\x1b[J"

Span = tuple[str, str]
"""Some text and the name of its colour, empty for the terminal's own."""

Line = str | Sequence[Span]


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        self._drawn = 0  # lines of the last block, on a terminal
        self._draws = streams.draws()
        self._colour = streams.coloured()

    def draw(self, lines: Sequence[Line]) -> None:
        """Show a block, on a terminal over the last one and cut to what fits."""
        if not self._draws:
            self.show([*lines, ""])
            return
        width, height = shutil.get_terminal_size()
        fitting = [self._styled(line, width - 1) for line in lines[: height - 1]]
        back = _UP.format(self._drawn) if self._drawn else ""
        click.echo(back + _CLEAR + "\n".join(fitting), color=True)  # else it would drop these, too
        self._drawn = len(fitting)

    def show(self, lines: Sequence[Line]) -> None:
        """Show lines, once."""
        click.echo("\n".join(self._styled(line) for line in lines), color=self._colour)

    def _styled(self, line: Line, width: int | None = None) -> str:
        characters = [(character, colour) for text, colour in _spans(line) for character in text][:width]
        styled = ""
        for colour, group in groupby(characters, key=lambda one: one[1]):
            text = "".join(character if character.isprintable() else "?" for character, _ in group)
            styled += click.style(text, fg=colour) if colour and self._colour else text
        return styled


def _spans(line: Line) -> Sequence[Span]:
    return [(line, "")] if isinstance(line, str) else line


def encodes(text: str) -> bool:
    """Say whether standard output can show a text: not in the locale C, whatever Python makes of that."""
    words = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    if next(filter(None, words), "") in ("C", "POSIX"):
        return False
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
