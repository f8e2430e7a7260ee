"""Many points: the grid that lists of flags span, run in parallel by joblib, each kept at once."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from pathlib import Path
from typing import Any

from mpls.config import ClusterConfig, changed
from mpls.core.strategies import make_strategy
from mpls.errors import BadInput, RunFailed
from sim.calibration import Calibration
from sim.engines import Engine
from sim.fault_plans import NO_FAULTS, FaultPlan
from sim.outline import images_of
from sim.point import Point, Row, ShareFile, simulate
from sim.recorded import RecordedRun
from sim.replayed_times import demand_transfers
from sim.replaying import demand_replayable
from sim.variation import NONE, Listed, Variation

GRID = {
    "bw": ("network", "emulate"),
    "nic": ("network", "nic"),
    "strategy": ("mpls", "strategy"),
    "scheduler": ("mpls", "scheduler"),
    "workers": ("workers", ""),
    "topology": ("cluster", "topology"),
    "model": ("model", "name"),
    "partition": ("data", "partition"),
}
"""What may be a list, slowest first; table and key of each."""
RECORDED = "recorded"
"""The label of links whose rates come from a recorded run."""
ROWS_FILE = "points.jsonl"
SHARES = ".under-way"
"""Folder in which points under way say how far they are."""


@dataclass(frozen=True)
class Manner:
    """How all points of a sweep are simulated: the fields of Point that are no labels."""

    train: str
    net: str
    overhead: bool
    full_trace: bool
    until_accuracy: float | None = None
    until_s: float | None = None
    of: RecordedRun | None = None


def grid(
    base: ClusterConfig,
    lists: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    manner: Manner,
    calibration: Calibration,
    variations: Sequence[Variation] = (NONE,),
    plan: FaultPlan = NO_FAULTS,
) -> list[Point]:
    """Every combination of the listed values and variations, on the base cluster where nothing is
    listed, and every seed of it. BadInput where one is no valid cluster, or does not go with what
    else is asked for."""
    points = {}
    for *values, vary in itertools.product(
        *(lists.get(name) or [None] for name in GRID), variations
    ):
        chosen = dict(zip(GRID, values))
        for seed in seeds:
            config = _configured(base, chosen, seed)
            faults = plan.faults(config, _run_s(config, manner, calibration))
            point = Point(config, calibration, vary=vary, faults=faults, **vars(manner))
            points[point.key] = replace(point, labels=labels_of(point, plan))
    _try_out(list(points.values()), calibration)
    return list(points.values())


def labels_of(point: Point, plan: FaultPlan = NO_FAULTS) -> dict[str, Any]:
    """What tells the points of a sweep apart, and a row without its sweep what it is of."""
    config, network, vary = point.config, point.config.network, point.vary
    bw = "" if isinstance(vary, Listed) else str(network.emulate or network.prior_bw)
    if point.has_recorded_links:
        bw = RECORDED
    return {
        "bw": bw,
        "vary": vary.text,
        "nic": str(network.nic or ""),
        "strategy": config.mpls.strategy,
        "scheduler": config.mpls.scheduler,
        "workers": len(config.workers),
        "topology": config.cluster.topology,
        "dataset": config.data.dataset,
        "model": config.model.name,
        "partition": config.data.partition,
        "seed": config.cluster.seed,
        "train": point.train,
        "net": point.net,
        "faults": plan.text,
        "of": Path(point.of.place).resolve().name if point.of is not None else "",
    }


def _configured(base: ClusterConfig, chosen: Mapping[str, Any], seed: int) -> ClusterConfig:
    tables: dict[str, Any] = {"cluster": {"seed": seed}}
    for name, value in chosen.items():
        table, key = GRID[name]
        if value is None:
            continue
        if name == "workers":
            tables["workers"] = _workers(base, value)
        else:
            tables.setdefault(table, {})[key] = value
    return changed(base, tables)


def _workers(base: ClusterConfig, count: int) -> list[dict[str, Any]]:
    """The cluster's own, repeated or cut to that number; only their speeds matter here."""
    speeds = itertools.islice(itertools.cycle(worker.speed for worker in base.workers), count)
    return [{"id": i, "address": "127.0.0.1:0", "speed": speed} for i, speed in enumerate(speeds)]


