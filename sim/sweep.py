"""Many points: the grid that lists of flags span, run in parallel by joblib, each kept at once."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpls.config import ClusterConfig, changed
from mpls.core.strategies import make_strategy
from mpls.errors import BadInput, RunFailed
from sim.calibration import Calibration
from sim.point import Point, Row, ShareFile, simulate

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


def grid(
    base: ClusterConfig,
    lists: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    manner: Manner,
    calibration: Calibration,
) -> list[Point]:
    """Every combination of the listed values, on the base cluster where nothing is listed, and
    every seed of it. BadInput where one is no valid cluster."""
    points = {}
    for values in itertools.product(*(lists.get(name) or [None] for name in GRID)):
        chosen = dict(zip(GRID, values))
        for seed in seeds:
            config = _configured(base, chosen, seed)
            labels = labels_of(config, manner)
            point = Point(config, calibration, labels=labels, **vars(manner))
            points[point.key] = point
    _try_out(list(points.values()), calibration)
    return list(points.values())


def labels_of(config: ClusterConfig, manner: Manner) -> dict[str, Any]:
    """What tells the points of a sweep apart, and a row without its sweep what it is of."""
    network = config.network
    return {
        "bw": str(network.emulate or network.prior_bw),
        "nic": str(network.nic or ""),
        "strategy": config.mpls.strategy,
        "scheduler": config.mpls.scheduler,
        "workers": len(config.workers),
        "topology": config.cluster.topology,
        "dataset": config.data.dataset,
        "model": config.model.name,
        "partition": config.data.partition,
        "seed": config.cluster.seed,
        "train": manner.train,
        "net": manner.net,
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


def _try_out(points: Sequence[Point], calibration: Calibration) -> None:
    """BadInput now, rather than from some process later, for a user's own code and models."""
    strategies = {point.config.mpls.strategy: point.config for point in points}
    for config in strategies.values():
        make_strategy(config.plan_settings())
    for model in {point.config.model.name for point in points}:
        calibration.timing(model)


# --- running ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Engine:
    """Who does the work: joblib's backend, how many at a time, and where dask's scheduler is."""

    backend: str = "loky"
    jobs: int = -1
    scheduler_address: str | None = None

    def at_once(self, points: int) -> int:
        """How many of so many points run at a time on this machine."""
        import joblib

        return max(1, min(points, int(joblib.effective_n_jobs(self.jobs))))

    def jobs_for_each(self, points: int) -> int:
        """How many processes are left for the training of each: all, where there is one point."""
        import joblib

        if self.backend == "dask":
            return 1
        return max(1, int(joblib.effective_n_jobs(self.jobs)) // self.at_once(points))

    @contextmanager
    def parallel(self, points: int) -> Iterator[Any]:
        """What runs joblib's tasks and yields their results as they end, within this context."""
        import joblib

        how = {"return_as": "generator_unordered", "pre_dispatch": "n_jobs"}
        if self.backend == "dask":
            with _client(self.scheduler_address), joblib.parallel_config(backend="dask"):
                yield joblib.Parallel(**how)
        elif self.at_once(points) == 1:
            yield joblib.Parallel(n_jobs=1, **how)
        else:
            with joblib.parallel_config(backend=self.backend, inner_max_num_threads=1):
                yield joblib.Parallel(n_jobs=self.at_once(points), **how)


def _client(address: str | None) -> Any:
    """A connection to Dask, which joblib's backend finds by itself."""
    if address is None:
        raise BadInput("--backend dask: needs --scheduler-address, such as tcp://192.0.2.1:8786")
    try:
        from dask.distributed import Client
    except ImportError:
        raise BadInput('--backend dask: needs the extra: pip install "mpls-dfl[cluster]"') from None
    try:
        return Client(address, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise BadInput(f"--scheduler-address {address}: no Dask scheduler there: {error}") from None


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
