"""A sweep from its flags to its folder: begun or resumed, watched, ranked, and written down."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mpls.config import ClusterConfig, ClusterTable, builtin, changed, dumps, load
from mpls.errors import INTERRUPTED, BadInput
from mpls.model import data
from sim import calibration
from sim.engines import Engine
from sim.fault_plans import NO_FAULTS, parse_faults
from sim.point import Point, Row
from sim.ranking import ranking
from sim.recorded import CLUSTER_FILE, RecordedRun, read_run
from sim.screen import print_points, print_ranking, watched
from sim.sweep import GRID, Manner, Sweep, grid, new_folder
from sim.variation import NONE, parse_variation

STRATEGIES = ["mpls", "appg", "netmax", "local"]
ROUNDS = 60
ROUNDS_UNTIL = 1000
EVAL_EVERY = 2
"""Rounds between two tests in the default sweep, fine enough for times to an accuracy."""
SEEDS = 3
FLAGS_FILE = "sweep.json"
CALIBRATION_FILE = "calibration.json"
KEPT = (*GRID, "seeds", "seed", "until", "train", "net", "overhead", "trace", "vary", "faults")
"""Flags that a resumed sweep needs again; the others are in the files beside. Files that these name
are copied there, too."""
INDEPENDENT = (
    "note: with --net links every link is alone: five pulls that share one network card would take "
    "4 to 5 times longer; --net fluid shares cards (--nic)"
)
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
    """A cluster file knows its own strategy, and a recorded run its seed."""
    several = not (flags["config"] or flags["of"] or flags["strategy"])
    return {"strategy": STRATEGIES} if several else {}


def _begin(flags: Flags) -> Sweep:
    """In a new folder, with all that going on needs."""
    engine, path, of = _engine(flags), flags["calibration"], flags["of"]
    known = calibration.load(None if path is None else Path(path))
    run = read_run(of) if of else None
    files = _Files()
    base = _base(flags, run)
    points = _points(base, flags, known, run, files)
    folder = new_folder(flags["out"], base.cluster.out)
    kept = {name: flags[name] for name in KEPT}
    kept["files"] = files.copy_to(folder)
    kept["of"] = {"folder": str(of.resolve()), "sha256": run.sha256} if of and run else None
    (folder / FLAGS_FILE).write_text(f"{json.dumps(kept, indent=1)}\n", encoding="utf-8")
    (folder / CLUSTER_FILE).write_text(dumps(base), encoding="utf-8")
    (folder / CALIBRATION_FILE).write_text(known.measured.dumps(), encoding="utf-8")
    return Sweep(points, folder, engine)


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
    copies = flags.get("files", {})
    files = _Files({name: folder / copy for name, copy in copies.items()})
    run = _same_run(folder, flags["of"]) if flags["of"] else None
    points = _points(load(folder / CLUSTER_FILE), flags, known, run, files)
    return Sweep(points, folder, _engine(flags))


def _same_run(folder: Path, of: dict[str, str]) -> RecordedRun:
    """The recorded run of a sweep: too large to be copied, so it has to be as it was."""
    run = read_run(Path(of["folder"]))
    if run.sha256 != of["sha256"]:
        raise BadInput(f"--resume {folder}: {run.place} has changed since; begin a new sweep")
    return run


class _Files:
    """Where the files are that flags name: as named or, when resuming, copies of them."""

    def __init__(self, copies: Mapping[str, Path] | None = None) -> None:
        self._copies = copies or {}
        self._named: dict[str, None] = {}

    def __call__(self, name: str) -> Path:
        self._named[name] = None
        return self._copies.get(name, Path(name))

    def copy_to(self, folder: Path) -> dict[str, str]:
        """Copy all that were asked for; returns the names of the copies."""
        copies = {}
        for number, name in enumerate(self._named, 1):
            copies[name] = f"input-{number}{Path(name).suffix}"
            shutil.copyfile(name, folder / copies[name])
        return copies


def _base(flags: Flags, run: RecordedRun | None) -> ClusterConfig:
    """The cluster that the grid is spanned on."""
    tables: dict[str, dict[str, Any]] = {}
    if run is not None:
        # Where that run left its folder says nothing of where this one belongs.
        base, tables["cluster"] = run.config, {"out": ClusterTable().out}
    elif flags["config"] is not None:
        base = load(flags["config"])
    else:
        base = builtin()
        tables["training"] = {"rounds": ROUNDS, "eval_every": EVAL_EVERY}
    endless = flags["until"] and flags["train"] != "replay"
    rounds = flags["rounds"] or (ROUNDS_UNTIL if endless else None)
    if rounds:
        tables.setdefault("training", {})["rounds"] = rounds
    if flags["dataset"]:
        tables["data"] = {"dataset": flags["dataset"]}
    return changed(base, tables)


def _points(
    base: ClusterConfig,
    flags: Flags,
    known: calibration.Calibration,
    run: RecordedRun | None,
    found_at: _Files,
) -> list[Point]:
    until = flags["until"] or {}
    manner = Manner(
        train=flags["train"],
        net=flags["net"],
        overhead=flags["overhead"] == "full",
        full_trace=flags["trace"] == "full",
        until_accuracy=until.get("accuracy"),
        until_s=until.get("seconds"),
        of=run,
    )
    variations = [parse_variation(text, found_at) for text in flags["vary"]] or [NONE]
    faults = flags["faults"]
    plan = NO_FAULTS if faults is None else parse_faults(faults, found_at)
    if manner.train == "real":
        data.load(base.data.dataset, base.data.root)
    lists = {name: flags[name] for name in GRID}
    return grid(base, lists, _seeds(flags, run), manner, known, variations, plan)


def _seeds(flags: Flags, run: RecordedRun | None) -> Sequence[int]:
    if flags["seed"] is not None:
        return [flags["seed"]]
    if run is not None and flags["seeds"] is None:
        return [run.config.cluster.seed]
    return range(1, 1 + (flags["seeds"] or SEEDS))


def _engine(flags: Flags) -> Engine:
    engine = Engine(flags["backend"], flags["jobs"] or -1, flags["scheduler_address"])
    engine.demand_possible()
    return engine


def _write(sweep: Sweep, rows: Sequence[Row], ranked: Sequence[Row]) -> None:
    from mpls.report.sweep import write_sweep

    with (sweep.folder / "points.csv").open("w", encoding="utf-8", newline="") as file:
        names = [name for name in rows[0] if name != "curve"]
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_sweep(sweep.folder, rows, ranked, missing=len(sweep.points) - len(rows))
