"""A block map as lines of text, and as an SVG.

A character stands for one or more blocks. It says all, so that the picture is the same without colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Final

from lazyfs.blockmap import MISSING, PRESENT, BlockMap, Cell, State
from lazyfs.cli.screen import Line, Span
from lazyfs.sizes import format_size

ROWS: Final = 24
"""Rows of a map at the most, where no terminal says how many fit."""

SVG_COLUMNS: Final = 128
SVG_ROWS: Final = 64

_SVG_CELL: Final = 8
"""Units of a cell's side."""

_COLOURS: Final = {
    State.MISSING: "bright_black",
    State.PRESENT: "green",
    State.HOT: "yellow",
    State.FETCHING: "bright_cyan",
}


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What cells look like; `present` by how many quarters of a cell are."""

    missing: str
    present: str
    hot: str
    fetching: str
    edge: str

    def of(self, cell: Cell) -> str:
        """Return the character of a cell."""
        match cell.state:
            case State.MISSING:
                return self.missing
            case State.PRESENT:
                return self.present[cell.quarters - 1]
            case State.HOT:
                return self.hot
            case State.FETCHING:
                return self.fetching

    @property
    def all(self) -> str:
        """All of them."""
        return self.missing + self.present + self.hot + self.fetching + self.edge


UNICODE: Final = Glyphs("·", "░▒▓█", "▚", "▸", "│")
ASCII: Final = Glyphs(".", "-=+#", "@", ">", "|")


@dataclass(frozen=True, slots=True)
class Named:
    """A block map, and what it is of."""

    blob_id: str
    name: str
    map: BlockMap

    @property
    def headline(self) -> str:
        """What it is, and how much of it is here."""
        geometry = self.map.geometry
        blocks = f"{geometry.blocks} block{'s' * (geometry.blocks != 1)} of {format_size(geometry.block_size)}"
        return f"{self.name}: {format_size(geometry.size)} in {blocks}, {self.share}"

    @property
    def share(self) -> str:
        """How much of it is here, in words; not all, as long as a byte is missing."""
        pinned = ", pinned" * self.map.pinned
        if self.map.complete:
            return "complete" + pinned
        percent = 100 * self.map.bytes_in(*PRESENT) / self.map.geometry.size
        return ("less than 1 %" if 0 < percent < 1 else f"{min(99, int(percent))} %") + " present" + pinned


def lines(named: Named, width: int, rows: int, glyphs: Glyphs, *, rate: float | None = None) -> list[Line]:
    """Return the map in lines, at most `rows` of them for the cells, each of `width` characters or less, 22 at least.

    *Units*: `rate` bytes a second that came in, to be shown.
    """
    size = named.map.geometry.size
    label = max(len(format_size(size)), len("1023.9 MiB"))
    columns = max(8, (width - label - 4) // 8 * 8)
    each, cells = named.map.cells(columns * max(1, rows))
    stands_for = f"{each} blocks" if each > 1 else "a block"
    scale = f"{stands_for}, {format_size(each * named.map.geometry.block_size)}"
    found: list[Line] = [named.headline, f"{named.blob_id}; a character is {scale}"]
    for first in range(0, len(cells), columns):
        row = cells[first : first + columns]
        at = format_size(first * each * named.map.geometry.block_size).rjust(label)
        spans = [(glyphs.of(cell), _COLOURS[cell.state]) for cell in row]
        found.append([(f"{at} {glyphs.edge}", ""), *_joined(spans), (glyphs.edge, "")])
    return [*found, *_wrapped(_legend(named.map, glyphs, rate), width)]


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    for colour, group in groupby(spans, key=lambda span: span[1]):
        yield "".join(text for text, _ in group), colour


def amounts(found: BlockMap) -> dict[str, tuple[int, int]]:
    """Return how many blocks and bytes are in each state, as people are shown them: hot ones are present, too."""
    kinds = {"present": PRESENT, "hot": (State.HOT,), "being fetched": (State.FETCHING,), "missing": MISSING}
    return {name: (found.count(*states), found.bytes_in(*states)) for name, states in kinds.items()}


def _legend(found: BlockMap, glyphs: Glyphs, rate: float | None) -> list[list[Span]]:
    signs = {
        "present": (glyphs.present[3], State.PRESENT), "hot": (glyphs.hot, State.HOT),
        "being fetched": (glyphs.fetching, State.FETCHING), "missing": (glyphs.missing, State.MISSING),
    }  # fmt: skip
    items = []
    for name, (blocks, size) in amounts(found).items():
        sign, state = signs[name]
        items.append([(sign, _COLOURS[state]), (f" {name} {format_size(size)} ({blocks})", "")])
    if rate is not None:
        items.append([(f"{format_size(round(rate))}/s came in", "")])
    return items


def _wrapped(items: list[list[Span]], width: int) -> Iterator[Line]:
    line: list[Span] = []
    for item in items:
        if line and sum(len(text) for text, _ in [*line, *item]) + 3 > width:
            yield line
            line = []
        line += [("   ", ""), *item] if line else item
    yield line


_STYLE: Final = """
svg { font: 13px system-ui, sans-serif; --ink: #1b2330; --soft: #5b6675; --paper: #ffffff; --missing: #e3e7ee;
  --present: #2f7d5b; --hot: #d97706; --fetching: #2563eb }
@media (prefers-color-scheme: dark) { svg { --ink: #e6eaf0; --soft: #9aa6b5; --paper: #12161d; --missing: #262d38;
  --present: #4fb286; --hot: #f5a524; --fetching: #6aa5ff } }
.paper { fill: var(--paper) } text { fill: var(--ink) } .soft { fill: var(--soft) }
.title { font-weight: 600; font-size: 16px }
.m { fill: var(--missing) } .p { fill: var(--present) } .h { fill: var(--hot) } .f { fill: var(--fetching) }
"""

_CLASSES: Final = {State.MISSING: "m", State.PRESENT: "p", State.HOT: "h", State.FETCHING: "f"}


def svg(named: Named) -> str:
    """Return the map as a picture that needs nothing else; equal neighbours in a row are one shape."""
    each, cells = named.map.cells(SVG_COLUMNS * SVG_ROWS)
    columns = min(SVG_COLUMNS, max(32, len(cells)))
    rows = -(-len(cells) // columns)
    width, top = columns * _SVG_CELL + 32, 64
    width, bottom = max(width, 768), top + rows * _SVG_CELL
    title = escape(_shown(named.name))
    scale = f"each cell is {each} block{'s' * (each != 1)}, {format_size(each * named.map.geometry.block_size)}"
    about = escape(_shown(named.headline.removeprefix(f"{named.name}: ")))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 56}" role="img">',
        f"<title>{title}: {about}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{bottom + 56}"/>',
        f'<text class="title" x="16" y="28">{title}</text>',
        f'<text class="soft" x="16" y="48">{about}; {scale}</text>',
        *(shape for row in range(rows) for shape in _row(cells[row * columns : (row + 1) * columns], row, top)),
        *_svg_legend(named.map, bottom + 28),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _row(cells: Sequence[Cell], row: int, top: int) -> Iterator[str]:
    column = 0
    for (state, quarters), group in groupby(cells, key=lambda cell: (cell.state, cell.quarters)):
        count = len(list(group))
        fill = 1.0 if state in (State.MISSING, State.FETCHING) else 0.25 + 0.1875 * quarters
        opacity = "" if fill == 1 else f' opacity="{fill:g}"'
        place = f'x="{16 + column * _SVG_CELL}" y="{top + row * _SVG_CELL}"'
        size = f'width="{count * _SVG_CELL}" height="{_SVG_CELL - 1}"'
        yield f'<rect class="{_CLASSES[state]}" {place} {size}{opacity}/>'
        column += count


def _svg_legend(found: BlockMap, y: int) -> Iterator[str]:
    classes = {"present": "p", "hot": "h", "being fetched": "f", "missing": "m"}
    for number, (name, (_, size)) in enumerate(amounts(found).items()):
        x = 16 + number * 184
        yield f'<rect class="{classes[name]}" x="{x}" y="{y - 11}" width="12" height="12"/>'
        yield f'<text x="{x + 18}" y="{y}">{name} {format_size(size)}</text>'


def _shown(text: str) -> str:
    """Return a text without what no XML may hold."""
    return "".join(character if character.isprintable() else "?" for character in text)
