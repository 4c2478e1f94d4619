"""A chart of the medians for the README: an SVG by hand, on no background, in colours for white and for black."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from tools.benching.results import FIGURES, OURS, number

SHOWN = (
    "cold", "tls", "link", "warm_sequential", "warm_random", "warm_jobs",
    "random_mean", "first", "four", "ls", "cpu_cold", "memory",
)  # fmt: skip
"""The figures that are drawn, as far as they were measured."""

COLUMNS = 3
WIDTH, BAR, LEFT, RIGHT = 300, 17, 86, 54
GREY, ACCENT = "#7d8590", "#d2691e"


def draw(results: Mapping[str, Any]) -> str:
    """Return the chart of what `results.as_json` returned."""
    shown = [(key, results["figures"][key]) for key in SHOWN if key in results["figures"]]
    rows = [shown[start : start + COLUMNS] for start in range(0, len(shown), COLUMNS)]
    parts, top = list[str](), 0
    for row in rows:
        for column, (key, figure) in enumerate(row):
            parts += _panel(key, figure, column * WIDTH, top)
        top += 40 + BAR * max(len(figure["subjects"]) for _, figure in row)
    size = f'width="{COLUMNS * WIDTH}" height="{top}" viewBox="0 0 {COLUMNS * WIDTH} {top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" fill="{GREY}">'
    return "\n".join([head, *parts, "</svg>", ""])


def _panel(key: str, figure: Mapping[str, Any], left: int, top: int) -> Iterator[str]:
    """Yield one figure: a bar for each subject, the best first."""
    medians = {name: values["median"] for name, values in figure["subjects"].items()}
    better = "more is better" if FIGURES[key].more else "less is better"
    most, room = max(medians.values()) or 1.0, WIDTH - LEFT - RIGHT
    yield f'<text x="{left + 4}" y="{top + 14}" font-weight="bold">{escape(figure["title"])}</text>'
    yield f'<text x="{left + 4}" y="{top + 27}" font-size="9">{escape(figure["unit"])}, {better}</text>'
    for place, name in enumerate(sorted(medians, key=lambda name: medians[name], reverse=FIGURES[key].more)):
        base = top + 32 + place * BAR
        length = max(1.0, room * medians[name] / most)
        colour = ACCENT if name == OURS else GREY
        weight = ' font-weight="bold"' if name == OURS else ""
        yield (
            f'<g fill="{colour}"{weight}>'
            f'<text x="{left + LEFT - 6}" y="{base + 11}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left + LEFT}" y="{base + 2}" width="{length:.1f}" height="{BAR - 5}" rx="2"/>'
            f'<text x="{left + LEFT + length + 4:.1f}" y="{base + 11}">{number(medians[name])}</text></g>'
        )
