"""README.md taken apart: its blocks by section, the names in its text, its headings and links.

A block says with its first word what it is, and with the next, where it is a file, what that is called:

    ```sh              commands
    ```console         commands, each behind "$ ", and what they print
    ```python          a program
    ```toml disks.toml a file, for the commands after it in the same section; any other first word means a file, too
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.mounts import ROOT

README: Final = ROOT / "README.md"

_TAG: Final = re.compile(r"""<(?:a|img)\b[^>]*?(?:href|src)="([^"]+)\"""")


@dataclass(frozen=True)
class Block:
    """A block; `section` is the heading that it stands below, as an anchor, and `number` counts from 1 there."""

    section: str
    number: int
    info: tuple[str, ...]
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.section}-{self.number}"

    @property
    def kind(self) -> str:
        """The first word of its info string; empty where nobody has said what it is."""
        return self.info[0] if self.info else ""

    @property
    def file(self) -> str | None:
        """The name of the file that it is, if it is one."""
        return self.info[1] if len(self.info) == 2 else None

    @property
    def runs(self) -> bool:
        """Whether it is run: as commands, or as a program."""
        return self.info in {("sh",), ("console",), ("python",)}


@dataclass(frozen=True)
class Page:
    """What is on it: `code` has all that stands `so`, `links` where links and pictures lead, `anchors` the headings."""

    blocks: tuple[Block, ...]
    code: tuple[str, ...]
    links: tuple[str, ...]
    anchors: frozenset[str]

    @property
    def sections(self) -> dict[str, list[Block]]:
        """The blocks of each section, in order."""
        found: dict[str, list[Block]] = {}
        for block in self.blocks:
            found.setdefault(block.section, []).append(block)
        return found


def read(path: Path = README) -> Page:
    """Take a page apart."""
    blocks: list[Block] = []
    code: list[str] = []
    links: list[str] = []
    anchors: set[str] = set()
    section, number = "", 0
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text())
    for before, token in pairwise([tokens[0], *tokens]):
        if before.type == "heading_open" and token.type == "inline":
            anchors.add(anchor(token.content))
            if before.tag in ("h1", "h2", "h3"):
                section, number = anchor(token.content), 0
        if token.type in ("fence", "code_block"):
            number += 1
            line = token.map[0] + 1 if token.map else 0
            blocks.append(Block(section, number, tuple(token.info.split()), token.content, line))
        code += [piece.content for piece in _inline(token) if piece.type == "code_inline"]
        links += _links(token)
    return Page(tuple(blocks), tuple(code), tuple(links), frozenset(anchors))


def anchor(heading: str) -> str:
    """Return what a heading is linked by, as forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _inline(token: Token) -> Iterator[Token]:
    yield from token.children or ()


def _links(token: Token) -> Iterator[str]:
    for piece in (token, *_inline(token)):
        for name in ("href", "src"):
            if name in piece.attrs:
                yield str(piece.attrs[name])
        if piece.type in ("html_block", "html_inline"):
            yield from _TAG.findall(piece.content)
