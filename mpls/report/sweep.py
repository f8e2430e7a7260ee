"""A sweep's `report.html` and `ranking.png`, from its rows and its ranking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpls.units import format_bytes

if TYPE_CHECKING:
    from mpls.report.page import Section

Row = dict[str, Any]


def write_sweep(folder: Path, rows: Sequence[Row], ranked: Sequence[Row], missing: int = 0) -> None:
    """Both files. `missing` says how many points of the sweep are not there."""
    from mpls.report.page import write_page
    from mpls.report.plots import draw_ranking

    draw_ranking(ranked, [title(setting) for setting in ranked], folder / "ranking.png")
    seeds = len({row["seed"] for row in rows})
    lead = f"{len(rows)} simulated runs, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    lead += f"; {missing} more were not finished." if missing else "."
    sections = [*_settings(rows, ranked), _points(rows)]
    write_page(folder / "report.html", f"Sweep {folder.name}", lead, sections)


def title(setting: Row) -> str:
    """What was equal for all that are ranked."""
    nic = f" (cards {setting['nic']}/s)" if setting["nic"] else ""
    faults = f", faults {setting['faults']}" if setting["faults"] else ""
    return (
        f"{_links(setting)}{nic}, {setting['topology']} of {setting['workers']}, "
        f"{setting['model']} on {setting['dataset']} ({setting['partition']}){faults}"
    )


def _links(setting: Row) -> str:
    if setting["bw"] == "recorded":
        return "links as recorded"
    rates = [f"of {setting['bw']}/s"] if setting["bw"] else []
    varying = [f"by {setting['vary']}"] if setting["vary"] else []
    return " ".join(["links", *rates, *varying])


def contender_name(item: Row, items: Sequence[Row]) -> str:
    """The strategy, with its scheduler where these differ."""
    several = len({other["scheduler"] for other in items}) > 1
    return f"{item['strategy']} ({item['scheduler']})" if several else str(item["strategy"])


def ranking_sheet(setting: Row) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a setting's table, the best first."""
    target = setting["target"]
    heads = ["strategy", "all rounds, s", "pulled, MB"]
    if target is not None:
        heads[1:1] = [f"to accuracy {target:.3f}, s", "final accuracy"]
    return heads, [_cells(item, setting) for item in setting["contenders"]]


def _cells(item: Row, setting: Row) -> list[str]:
    name = contender_name(item, setting["contenders"])
    cells = [measure(item["seconds"]), measure(item["bytes"], 1e6)]
    if setting["target"] is None:
        return [name, *cells]
    reached = measure(item["seconds_to_target"])
    if item["seconds_to_target"] is None:
        reached = f"{item['reached']} of {len(item['seeds'])} reach it"
    return [name, reached, measure(item["accuracy"]), *cells]


def measure(value: Row | None, unit: float = 1.0) -> str:
    """`12.3 [11.0, 14.1]`: the mean to three digits and its interval, which one seed has not."""
    if value is None:
        return "-"
    size = abs(value["mean"]) / unit
    decimals = max(0, 2 - floor(log10(size))) if size > 0 else 0
    mean, low, high = (f"{value[part] / unit:.{decimals}f}" for part in ("mean", "low", "high"))
    return mean if low == high else f"{mean} [{low}, {high}]"


def _settings(rows: Sequence[Row], ranked: Sequence[Row]) -> Iterator[Section]:
    from mpls.report import plots
    from mpls.report.page import Section, Sheet

    for setting in ranked:
        of_it = [row for row in rows if all(row[k] == setting[k] for k in setting if k in row)]
        by, axis = plots.ranked_by(setting)
        figures = [("Ranking", plots.bars(setting, by, axis))]
        if setting["target"] is not None:
            figures.append(("Accuracy over time", plots.accuracy_over_time(of_it)))
            figures.append(("Accuracy against traffic", plots.accuracy_against_bytes(of_it)))
        yield Section(title(setting), _words(setting), Sheet(*ranking_sheet(setting)), figures)


def _words(setting: Row) -> str:
    how = f"Network model {setting['net']}, {TRAINED[setting['train']]}."
    return (
        f"{how} Means over the seeds, in brackets their 95 % "
        "bootstrap intervals; times are virtual, traffic is what all workers received."
    )


def _points(rows: Sequence[Row]) -> Section:
    from mpls.report.page import Section, Sheet

    heads = ["run", "rounds", "time, s", "accuracy", "pulled", "wall, s", "trace SHA256"]
    return Section("All runs", sheet=Sheet(heads, [_point(row, rows) for row in rows]), folded=True)


def _point(row: Row, rows: Sequence[Row]) -> list[str]:
    return [
        point_name(row, rows),
        str(row["rounds"]),
        f"{row['seconds']:.2f}",
        "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}",
        format_bytes(row["bytes"]),
        f"{row['wall_s']:.1f}",
        row["trace_sha256"],
    ]


TRAINED = {
    "real": "really trained",
    "model": "training fitted, accuracy unknown",
    "replay": "training replayed from a recorded run",
}
PLACES = ("bw", "vary", "nic", "workers", "topology", "model", "partition", "strategy", "scheduler")
NOTHING = {"bw": "", "vary": "steady", "nic": "no"}
"""What an empty value says beside others."""


def point_name(row: Row, rows: Sequence[Row]) -> str:
    """What tells it from the others."""
    varying = [name for name in PLACES if len({other[name] for other in rows}) > 1]
    words = [str(row[name]) or NOTHING[name] for name in varying]
    return " ".join([*filter(None, words), f"seed {row['seed']}"])
