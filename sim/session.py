"""A sweep from its flags to its folder: begun or resumed, watched, ranked, and written down."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mpls.config import ClusterConfig, builtin, changed, dumps, load
from mpls.errors import BadInput
from mpls.model import data
from sim import calibration
from sim.point import Point, Row
from sim.ranking import ranking
from sim.screen import print_points, print_ranking, watched
from sim.sweep import GRID, Engine, Manner, Sweep, grid, new_folder

STRATEGIES = ["mpls", "appg", "netmax", "local"]
ROUNDS = 60
ROUNDS_UNTIL = 1000
EVAL_EVERY = 2
"""Rounds between two tests in the default sweep, fine enough for times to an accuracy."""
SEEDS = 3
FLAGS_FILE = "sweep.json"
CLUSTER_FILE = "cluster.toml"
CALIBRATION_FILE = "calibration.json"
KEPT = (*GRID, "seeds", "seed", "until", "train", "net", "overhead", "trace")
"""Flags that a resumed sweep needs again; the others are in the files beside."""
INDEPENDENT = (
    "note: with --net links every link is alone: five pulls that share one network card would take "
    "4 to 5 times longer; --net fluid shares cards (--nic)"
)
INTERRUPTED = 130
Flags = dict[str, Any]


def conduct(flags: Flags) -> int:
    """Begin a sweep or go on with one, show it, and write what came out; returns the exit code.
    BadInput if the flags do not fit."""
    flags = {**flags, **(_as_begun(flags["resume"]) if flags["resume"] else _defaults(flags))}
    sweep = _resume(flags) if flags["resume"] else _begin(flags)
    if flags["net"] == "links":
        click.echo(INDEPENDENT, err=True)
    finished = watched(sweep, quiet=flags["as_json"])
    rows = sweep.ordered()
    ranked = ranking(rows, (flags["until"] or {}).get("accuracy"))
    if rows:
        _write(sweep, rows, ranked)
    if flags["as_json"]:
        about = {"folder": str(sweep.folder), "points": rows, "ranking": ranked}
        status = "completed" if finished else "interrupted"
        click.echo(json.dumps({"status": status, **about}, allow_nan=False))
    else:
        print_points(rows)
        print_ranking(ranked)
        click.echo(f"\n{_near(sweep.folder)}: report.html, ranking.png, points.csv, points.jsonl")
    if not finished:
        said = f"{len(rows)} of {len(sweep.points)} points are kept"
        click.echo(f"interrupted: {said}; --resume {_near(sweep.folder)} goes on", err=True)
    return 0 if finished else INTERRUPTED


def _near(folder: Path) -> str:
    """As seen from here, where that is shorter."""
    return min(str(folder), os.path.relpath(folder), key=len)


# --- beginning --------------------------------------------------------------------------------


def _defaults(flags: Flags) -> Flags:
    """A cluster file knows its own strategy."""
    several = not flags["config"] and not flags["strategy"]
    return {"strategy": STRATEGIES} if several else {}


def _begin(flags: Flags) -> Sweep:
    """In a new folder, with all that going on needs."""
    base, path = _base(flags), flags["calibration"]
    known = calibration.load(Path(path) if path else None)
    points = _points(base, flags, known)
    folder = new_folder(flags["out"], base.cluster.out)
    kept = json.dumps({name: flags[name] for name in KEPT}, indent=1)
    (folder / FLAGS_FILE).write_text(f"{kept}\n", encoding="utf-8")
    (folder / CLUSTER_FILE).write_text(dumps(base), encoding="utf-8")
    (folder / CALIBRATION_FILE).write_text(known.measured.dumps(), encoding="utf-8")
    return Sweep(points, folder, _engine(flags))


def _as_begun(folder: Path) -> Flags:
    """The flags that a folder's sweep was begun with."""
    try:
        kept: Flags = json.loads((folder / FLAGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"--resume {folder}: no folder of a sweep, it has no {FLAGS_FILE}") from None
    return kept


def _resume(flags: Flags) -> Sweep:
    folder = flags["resume"]
    known = calibration.load(folder / CALIBRATION_FILE)
    points = _points(load(folder / CLUSTER_FILE), flags, known)
    return Sweep(points, folder, _engine(flags))


def _base(flags: Flags) -> ClusterConfig:
    """The cluster that the grid is spanned on."""
    tables: dict[str, dict[str, Any]] = {}
    if flags["config"]:
        base = load(flags["config"])
    else:
        base = builtin()
        tables["training"] = {"rounds": ROUNDS, "eval_every": EVAL_EVERY}
    rounds = flags["rounds"] or (ROUNDS_UNTIL if flags["until"] else None)
    if rounds:
        tables.setdefault("training", {})["rounds"] = rounds
    if flags["dataset"]:
        tables["data"] = {"dataset": flags["dataset"]}
    return changed(base, tables)


def _points(base: ClusterConfig, flags: Flags, known: calibration.Calibration) -> list[Point]:
    seeds = range(1, 1 + (flags["seeds"] or SEEDS)) if flags["seed"] is None else [flags["seed"]]
    until = flags["until"] or {}
    manner = Manner(
        train=flags["train"],
        net=flags["net"],
        overhead=flags["overhead"] == "full",
        full_trace=flags["trace"] == "full",
        until_accuracy=until.get("accuracy"),
        until_s=until.get("seconds"),
    )
    if manner.train == "real":
        data.load(base.data.dataset, base.data.root)
    return grid(base, {name: flags[name] for name in GRID}, seeds, manner, known)


def _engine(flags: Flags) -> Engine:
    return Engine(flags["backend"], flags["jobs"] or -1, flags["scheduler_address"])


def _write(sweep: Sweep, rows: Sequence[Row], ranked: Sequence[Row]) -> None:
    from mpls.report.sweep import write_sweep

    with (sweep.folder / "points.csv").open("w", encoding="utf-8", newline="") as file:
        names = [name for name in rows[0] if name != "curve"]
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_sweep(sweep.folder, rows, ranked, missing=len(sweep.points) - len(rows))