def _run_s(config: ClusterConfig, manner: Manner, calibration: Calibration) -> float:
    """About how long a point runs, at least: its local passes, or until it is stopped."""
    if manner.until_s is not None:
        return manner.until_s
    if manner.train == "replay" and manner.of is not None:
        return max(fsum(one.seconds for one in worker.passes) for worker in manner.of.workers)
    training = config.training
    pass_steps = images_of(config) // len(config.workers) // training.batch_size
    steps = calibration.steps(config.model.name, training.batch_size, busy=True)
    return training.rounds * max(1, training.local_steps or pass_steps) * steps.mean_s


def _try_out(points: Sequence[Point], calibration: Calibration) -> None:
    """BadInput now, rather than from some process later: for a user's own code and models, links
    that a file of rates leaves out, and what a recorded run has not."""
    strategies = {point.config.mpls.strategy: point.config for point in points}
    for config in strategies.values():
        make_strategy(config.plan_settings())
    for model in {point.config.model.name for point in points if point.train != "replay"}:
        calibration.timing(model)
    for point in points:
        point.vary.links(point.config)
        if point.of is not None and point.train == "replay":
            demand_replayable(point.of, point.config)
        if point.of is not None and point.has_recorded_links:
            demand_transfers(point.of)


# --- running ----------------------------------------------------------------------------------


class Sweep:
    """Points, and a folder in which what they gave is kept. `rows` has what is there so far."""

    def __init__(self, points: Sequence[Point], folder: Path, engine: Engine) -> None:
        self.points = points
        self.rows: list[Row] = []
        self.folder = folder.resolve()
        self._shares = self.folder / SHARES
        self._engine = engine
        self._order = {point.key: number for number, point in enumerate(points)}
        self.rows = [row for row in _kept(folder / ROWS_FILE) if row["key"] in self._order]
        done = {row["key"] for row in self.rows}
        self.missing = [point for point in points if point.key not in done]

    def run(self) -> Iterator[Row]:
        """The missing points, each as it ends. Whoever stops asking gives up what is under way.
        Raises what a point raised."""
        from joblib import delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        jobs = self._engine.jobs_for_each(len(self.missing))
        points = [replace(point, jobs=jobs) for point in self.missing]
        self._shares.mkdir(exist_ok=True)
        try:
            with self._engine.parallel(len(points)) as parallel:
                for row in parallel(delayed(run_point)(p, self.folder) for p in points):
                    self._keep(row)
                    yield row
        except TerminatedWorkerError:
            raise RunFailed(
                "a simulating process was killed (out of memory?); finished points are kept, and "
                f"--resume {self.folder} --jobs 1 goes on with one at a time"
            ) from None
        finally:
            shutil.rmtree(self._shares, ignore_errors=True)

    def done(self) -> float:
        """What share of the missing points is done, those under way included."""
        keys = {row["key"] for row in self.rows}
        parts = [1.0 if p.key in keys else self._share(p.key) for p in self.missing]
        return sum(parts) / len(parts) if parts else 1.0

    def ordered(self) -> list[Row]:
        """The rows in the grid's order, however they came in."""
        return sorted(self.rows, key=lambda row: self._order[row["key"]])

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        with (self.folder / ROWS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def _share(self, key: str) -> float:
        try:
            return float((self._shares / key).read_text(encoding="utf-8"))
        except OSError:  # not begun, or on a machine that has no such folder
            return 0.0


def run_point(point: Point, folder: Path) -> Row:
    """In whichever process joblib chose. Where the sweep's folder is not reachable, as on another
    machine, nothing is shown of a point under way, and a full trace stays on that machine."""
    shares = folder / SHARES
    tell = ShareFile(shares / point.key) if shares.is_dir() else None
    return simulate(point, folder / "traces" / point.key, tell)


def _kept(path: Path) -> list[Row]:
    """The whole lines. A last one that was cut off is no finished point and taken off the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    *lines, rest = text.split("\n")
    if rest:
        path.write_text(text.removesuffix(rest), encoding="utf-8")
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise BadInput(f"{path}: not a sweep's results ({error})") from None


def new_folder(out: Path | None, parent: str) -> Path:
    """`out` itself, or `sim-STAMP` below `parent` with `latest-sim` pointing there."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        name = f"sim-{stamp}{f'-{attempt}' if attempt else ''}"
        folder = out or Path(parent) / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if out is None and folder.is_dir():
                continue
            raise BadInput(f"--out {folder}: exists already; --resume {folder} goes on") from None
        except OSError as error:
            raise BadInput(f"{folder}: cannot be made: {error.strerror}") from None
        if out is None:
            link = folder.parent / f".latest-{name}"
            link.symlink_to(folder.name)
            link.replace(folder.parent / "latest-sim")
        return folder
    raise BadInput(f"{parent}: cannot make a new folder there")
