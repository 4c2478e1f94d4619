"""What tools/bench makes of its figures."""

from __future__ import annotations

import pytest

from tools.benching.chart import draw
from tools.benching.origin import Scale
from tools.benching.results import FIGURES, LINES, Judged, Measured, as_json, judge, table

SCALE = Scale(size=1 << 29, link_size=1 << 28, wide_size=1 << 33, reads=200, names=10, runtime=1, rtt=0.02, rate=125e6)


def judged(measured: Measured, line: str) -> list[Judged]:
    """Return the requirements of one line."""
    return judge(measured, SCALE, frozenset({line}))


def test_more_is_better_for_rates_and_medians_are_compared() -> None:
    values = {"lazyfs": [900.0, 1.0, 1000.0], "curl": [899.0, 9000.0, 7.0], "rclone": [700.0], "qemu": [5000.0]}
    beside_curl, beside_peers = judged({"cold": values}, "cold")
    assert (beside_curl.ours, beside_curl.reference, beside_curl.verdict()) == (900, 899, "met")
    assert beside_peers.reference == 700, "qemu caches nothing"
    assert beside_peers.ratio == pytest.approx(9 / 7)
    assert beside_peers.verdict() == "NOT met"


def test_less_is_better_for_times() -> None:
    slower, faster = {"lazyfs": [0.5], "rclone": [0.4]}, {"lazyfs": [0.5], "rclone": [0.6], "httpdirfs": [4.0]}
    assert [each.met for each in judged({"ls": slower}, "ls")] == [False]
    assert [each.met for each in judged({"ls": faster}, "ls")] == [True]


def test_a_random_read_is_held_against_the_round_trip_and_the_transfer_of_a_block() -> None:
    mean, p99 = judged({"random_mean": {"lazyfs": [24.3]}, "random_p99": {"lazyfs": [44.3]}}, "random")
    assert mean.reference == p99.reference == pytest.approx(22.097152)
    assert (mean.met, p99.met) == (True, False)


def test_four_processes_are_held_against_one_of_ours() -> None:
    measured = {
        "alone": {"lazyfs": [2.0], "rclone": [9.0]},
        "four": {"lazyfs": [2.2]},
        "four_origin": {"lazyfs": [1.001]},
    }
    assert [each.met for each in judged(measured, "four")] == [True, False]


def test_what_costs_nothing_beside_what_costs_nothing_is_met() -> None:
    measured = {"cpu_cold": {"lazyfs": [1.0], "rclone": [2.0]}, "cpu_warm": {"lazyfs": [0.0], "httpdirfs": [0.0]}}
    assert [each.verdict() for each in judged(measured, "cpu")] == ["met", "met"]


def test_what_was_not_measured_is_never_met() -> None:
    assert {each.verdict() for line in LINES for each in judged({}, line)} == {"NOT measured"}
    assert [each.verdict() for each in judged({"memory": {"lazyfs": [1.0]}}, "memory")] == ["NOT compared"]


def test_tables_and_chart_have_every_figure_and_subject() -> None:
    measured = {key: {"lazyfs": [3.0, 1.0, 2.0], "local": [12345.6]} for key in FIGURES}
    found = judge(measured, SCALE, frozenset(LINES))
    text = "\n".join(table(measured, found))
    assert all(figure.title in text for figure in FIGURES.values())
    assert "1.000-3.00" in text
    assert "12,346" in text
    chart = draw(as_json(measured, found, {}))
    assert chart.count(">lazyfs<") == chart.count(">local<") == 12
