"""The page shell, the plots, and a sweep's report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mpls.report.page import Section, Sheet, page
from mpls.report.plots import accuracy_against_bytes, accuracy_over_time, bars, draw_ranking
from mpls.report.sweep import measure, point_name, ranking_sheet, title, write_sweep

SETTING: dict[str, Any] = {
    "bw": "10-15MB",
    "vary": "",
    "nic": "",
    "workers": 3,
    "topology": "ring",
    "dataset": "digits",
    "model": "simple-mlp",
    "partition": "dirichlet",
    "train": "real",
    "net": "fluid",
    "faults": "",
}


def row(strategy: str, seed: int, accuracy: float) -> dict[str, Any]:
    return {
        **SETTING,
        "strategy": strategy,
        "scheduler": "list",
        "seed": seed,
        "curve": [[1.0, accuracy / 2], [2.0, accuracy]],
        "accuracy": accuracy,
        "bytes": 36_000_000,
        "seconds": 2.0,
        "rounds": 60,
        "wall_s": 3.0,
        "trace_sha256": "ab" * 32,
    }


def spread(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": 0.9 * mean, "high": 1.1 * mean}


def contender(strategy: str, to_target: float | None) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "scheduler": "list",
        "seeds": [1, 2],
        "reached": 0 if to_target is None else 2,
        "seconds_to_target": None if to_target is None else spread(to_target),
        "accuracy": spread(0.9),
        "bytes": spread(36e6),
        "seconds": spread(2.0),
    }


ROWS = [row(strategy, seed, 0.9) for strategy in ("mpls", "local") for seed in (1, 2)]
RANKED = {
    **SETTING,
    "target": 0.9,
    "contenders": [contender("mpls", 1.5), contender("local", None)],
}


def test_a_page_is_one_file_with_the_script_once() -> None:
    figures = [("one", accuracy_over_time(ROWS)), ("two", accuracy_against_bytes(ROWS))]
    html = page("t", "lead", [Section("a", figures=figures), Section("b", figures=figures)])
    assert html.count("<script>/**\n* plotly.js") == 1
    assert html.count("Plotly.newPlot(") >= 4
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="', html)


def test_words_from_outside_are_escaped() -> None:
    html = page("<i>", "a & b", [Section("<b>", "<u>", Sheet(["<h>"], [["<script>x"]]))])
    body = html[html.index("<body>") :]
    assert "&lt;i&gt;" in html
    assert "a &amp; b" in body
    assert not re.search("<(i|b|u|h|script)>", body)


def test_every_axis_of_a_plot_says_what_it_shows() -> None:
    for figure in (accuracy_over_time(ROWS), accuracy_against_bytes(ROWS)):
        assert figure.layout.xaxis.title.text.endswith((", s", ", MB"))
        assert "accuracy" in figure.layout.yaxis.title.text


def test_a_contender_has_one_colour_and_one_entry_in_the_legend() -> None:
    lines = accuracy_over_time(ROWS).data
    assert [line.showlegend for line in lines] == [True, False, True, False]
    assert lines[0].line.color == lines[1].line.color != lines[2].line.color
    bar = bars(RANKED, "seconds_to_target", "s").data[0]
    assert bar.marker.color == lines[0].line.color


def test_bars_leave_out_who_has_no_value() -> None:
    figure = bars(RANKED, "seconds_to_target", "s")
    assert [list(bar.y) for bar in figure.data] == [["mpls"]]
    assert figure.data[0].error_x.array[0] == pytest.approx(0.15)


@pytest.mark.parametrize("settings", [1, 3, 13])
def test_a_ranking_is_drawn_for_any_number_of_settings(settings: int, tmp_path: Path) -> None:
    draw_ranking([RANKED] * settings, [title(RANKED)] * settings, tmp_path / "ranking.png")
    assert (tmp_path / "ranking.png").read_bytes().startswith(b"\x89PNG")


def test_a_measure_has_three_digits_and_an_interval_where_seeds_differ() -> None:
    assert measure({"mean": 12.345, "low": 11.0, "high": 14.1}) == "12.3 [11.0, 14.1]"
    assert measure({"mean": 0.012345, "low": 0.01, "high": 0.02}) == "0.0123 [0.0100, 0.0200]"
    assert measure({"mean": 36e6, "low": 36e6, "high": 36e6}, 1e6) == "36.0"
    assert measure({"mean": 0.0, "low": 0.0, "high": 0.0}) == "0"
    assert measure(None) == "-"


def test_a_table_says_who_misses_the_target_and_lacks_what_is_unknown() -> None:
    heads, rows = ranking_sheet(RANKED)
    assert heads[1] == "to accuracy 0.900, s"
    assert rows[1][:2] == ["local", "0 of 2 reach it"]
    heads, rows = ranking_sheet({**RANKED, "target": None})
    assert heads == ["strategy", "all rounds, s", "pulled, MB"]


def test_a_point_is_named_by_what_tells_it_apart() -> None:
    assert point_name(ROWS[0], ROWS) == "mpls seed 1"
    assert point_name(ROWS[0], ROWS[:2]) == "seed 1"


def test_a_report_has_a_section_for_each_setting_and_tells_what_is_missing(tmp_path: Path) -> None:
    write_sweep(tmp_path, ROWS, [RANKED], missing=2)
    html = (tmp_path / "report.html").read_text()
    assert title(RANKED) in html
    assert "2 more were not finished" in html
    assert "ab" * 32 in html
    assert (tmp_path / "ranking.png").exists()
