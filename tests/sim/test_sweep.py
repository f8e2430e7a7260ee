"""Sweeps: grids, the order of rows, resuming, and the engines."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpls.config import builtin, changed
from mpls.errors import BadInput
from sim import calibration
from sim.engines import Engine
from sim.point import Point
from sim.sweep import ROWS_FILE, SHARES, Manner, Sweep, grid, new_folder

SHIPPED = calibration.load().measured
LENET5 = replace(SHIPPED.models[0], name="lenet5")
CALIBRATION = calibration.Calibration(replace(SHIPPED, models=(*SHIPPED.models, LENET5)), "ours")
MANNER = Manner("model", "fluid", True, False)
ALONE = Engine(jobs=1)


def points(seeds: int = 2, **lists: Any) -> list[Point]:
    base = changed(builtin(), {"training": {"rounds": 4}})
    return grid(base, lists, range(1, seeds + 1), MANNER, CALIBRATION)


def test_lists_make_a_grid_with_the_seeds_innermost() -> None:
    found = points(strategy=["mpls", "appg"], bw=["5MB", "10-15MB"], workers=[3, 5])
    assert len(found) == 16
    names = [(p.labels["bw"], p.labels["strategy"], p.labels["workers"]) for p in found[::2]]
    assert names[:3] == [("5MB", "mpls", 3), ("5MB", "mpls", 5), ("5MB", "appg", 3)]
    assert [p.labels["seed"] for p in found[:2]] == [1, 2]


def test_what_is_labelled_is_what_is_configured() -> None:
    (point,) = points(1, nic=["12.5MB"], topology=["full"], model=["lenet5"], scheduler=["eft"])
    config = point.config
    assert config.network.nic is not None
    assert config.network.nic.low_Bps == 12.5e6
    assert (config.cluster.topology, config.model.name) == ("full", "lenet5")
    assert (config.mpls.scheduler, point.labels["partition"]) == ("eft", "dirichlet")


def test_a_point_that_is_named_twice_runs_once() -> None:
    assert len(points(1, strategy=["mpls", "mpls"])) == 1


def test_more_workers_have_the_speeds_of_the_clusters_own() -> None:
    workers = [{"id": i, "address": "127.0.0.1:0", "speed": 1.0 + i} for i in range(2)]
    base = changed(builtin(), {"workers": workers})
    (point,) = grid(base, {"workers": [5]}, [1], MANNER, CALIBRATION)
    assert [worker.speed for worker in point.config.workers] == [1.0, 2.0, 1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        ({"topology": ["moebius"]}, "moebius"),
        ({"strategy": ["best"]}, "best"),
        ({"strategy": ["no.such:Thing"]}, "no.such"),
        ({"model": ["mpls.model.nets:simple_mlp"]}, "mpls.model.nets:simple_mlp"),
    ],
)
def test_what_cannot_be_simulated_is_refused_before_anything_runs(
    lists: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadInput, match=named):
        points(1, **lists)


def test_results_do_not_depend_on_how_many_run_at_a_time(tmp_path: Path) -> None:
    hashes = []
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        sweep = Sweep(points(strategy=["mpls", "gossip"]), folder, Engine(jobs=jobs))
        assert len(list(sweep.run())) == 4
        hashes.append([row["trace_sha256"] for row in sweep.ordered()])
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 4


def test_a_sweep_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Sweep(points(3), tmp_path, ALONE)
    rows = first.run()
    next(rows)
    rows.close()
    with (tmp_path / ROWS_FILE).open("a") as file:
        file.write('{"key": "cut o')
    second = Sweep(points(3), tmp_path, ALONE)
    assert (len(second.rows), len(second.missing)) == (1, 2)
    assert [row["seed"] for row in second.run()] == [2, 3]
    assert not Sweep(points(3), tmp_path, ALONE).missing
    lines = (tmp_path / ROWS_FILE).read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 2, 3]


def test_points_under_way_count_for_the_share_that_is_done(tmp_path: Path) -> None:
    sweep = Sweep(points(2), tmp_path, ALONE)
    assert sweep.done() == 0.0
    (tmp_path / SHARES).mkdir()
    (tmp_path / SHARES / sweep.missing[0].key).write_text("0.5")
    assert sweep.done() == 0.25
    list(sweep.run())
    assert sweep.done() == 1.0
    assert not (tmp_path / SHARES).exists()


def test_a_new_folder_is_the_latest_and_an_old_one_is_not_written_over(tmp_path: Path) -> None:
    folders = [new_folder(None, str(tmp_path)) for _ in range(2)]
    assert folders[0] != folders[1]
    assert (tmp_path / "latest-sim").resolve() == folders[1]
    with pytest.raises(BadInput, match="--resume"):
        new_folder(folders[0], "runs")


def test_a_damaged_file_of_results_is_named(tmp_path: Path) -> None:
    (tmp_path / ROWS_FILE).write_text("nonsense\n")
    with pytest.raises(BadInput, match=ROWS_FILE):
        Sweep(points(1), tmp_path, ALONE)


def test_dask_needs_an_address(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--scheduler-address"):
        list(Sweep(points(1), tmp_path, Engine("dask")).run())


@pytest.mark.live
def test_a_dask_cluster_gives_the_same_rows(tmp_path: Path) -> None:
    """A scheduler and two worker processes, talking over TCP."""
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed: no Dask")
    rows = []
    with _dask_cluster(tmp_path) as address:
        for name, engine in (("here", ALONE), ("there", Engine("dask", -1, address))):
            (tmp_path / name).mkdir()
            sweep = Sweep(points(4), tmp_path / name, engine)
            list(sweep.run())
            rows.append([(row["key"], row["trace_sha256"]) for row in sweep.ordered()])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


@pytest.mark.live
def test_ray_gives_the_same_rows(tmp_path: Path) -> None:
    """A cluster of two processes that Ray starts here, in a process of its own: Ray warns."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (pip install ray): its backend is not tested")
    hashes = []
    for backend in ("loky", "ray"):
        command = [sys.executable, "-m", "sim", "--train", "model", "--rounds", "4", "--seeds", "3"]
        command += ["--strategy", "mpls", "--jobs", "2", "--json", "--backend", backend]
        out = subprocess.run(
            [*command, "--out", str(tmp_path / backend)], check=True, capture_output=True, text=True
        ).stdout
        hashes.append([row["trace_sha256"] for row in json.loads(out)["points"]])
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 3


@contextmanager
def _dask_cluster(folder: Path) -> Iterator[str]:
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": os.getcwd()}
    known = folder / "scheduler.json"
    scheduler = ["scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(known)]
    worker = ["worker", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(known)]
    started = [
        subprocess.Popen([*dask, *command], **quiet) for command in (scheduler, worker, worker)
    ]  # type: ignore[call-overload]
    try:
        from distributed import Client

        with Client(scheduler_file=str(known), timeout=30) as client:
            client.wait_for_workers(2, timeout=60)
        yield json.loads(known.read_text())["address"]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)
