"""A live run beside its twin: the sections that `python -m sim compare` adds to the page.

Everything here is a function of plain numbers: pulls as (source, target, start, seconds, bytes)
rows, round times as lists, curves as points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpls.report.page import Section, Sheet
from mpls.report.plots import blank_figure

Row = Mapping[str, Any]
LIVE, TWIN = "#1f6fb4", "#d9622b"
GANTT_S = 20.0
"""Of the run's beginning: more is no picture any more."""


def verdicts(metrics: Sequence[Row]) -> Section:
    """The table of all metrics."""
    rows = [
        [
            f"{row['number']} {row['metric']}",
            row["goal"],
            row["shown"],
            "" if row["signed_error"] is None else f"{row['signed_error']:+.1%}",
            row["verdict"],
        ]
        for row in metrics
    ]
    heads = ("metric", "goal", "value", "twin is off by", "verdict")
    notes = {f"{row['number']}: {row['note']}." for row in metrics if row["note"]}
    return Section("Live against simulated", " ".join(sorted(notes)), Sheet(heads, rows))


def gantt(live: Sequence[Row], twin: Sequence[Row]) -> Section:
    """Pulls over time, live above simulated, a line for each worker that pulls."""
    figure = blank_figure("seconds since the run began", "", 420)
    for name, colour, pulls in (("live", LIVE, live), ("simulated", TWIN, twin)):
        shown = [pull for pull in pulls if pull["start_s"] <= GANTT_S]
        figure.add_bar(
            x=[pull["seconds"] for pull in shown],
            base=[pull["start_s"] for pull in shown],
            y=[f"{pull['target']} {name}" for pull in shown],
            orientation="h",
            name=name,
            marker={"color": colour, "line": {"color": "white", "width": 0.5}},
            text=[f"from {pull['source']}, {pull['bytes'] / 1e6:.2f} MB" for pull in shown],
            textposition="none",
            hovertemplate="%{text}<br>%{base:.3f} s, for %{x:.3f} s<extra></extra>",
        )
    figure.update_layout(barmode="overlay")
    figure.update_yaxes(categoryorder="category descending")
    words = f"Each bar is a pull or probe; the first {GANTT_S:g} s."
    return Section("Pulls over time", words, figures=[("", figure)])


def round_times(live: Sequence[float], twin: Sequence[float], distance: float | None) -> Section:
    """Empirical distribution functions of both."""
    figure = blank_figure("round time, s", "share of rounds", 380)
    for name, colour, values in (("live", LIVE, live), ("simulated", TWIN, twin)):
        ordered = sorted(values)
        figure.add_scatter(
            x=ordered,
            y=[(place + 1) / len(ordered) for place in range(len(ordered))],
            mode="lines",
            name=name,
            line={"color": colour, "width": 2, "shape": "hv"},
        )
    words = "" if distance is None else f"Kolmogorov-Smirnov distance {distance:.3f}."
    return Section("Round times", words, figures=[("", figure)])


def transfers(pulls: Sequence[Row]) -> Section:
    """Each pull: live against simulated; the line is where they are equal."""
    figure = blank_figure("live, s", "simulated, s", 460)
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(type="log", dtick=1)
    times_s = [pull[side] for pull in pulls for side in ("live_s", "simulated_s")]
    if times_s:
        ends = [min(times_s), max(times_s)]
        figure.add_scatter(
            x=ends, y=ends, mode="lines", line={"color": "#999", "dash": "dot"}, showlegend=False
        )
    figure.add_scatter(
        x=[pull["live_s"] for pull in pulls],
        y=[pull["simulated_s"] for pull in pulls],
        mode="markers",
        marker={"color": TWIN, "size": 5, "opacity": 0.5},
        text=[f"{p['source']} to {p['target']}, {p['bytes'] / 1e6:.2f} MB" for p in pulls],
        hovertemplate="%{text}<br>live %{x:.4f} s, simulated %{y:.4f} s<extra></extra>",
        showlegend=False,
    )
    words = "Begun in the twin when they began live; above the line the twin is too slow."
    return Section("Every pull", words, figures=[("", figure)])


def pair_bytes(names: Sequence[str], live: Mapping[Any, int], twin: Mapping[Any, int]) -> Section:
    """Megabytes from each worker (row) to each other (column), live and simulated."""
    figures = []
    for name, weights in (("live", live), ("simulated by itself", twin)):
        figure = blank_figure("to", "from", 90 + 40 * max(4, len(names)))
        table = [[weights.get((src, dst), 0) / 1e6 for dst in names] for src in names]
        figure.add_heatmap(
            z=table, x=list(names), y=list(names), colorscale="Blues", texttemplate="%{z:.2f}"
        )
        figure.update_yaxes(autorange="reversed")
        figures.append((name, figure))
    return Section("Bytes between pairs, MB", "", figures=figures)


def accuracies(curves: Sequence[tuple[str, bool, Sequence[tuple[float, float]]]]) -> Section:
    """Mean accuracy over time; each curve has a name, whether it is live, and its points."""
    figure = blank_figure("seconds since the run began", "mean accuracy of the workers", 420)
    shown: set[bool] = set()
    for name, is_live, points in curves:
        figure.add_scatter(
            x=[at_s for at_s, _ in points],
            y=[accuracy for _, accuracy in points],
            mode="lines",
            name="live" if is_live else "simulated",
            showlegend=is_live not in shown,
            line={"color": LIVE if is_live else TWIN, "width": 1.6},
            hovertemplate=f"{name}<br>%{{x:.2f}} s: %{{y:.3f}}<extra></extra>",
        )
        shown.add(is_live)
    return Section("Accuracy over time", "", figures=[("", figure)])


def first_difference(place: str, recorded: str, replayed: str) -> Section:
    """Where a replayed core decided otherwise first, with what it was told."""
    rows = [["recorded", recorded], ["replayed", replayed]]
    return Section("First differing decision", place, Sheet(("", "record"), rows))
