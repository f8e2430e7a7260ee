"""Plots, each a function of results: rows of points, or the ranking that was made of them.

For the page they are plotly figures; `draw_ranking` is the picture for a terminal, a mail, a talk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from mpls.report.sweep import contender_name, measure

Row = dict[str, Any]
COLOURS = (
    "#1f6fb4",
    "#d9622b",
    "#2b8a57",
    "#8a5bb5",
    "#b8860b",
    "#c23b6b",
    "#4a7f8c",
    "#7a5c46",
    "#6b6b6b",
)
"""Told apart by people who see no red or no green too; a contender keeps its own in every plot."""
ROW_PX = 34
MOST_SETTINGS = 12
"""More than this is no picture any more."""


def accuracy_over_time(rows: Sequence[Row]) -> Figure:
    """Every run of one setting as a thin line, the seeds of a strategy in one colour."""
    figure = blank_figure("virtual time, s", "mean accuracy of the workers", height=420)
    figure.update_yaxes(tickformat=".2f")
    for row, name, colour, first in _coloured(rows):
        at_s, accuracy = zip(*row["curve"]) if row["curve"] else ((), ())
        figure.add_scatter(
            x=at_s,
            y=accuracy,
            name=name,
            legendgroup=name,
            showlegend=first,
            mode="lines",
            line={"color": colour, "width": 1.6},
            hovertemplate=f"{name}, seed {row['seed']}<br>%{{x:.2f}} s: %{{y:.3f}}<extra></extra>",
        )
    return figure


def accuracy_against_bytes(rows: Sequence[Row]) -> Figure:
    """What a run ended with, against what it pulled."""
    figure = blank_figure("pulled by all workers, MB", "final mean accuracy", height=360)
    figure.update_yaxes(tickformat=".2f")
    for row, name, colour, first in _coloured(rows):
        figure.add_scatter(
            x=[row["bytes"] / 1e6],
            y=[row["accuracy"]],
            name=name,
            legendgroup=name,
            showlegend=first,
            mode="markers",
            marker={"color": colour, "size": 9, "line": {"color": "white", "width": 1}},
            hovertemplate=f"{name}, seed {row['seed']}<br>%{{x:.1f}} MB: %{{y:.3f}}<extra></extra>",
        )
    return figure


def bars(setting: Row, measured: str, axis: str, unit: float = 1.0) -> Figure:
    """One measure of each contender of a setting, with its interval; the best at the top."""
    known = [item for item in setting["contenders"] if item[measured] is not None]
    figure = blank_figure(axis, "", height=110 + ROW_PX * len(known))
    colours = _colours([contender_name(item, known) for item in setting["contenders"]])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(rangemode="tozero")
    for item in known:
        name = contender_name(item, setting["contenders"])
        mean, low, high = (item[measured][part] / unit for part in ("mean", "low", "high"))
        figure.add_bar(
            x=[mean],
            y=[name],
            orientation="h",
            marker={"color": colours[name]},
            error_x={"array": [high - mean], "arrayminus": [mean - low], "color": "#333"},
            hovertemplate=f"{name}: {measure(item[measured], unit)}<extra></extra>",
        )
    figure.update_layout(showlegend=False)
    return figure


def draw_ranking(ranked: Sequence[Row], titles: Sequence[str], path: Path) -> None:
    """A PNG with a row of bars for each setting: the measure that ranks it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure as Canvas

    shown = list(zip(ranked, titles))[:MOST_SETTINGS]
    heights = [len(setting["contenders"]) + 2.2 for setting, _ in shown]
    canvas = Canvas(figsize=(9, 0.4 * sum(heights) + 0.3), layout="constrained")
    axes = canvas.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (setting, title) in zip(axes, shown):
        _draw_setting(axis, setting, title)
    if len(ranked) > len(shown):
        canvas.supxlabel(f"and {len(ranked) - len(shown)} more settings: see report.html")
    canvas.savefig(path, dpi=120)


def _draw_setting(axis: Any, setting: Row, title: str) -> None:
    items = setting["contenders"]
    names = [contender_name(item, items) for item in items]
    colours, places = _colours(names), range(len(items))
    measured, label = ranked_by(setting)
    for place, item, name in zip(places, items, names):
        value = item[measured]
        if value is None:
            text = f" {item['reached']} of {len(item['seeds'])} seeds reach it"
            axis.text(0.01, place, text, transform=axis.get_yaxis_transform(), va="center")
            continue
        mean, low, high = value["mean"], value["low"], value["high"]
        error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        axis.barh(
            place, mean, xerr=error, color=colours[name], height=0.62, capsize=3, ecolor="#333"
        )
        axis.annotate(
            f"{measure(value).partition(' ')[0]} s",
            (high, place),
            (6, 0),
            textcoords="offset points",
            va="center",
        )
    axis.set_yticks(places, names)
    axis.set_ylim(len(items) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.margins(x=0.12)
    axis.set_xlabel(label)
    axis.set_title(title, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def ranked_by(setting: Row) -> tuple[str, str]:
    """Which measure ranks a setting, and its axis' label."""
    if setting["target"] is None:
        return "seconds", "virtual time of all rounds, s"
    return "seconds_to_target", f"virtual time to accuracy {setting['target']:.3f}, s"


def _coloured(rows: Sequence[Row]) -> Iterator[tuple[Row, str, str, bool]]:
    """Each row with its contender's name and colour, and whether it is the contender's first."""
    colours = _colours([contender_name(row, rows) for row in rows])
    seen = set()
    for row in rows:
        name = contender_name(row, rows)
        yield row, name, colours[name], name not in seen
        seen.add(name)


def _colours(names: Sequence[str]) -> dict[str, str]:
    """By name, not by place: in every plot of a report that has the same contenders, the same."""
    ordered = sorted(set(names))
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(ordered)}


def blank_figure(x: str, y: str, height: int) -> Figure:
    """Axes with these titles and nothing in them, as all figures of the page begin."""
    figure = Figure()
    axis = {"showline": True, "linecolor": "#999", "gridcolor": "#e6e6e6", "zeroline": False}
    figure.update_layout(
        height=height,
        margin={"l": 20, "r": 20, "t": 20, "b": 20},
        plot_bgcolor="white",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        bargap=0.35,
    )
    figure.update_xaxes(title=x, automargin=True, **axis)
    figure.update_yaxes(title=y, automargin=True, **axis)
    return figure
