"""`python -m sim compare`: the gate holds for what is true, and bites for what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.config import builtin, changed
from mpls.core import bandwidth
from mpls.core.calibration import ModelCost
from mpls.core.round import Rounds
from mpls.core.spec import WorkerSpec
from sim import calibration
from sim.calibration import Calibration
from sim.cli import main
from sim.compare import exact, learned, predict, times
from sim.compare.calibrate import calibration_of, twentieths
from sim.compare.course import Run, read_course
from sim.compare.metrics import Metric
from sim.compare.statistics import apart, kendall_tau, kolmogorov_smirnov, quantile
from sim.point import Point, simulate

ROUNDS = 8
LIVE_ROUNDS = 30
"""About a second: on a busy machine the first few may be over before anybody has said hello."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run: three processes on loopback, links paced to 10-15 MB/s."""
    out = tmp_path_factory.mktemp("live")
    flags = ["--rounds", str(LIVE_ROUNDS), "--out", str(out)]
    command = [sys.executable, "-m", "mpls", "run", "configs/local.toml", *flags]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return (out / "latest").resolve()


@pytest.fixture
def copy(live: Path, tmp_path: Path) -> Path:
    """The live run's folder, to be spoilt."""
    for file in (*live.glob("*.toml"), *live.glob("*.jsonl")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def simulated(folder: Path, calibration: Calibration, seed: int = 1, **how: Any) -> Run:
    tables = {"cluster": {"seed": seed}, "training": {"rounds": ROUNDS, "eval_every": 2}}
    config = changed(builtin(), {**tables, "network": {"emulate": "10-15MB"}, **how})
    simulate(Point(config, calibration, full_trace=True), folder)
    return read_course(folder)


def slower(of: Calibration, factor: float) -> Calibration:
    """Steps take that many times as long."""

    def model(cost: ModelCost) -> ModelCost:
        steps = [
            replace(
                step,
                alone_s=tuple(s * factor for s in step.alone_s),
                busy_s=tuple(s * factor for s in step.busy_s),
            )
            for step in cost.steps
        ]
        return replace(cost, steps=tuple(steps))

    models = tuple(map(model, of.measured.models))
    return Calibration(replace(of.measured, models=models), "slower")


def test_a_live_run_replays_to_identical_decisions_and_equal_bytes(live: Path) -> None:
    runs = [read_course(live)]
    metric = exact.decision_replay(exact.decisions_of(runs))
    assert (metric.verdict, metric.shown) == ("ok", f"{3 * LIVE_ROUNDS} of {3 * LIVE_ROUNDS}")
    for payload in exact.payload_bytes(exact.payloads_of(runs)):
        assert payload.verdict == "ok", payload


def tamper(folder: Path, change: Callable[[dict[str, Any]], bool]) -> str:
    """Change the first record of a trace for which `change` says that it did; returns whose."""
    for path in sorted(folder.glob("*.trace.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        if any(change(record) for record in records):
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
            return path.name.split(".")[0]
    raise AssertionError("there is no such record")


def another_version(record: dict[str, Any]) -> bool:
    event = record.get("event", {})
    if event.get("is") != "LayerReceived":
        return False
    event["version"] += 1
    return True


def more_bytes(record: dict[str, Any]) -> bool:
    if record["kind"] != "served":
        return False
    for kinds in record["answered"].values():
        if "chunk" in kinds:
            kinds["chunk"][1] += 1
            return True
    return False


def test_a_tampered_event_makes_the_replay_differ(copy: Path) -> None:
    worker = tamper(copy, another_version)
    metric = exact.decision_replay(exact.decisions_of([read_course(copy)]))
    assert metric.verdict == "missed"
    assert f"{worker} differs first at" in metric.note


def taken_again(record: dict[str, Any]) -> bool:
    """The trainer takes an update that nobody has handed to it: two would be under way next."""
    if record.get("event", {}).get("is") != "UpdateTaken":
        return False
    record["event"]["round"] += 1
    return True


def test_an_event_that_the_core_objects_to_is_a_difference_too(copy: Path) -> None:
    tamper(copy, taken_again)
    found = exact.decisions_of([read_course(copy)])
    assert exact.decision_replay(found).verdict == "missed"


def test_a_run_that_began_with_a_checkpoint_is_judged_by_its_decisions_and_bytes_only(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = copy / "w1.trace.jsonl"
    lines = trace.read_text().splitlines()
    at, header = next((n, it) for n, it in enumerate(map(json.loads, lines)) if "spec" in it)
    lines[at] = json.dumps(
        {**header, "resumed": Rounds(WorkerSpec.from_plain(header["spec"])).memory(0.0)}
    )
    trace.write_text("\n".join(lines) + "\n")
    assert main(["compare", str(copy)]) == 2
    assert "w1 began with a checkpoint" in capsys.readouterr().err
    assert main(["compare", str(copy), "--exact"]) == 0


def test_one_byte_more_on_the_wire_is_noticed(copy: Path) -> None:
    tamper(copy, more_bytes)
    metric = exact.payload_bytes(exact.payloads_of([read_course(copy)]))[0]
    assert metric.verdict == "missed"
    assert "chunk: -1 bytes" in metric.note


def test_another_constant_in_the_core_makes_the_replay_differ(
    live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bandwidth, "WINDOW_BYTES", bandwidth.WINDOW_BYTES / 4)
    assert exact.decision_replay(exact.decisions_of([read_course(live)])).verdict == "missed"


# --- a twin of a twin has no error ----------------------------------------------------------------


def judged(run: Run, calibration: Calibration) -> list[Metric]:
    twin = [(run, predict.by_itself(run, calibration, 1))]
    return [
        *times.round_time_free(twin),
        *times.round_time_alike([(run, predict.with_its_decisions(run, calibration))]),
        times.staleness(twin),
    ]


def test_the_twin_of_a_simulated_run_is_that_run(tmp_path: Path) -> None:
    known = calibration.load()
    run = simulated(tmp_path, known)
    *free, median, _, stale = judged(run, known)
    assert [metric.value for metric in (*free, stale)] == [0.0] * 4
    assert median.value is not None
    assert median.value < 0.01
    pulls = predict.pulls_again(run, known)
    assert len(pulls) > 10
    assert max(abs(pull.error) for pull in pulls) < 0.05


def test_a_wrong_calibration_is_noticed(tmp_path: Path) -> None:
    run = simulated(tmp_path, slower(calibration.load(), 1.5))
    mean = judged(run, calibration.load())[0]
    assert mean.verdict == "missed"
    assert mean.signed_error is not None
    assert -0.4 < mean.signed_error < -0.2  # a third off the steps, nothing off the transfers


def test_a_calibration_from_another_run_is_as_good_as_the_one_it_was_made_with(
    tmp_path: Path,
) -> None:
    known = slower(calibration.load(), 1.5)
    other, run = (simulated(tmp_path / str(seed), known, seed) for seed in (2, 1))
    mean = judged(run, calibration_of(other, calibration.load()))[0]
    assert mean.verdict == "ok", mean


def slowed(of: Calibration, *factors: float) -> Calibration:
    """Pulls take that many times as long, each as likely."""
    network = replace(of.measured.network, slowdown=factors, met_slowdown=factors)
    return Calibration(replace(of.measured, network=network), "slowed")


def test_how_much_pulls_were_slowed_down_is_learned_from_a_run(tmp_path: Path) -> None:
    known = slowed(calibration.load(), 1.0, 1.5)
    lossy, smooth = (
        calibration_of(simulated(tmp_path / name, of, training={"rounds": 30}), known)
        for name, of in (("lossy", known), ("smooth", calibration.load()))
    )
    values = lossy.measured.network.slowdown
    assert values[0] == pytest.approx(1.0, abs=0.01)
    assert values[-1] == pytest.approx(1.5, abs=0.01)
    assert sum(values) / len(values) == pytest.approx(1.25, abs=0.1)
    assert smooth.measured.network.slowdown == pytest.approx([1.0] * 20, abs=0.01)


def test_only_pulls_that_are_met_by_another_are_slowed_down_by_it(tmp_path: Path) -> None:
    known = calibration.load()
    network = replace(known.measured.network, met_slowdown=(2.0,))
    known = Calibration(replace(known.measured, network=network), "met")
    run = simulated(tmp_path, known, training={"rounds": 30})
    learned_of = calibration_of(run, known).measured.network
    assert max(learned_of.slowdown) < 1.1
    assert learned_of.met_slowdown == pytest.approx([2.0] * len(learned_of.met_slowdown), abs=0.1)


def test_what_chance_does_to_each_pull_is_not_guessed(tmp_path: Path) -> None:
    known = slowed(calibration.load(), 1.0, 1.2, 2.0)
    run = simulated(tmp_path, known)
    likely = slowed(calibration.load(), 1.2)
    assert predict.pulls_again(run, known) == predict.pulls_again(run, likely)


def test_accuracy_and_ranking_need_repeats(tmp_path: Path) -> None:
    known = calibration.load()
    run = simulated(tmp_path, known)
    found = [*learned.accuracy([(run, run)]), learned.ranking([(run, run)])]
    assert [metric.verdict for metric in found] == ["n/a"] * 3


def test_runs_of_two_strategies_with_repeats_are_ranked_alike(tmp_path: Path) -> None:
    known = calibration.load()
    runs = [
        simulated(tmp_path / f"{strategy}-{seed}", known, seed, mpls={"strategy": strategy})
        for strategy in ("appg", "local")
        for seed in (1, 2, 3)
    ]
    pairs = [(run, run) for run in runs]
    inside, to_accuracy = learned.accuracy(pairs)
    assert (inside.verdict, to_accuracy.value) == ("ok", 0.0)
    assert learned.ranking(pairs).verdict in ("ok", "n/a")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_leaves_a_table_and_a_page_beside_the_run(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(copy), "--jobs", "1"]) in (0, 1)
    shown = capsys.readouterr().out
    assert f"{3 * LIVE_ROUNDS} of {3 * LIVE_ROUNDS}" in shown
    rows = json.loads((copy / "compare.json").read_text())
    assert {row["number"] for row in rows} == set(range(1, 9))
    assert {row["verdict"] for row in rows} <= {"ok", "missed", "n/a"}
    assert "Pulls over time" in (copy / "report.html").read_text()


def test_who_had_left_before_a_run_began_has_no_trace_to_be_judged(copy: Path) -> None:
    absent = '\n[[workers]]\nid = 3\nname = "w3"\naddress = "127.0.0.1:0"\nleft = true\n'
    with (copy / "cluster.toml").open("a") as file:
        file.write(absent)
    assert main(["compare", str(copy), "--exact"]) == 0
    assert read_course(copy).recorded.workers[3].rounds == 0


def test_only_what_is_exact_is_judged_in_a_moment(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(copy), "--exact", "--json"]) == 0
    assert [row["number"] for row in json.loads(capsys.readouterr().out)] == [1, 2, 2]
    assert not (copy / "report.html").exists()
    tamper(copy, another_version)
    assert main(["compare", str(copy), "--exact"]) == 1


def test_a_run_is_not_calibrated_with_itself(
    live: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(live), "--calibration", str(copy)]) == 2
    assert "calibrate with another one" in capsys.readouterr().err


def test_what_is_no_run_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no folder of a run")


# --- statistics -----------------------------------------------------------------------------------

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(NUMBERS)
def test_a_sample_has_no_distance_from_itself(values: list[float]) -> None:
    assert kolmogorov_smirnov(values, values) == 0.0
    assert min(values) <= quantile(values, 0.95) <= max(values)


def test_samples_that_do_not_meet_are_as_far_apart_as_can_be() -> None:
    assert kolmogorov_smirnov([1.0, 2.0], [3.0, 4.0]) == 1.0
    assert kolmogorov_smirnov([1.0, 3.0], [2.0, 4.0]) == 0.5


def test_kendall_counts_only_what_is_apart() -> None:
    counted = apart([(0.0, 1.0), (2.0, 3.0), (2.5, 4.0)])
    assert counted == [(0, 1), (0, 2)]
    assert kendall_tau([(0.5, 9.0), (2.5, 10.0), (3.0, 8.0)], counted) == 0.0


@given(NUMBERS)
def test_twentieths_keep_the_mean_of_few_values_and_rise(values: list[float]) -> None:
    sample = twentieths(values)
    assert list(sample) == pytest.approx(sorted(sample))
    assert len(sample) == min(20, len(values))


# --- what if --------------------------------------------------------------------------------------


def test_a_finished_run_is_priced_under_slower_links(
    live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["whatif", str(live), "--bw", "100kB", "--json"]) == 0
    priced = json.loads(capsys.readouterr().out)
    assert priced["what if"]["round_s"] > 2 * priced["replayed"]["round_s"]
    assert priced["live"]["pulled_bytes"] > 0


def test_a_run_that_is_priced_as_it_was_asks_for_a_change(
    live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["whatif", str(live)]) == 2
    assert "nothing is changed; give one of --bw" in capsys.readouterr().err
