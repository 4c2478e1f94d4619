"""Block maps: states from entries and uses, runs, cells, and what is drawn of them."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.blockmap import MISSING, PRESENT, BlockMap, Cell, State, states_of
from lazyfs.cli.drawing import ASCII, UNICODE, Named, lines, svg
from lazyfs.extents import Extent, Geometry
from lazyfs.records import pack_entries

UNIT = 64 * 1024

STATES = st.lists(st.sampled_from(State), max_size=200)


def made(states: list[State], short: int = 0, *, pinned: bool = False) -> BlockMap:
    """Return a map of these states, whose last block lacks `short` bytes."""
    return BlockMap(Geometry(max(0, len(states) * UNIT - short), UNIT), bytearray(states), pinned=pinned)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=40), st.integers(0, 5))
def test_states_are_what_entries_and_uses_say(blocks: list[tuple[int, int]], more: int) -> None:
    entries, uses = (pack_entries(*(block[which] for block in blocks)) for which in (0, 1))
    expected = [(State.HOT if use & 1 else State.PRESENT) if entry else State.MISSING for entry, use in blocks]
    found = states_of(entries, uses, len(blocks) + more)
    assert list(found) == expected + [State.MISSING] * more


@pytest.mark.parametrize("byte", range(8))
def test_an_entry_is_there_with_any_byte_of_it(byte: int) -> None:
    assert list(states_of(pack_entries(1 << 8 * byte, 0), b"", 2)) == [State.PRESENT, State.MISSING]


@given(STATES)
def test_runs_are_maximal_and_cover_each_state(states: list[State]) -> None:
    found = made(states)
    for kind in (PRESENT, MISSING, (State.HOT,), (State.FETCHING,), (State.PRESENT,)):
        runs = list(found.runs(*kind))
        assert [index for run in runs for index in run.blocks()] == [n for n, s in enumerate(states) if s in kind]
        assert all(one.stop < other.start for one, other in itertools.pairwise(runs))


@given(STATES, st.integers(1, 50))
def test_cells_have_all_blocks_between_them(states: list[State], most: int) -> None:
    found = made(states)
    each, cells = found.cells(most)
    assert len(cells) <= most
    assert each & (each - 1) == 0
    assert sum(cell.blocks for cell in cells) == len(states)
    assert sum(cell.present for cell in cells) == found.count(*PRESENT)
    assert sum(cell.fetching for cell in cells) == found.count(State.FETCHING)
    assert each == 1 or len(states) > most * each // 2, "no larger than need be"


@pytest.mark.parametrize(
    ("cell", "state", "quarters"),
    [
        (Cell(8, 0, 0, 0), State.MISSING, 0),
        (Cell(8, 1, 0, 0), State.PRESENT, 1),
        (Cell(8, 7, 3, 0), State.PRESENT, 3),
        (Cell(8, 8, 4, 0), State.PRESENT, 4),
        (Cell(8, 8, 5, 0), State.HOT, 4),
        (Cell(8, 7, 7, 1), State.FETCHING, 3),
    ],
)
def test_what_happens_now_is_shown_first_then_what_most_of_it_is(cell: Cell, state: State, quarters: int) -> None:
    assert (cell.state, cell.quarters) == (state, quarters)


def test_only_what_is_missing_can_be_fetched_and_the_last_block_may_be_short() -> None:
    found = made([State.MISSING, State.PRESENT, State.HOT, State.MISSING], short=1000)
    found.fetched(Extent(0, 3))
    assert list(found.runs(State.FETCHING)) == [Extent(0, 1)]
    assert found.bytes_in(*PRESENT) == 2 * UNIT
    assert found.bytes_in(*MISSING) == 2 * UNIT - 1000
    assert not found.complete


def test_an_empty_blob_is_complete() -> None:
    found = made([])
    assert found.complete
    assert found.cells(10) == (1, [])
    assert svg(Named("url-x", "empty", found)).startswith("<svg")


def drawn(states: list[State], width: int = 40, rows: int = 3, **how: bool) -> list[str]:
    """Return the lines of a map in ASCII."""
    found = lines(Named("url-x", "disk.img", made(states, **how)), width, rows, ASCII, rate=None)
    return [line if isinstance(line, str) else "".join(text for text, _ in line) for line in found]


def test_it_is_drawn_within_its_width_and_rows() -> None:
    states = [State.PRESENT] * 50 + [State.HOT] * 10 + [State.FETCHING] * 4 + [State.MISSING] * 36
    head, scale, *rest = drawn(states)
    assert head == "disk.img: 6.2 MiB in 100 blocks of 64.0 KiB, 60 % present"
    assert scale == "url-x; a character is 2 blocks, 128.0 KiB"
    assert [line.strip() for line in rest[:3]] == [
        f"0 B |{'#' * 24}|",
        "3.0 MiB |#@@@@@>>................|",
        "6.0 MiB |..|",
    ]
    legend = "# present 3.8 MiB (60)   @ hot 640.0 KiB (10)   > being fetched 256.0 KiB (4)   . missing 2.5 MiB (40)"
    assert "   ".join(rest[3:]) == legend
    assert all(len(line) <= 40 for line in rest)


def test_it_says_when_it_is_complete_and_pinned() -> None:
    assert drawn([State.PRESENT] * 3, pinned=True)[0].endswith("3 blocks of 64.0 KiB, complete, pinned")
    nearly = [State.PRESENT] * 2000 + [State.MISSING]
    assert drawn(nearly)[0].endswith("99 % present"), "not all, as long as a block is missing"
    assert drawn(nearly[::-1][:1] * 2000 + [State.PRESENT])[0].endswith("less than 1 % present")


def test_signs_differ_without_colours() -> None:
    for glyphs in (UNICODE, ASCII):
        assert len(set(glyphs.all)) == len(glyphs.all)
    assert ASCII.all.isascii()


def test_a_picture_of_a_million_blocks_is_small_and_holds_nothing_else() -> None:
    states = bytearray(1 << 20)
    states[1000:500_000] = bytes([State.PRESENT]) * 499_000
    named = Named("url-x", '</svg><script>alert("x")</script>\udcff\0', BlockMap(Geometry(1 << 38, 1 << 18), states))
    picture = svg(named)
    assert len(picture) < 20_000
    root = ElementTree.fromstring(picture.encode())
    assert {element.tag.partition("}")[2] for element in root.iter()} == {"svg", "title", "style", "rect", "text"}
    assert "prefers-color-scheme" in picture
    assert not re.search(r"(?:href|src|url\()", picture)
