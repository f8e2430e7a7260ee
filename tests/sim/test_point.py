"""One simulated point: its row, its traces, and when it stops."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpls.config import builtin, changed, load
from mpls.core import trace
from sim import calibration
from sim.cli import NETS
from sim.faults import Fault
from sim.point import Point, ShareFile, simulate
from sim.variation import NONE, parse_variation

CALIBRATION = calibration.load()


def point(train: str = "model", rounds: int = 6, **how: Any) -> Point:
    config = changed(builtin(), {"training": {"rounds": rounds, "eval_every": 1}})
    return Point(config, CALIBRATION, train, labels={"seed": 1}, **how)


def test_a_row_tells_what_became_of_all_workers() -> None:
    row = simulate(point())
    assert (row["rounds"], row["seed"], row["accuracy"], row["curve"]) == (6, 1, None, [])
    # Three workers pull a whole model of 203,560 bytes in each round but the first, in which they
    # do not know each other yet.
    assert row["bytes"] == pytest.approx(5 * 3 * 203_560, rel=0.01)
    assert 0 < row["seconds"] < 10


def test_the_same_point_has_the_same_trace_and_another_seed_another() -> None:
    other = changed(point().config, {"cluster": {"seed": 2}})
    hashes = [
        simulate(p)["trace_sha256"] for p in (point(), point(), replace(point(), config=other))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_full_trace_is_left_for_each_worker(tmp_path: Path) -> None:
    simulate(point(full_trace=True), tmp_path / "here")
    files = sorted((tmp_path / "here").iterdir())
    assert [f.name for f in files] == ["cluster.toml", *(f"w{i}.trace.jsonl" for i in range(3))]
    assert load(files[0]) == point().config
    for file in files[1:]:
        assert trace.replay(trace.read(file)) is None


def test_a_summary_leaves_no_files(tmp_path: Path) -> None:
    simulate(point(), tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_point_stops_at_the_virtual_time_that_was_asked_for() -> None:
    row = simulate(point(rounds=1000, until_s=0.5))
    assert row["seconds"] == 0.5
    assert 0 < row["rounds"] < 1000


def test_a_point_stops_at_the_accuracy_that_was_asked_for() -> None:
    row = simulate(point("real", rounds=500, until_accuracy=0.8))
    accuracies = [accuracy for _, accuracy in row["curve"]]
    assert accuracies[-1] >= 0.8
    assert all(accuracy < 0.8 for accuracy in accuracies[:-1])
    assert row["rounds"] < 100


def test_links_know_no_overhead() -> None:
    bare = simulate(point(net="links", overhead=False))
    assert simulate(point(net="links"))["trace_sha256"] == bare["trace_sha256"]


def test_overhead_shows_in_what_a_fluid_run_does() -> None:
    full = simulate(point(full_trace=True))
    assert simulate(point(full_trace=True, overhead=False))["trace_sha256"] != full["trace_sha256"]


def test_a_key_is_of_what_decides_the_results() -> None:
    assert point().key == replace(point(), jobs=2, labels={}).key
    vary, faults = parse_variation("step:1=0.5"), (Fault(0.1, "crash", 0),)
    others = [point("real"), point(rounds=7), point(net="links"), point(vary=vary)]
    others += [point(faults=faults), point(faults=(replace(faults[0], worker=1),))]
    assert len({p.key for p in (point(), *others)}) == 7


def test_who_looks_on_hears_how_far_it_is(tmp_path: Path) -> None:
    heard: list[float] = []
    simulate(point(), tell=heard.append)
    assert heard == sorted(heard)
    assert (len(heard), heard[-1]) == (18, 1.0)


def test_a_share_is_read_from_its_file(tmp_path: Path) -> None:
    ShareFile(tmp_path / "key")(0.25)
    assert float((tmp_path / "key").read_text()) == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_links_that_slow_down_make_a_run_longer() -> None:
    slowing = point(rounds=40, vary=parse_variation("step:0.3=0.02"), net="links")
    steady = simulate(replace(slowing, vary=NONE))
    assert simulate(slowing)["seconds"] > 1.5 * steady["seconds"]


def test_faults_befall_a_point() -> None:
    cut = Fault(0.1, "cut", link=(0, 1), for_s=0.2)
    crash = Fault(0.2, "crash", worker=2)
    row = simulate(point(rounds=40, faults=(cut, crash)))
    assert (row["befell"], simulate(point())["befell"]) == (2, 0)
    assert 0 < row["rounds"] < 40


def test_what_decides_a_point_travels_to_another_process() -> None:
    whole = point(vary=parse_variation("ar1:sd=.3"), faults=(Fault(0.1, "crash", 0),))
    there = pickle.loads(pickle.dumps(whole))
    assert there.key == whole.key
    assert simulate(there)["trace_sha256"] == simulate(whole)["trace_sha256"]


@pytest.mark.parametrize("net", [net for net in NETS if net != "trace"])
def test_every_network_model_carries_the_same_pulls(net: str) -> None:
    assert simulate(point(net=net))["bytes"] == pytest.approx(5 * 3 * 203_560, rel=0.01)
