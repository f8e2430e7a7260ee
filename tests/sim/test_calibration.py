"""A calibration file: what may be in it, what the twin makes of it, and how it is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mpls.cli import cli
from mpls.core.calibration import Measured, Progress, StepCost, loads
from mpls.errors import BadInput
from mpls.runtime import calibrate_fits as fits
from mpls.runtime.calibrate import Effort
from sim.calibration import DEFAULT_FILE, Calibration, StepTimes, load

SHIPPED = load()
RISING = tuple(0.001 * n for n in range(1, 12))
MODELS = ("simple-mlp", "lenet5", "nin", "resnet18")
Change = tuple[tuple[str | int, ...], Any]


def changed(*changes: Change) -> str:
    """The shipped file with some values replaced, by their place; None removes."""
    plain = json.loads(DEFAULT_FILE.read_text())
    for place, value in changes:
        inner = plain
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
    return json.dumps(plain)


def with_steps(*steps: StepCost) -> Calibration:
    model = replace(SHIPPED.measured.models[0], steps=steps)
    return replace(SHIPPED, measured=replace(SHIPPED.measured, models=(model,)))


# --- the file ---


def test_what_is_written_is_read_back() -> None:
    measured = SHIPPED.measured
    assert loads(measured.dumps(), "a file") == measured
    assert loads(DEFAULT_FILE.read_text(), "a file").dumps() == DEFAULT_FILE.read_text()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ([(("format",), "mpls-calibration-9")], 'its "format" must be "mpls-calibration-1"'),
        ([(("speed",), 1)], 'unknown key "speed"; known are stamp, models, mix'),
        ([(("mix",), 3)], "mix: 3 must be an object"),
        ([(("mix", "once_s"), -1.0)], "mix: once_s: -1.0 must be finite and not below 0"),
        ([(("mix", "once_s"), float("nan"))], "mix: once_s: NaN must be finite"),
        ([(("mix", "once_s"), "1")], 'mix: once_s: "1" must be a number'),
        ([(("mix", "once_s"), True)], "mix: once_s: true must be a number"),
        ([(("stamp", "cores"), 1.5)], "stamp: cores: 1.5 must be a whole number"),
        ([(("stamp", "host"), None)], "stamp: host: null must be a text"),
        ([(("stamp", "versions"), [])], "stamp: versions: [] must be an object"),
        ([(("stamp", "versions", "mpls"), 1)], "stamp: versions.mpls: 1 must be a text"),
        ([(("models",), {})], "models: {} must be a list"),
        ([(("models", 0, "steps"), [])], 'model "simple-mlp": steps must not be empty'),
        ([(("models", 1, "name"), "simple-mlp")], "models: a name is there twice"),
        ([(("models", 0, "steps", 0, "batch_size"), 0)], "batch_size: 0 must be above 0"),
        ([(("models", 0, "steps", 0, "alone_s"), [])], "alone_s: [] must be values above 0"),
        ([(("models", 0, "steps", 1, "busy_s"), [2.0, 1.0])], "busy_s: [2.0, 1.0] must be values"),
        ([(("network", "round_trip_s"), [0.0, 1.0])], "round_trip_s: [0.0, 1.0] must be values"),
        ([(("network", "busy_round_trip_s", 3), "x")], "network: busy_round_trip_s[3]: "),
        ([(("network", "payload_share"), 1.01)], "payload_share: 1.01 must be at most 1"),
        ([(("network", "bandwidth_Bps"), 0.0)], "network: bandwidth_Bps: 0 must be above 0"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_value(changes: list[Change], complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        loads(changed(*changes), "my.json")
    assert str(caught.value).startswith("my.json: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_from_before_slowdowns_were_measured_has_none() -> None:
    plain = json.loads(DEFAULT_FILE.read_text())
    del plain["network"]["slowdown"], plain["network"]["met_slowdown"]
    network = loads(json.dumps(plain), "a file").network
    assert (network.slowdown, network.met_slowdown) == ((1.0,), (1.0,))


def test_a_missing_key_is_named() -> None:
    plain = json.loads(DEFAULT_FILE.read_text())
    del plain["network"]["serve_s"]
    with pytest.raises(BadInput, match=r"my\.json: network: serve_s is missing"):
        loads(json.dumps(plain), "my.json")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not JSON"),
        (b"[1, 2", "not JSON"),
        (b"[1, 2]", "no calibration"),
        (b"\xff\xfe\x00", "not a text file"),
        (None, "no such file or directory"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    file = tmp_path / "c.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput, match=complaint) as caught:
        load(file)
    assert str(caught.value).startswith(str(file))


def test_the_shipped_file_has_every_shipped_model_and_says_where_it_was_measured() -> None:
    assert tuple(model.name for model in SHIPPED.measured.models) == MODELS
    assert {"mpls", "python", "torch", "pyzmq"} <= set(SHIPPED.measured.stamp.versions)
    for model in MODELS:
        timing = SHIPPED.timing(model)
        assert 0 < timing.publish_s < timing.mix_s < timing.evaluate_s
        assert 0 < timing.one_way_s < 0.01
        assert SHIPPED.fit(model).step_s > 0
    sizes = [model.model_bytes for model in SHIPPED.measured.models]
    assert sizes == [203_560, 246_824, 3_867_944, 44_918_928]


# --- what the twin makes of it ---


def test_a_model_that_was_not_measured_says_how_to_measure_it() -> None:
    for ask in (SHIPPED.timing, SHIPPED.fit, lambda name: SHIPPED.steps(name, 32, True)):
        with pytest.raises(BadInput, match=r"`mpls calibrate --model my:net --out FILE`"):
            ask("my:net")


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_step_times_rise_from_the_least_to_the_largest(low: float, high: float) -> None:
    times = StepTimes(RISING)
    low, high = sorted((low, high))
    assert RISING[0] <= times.at(low) <= times.at(high) <= RISING[-1]


def test_each_value_of_a_sample_is_equally_likely() -> None:
    times = StepTimes((1.0, 2.0, 2.0, 7.0))
    assert [times.at(n / 8) for n in range(8)] == [1, 1, 2, 2, 2, 2, 7, 7]
    assert times.mean_s == 3
    assert times.deviation_s == pytest.approx(5.5**0.5)


def test_steps_with_transfers_going_on_are_told_from_steps_alone() -> None:
    slow = tuple(2 * value for value in RISING)
    calibration = with_steps(StepCost(32, RISING, slow))
    assert calibration.steps("simple-mlp", 32, busy=False).values_s == RISING
    assert calibration.steps("simple-mlp", 32, busy=True).values_s == slow


def test_the_time_of_another_batch_size_lies_on_the_line_through_those_measured() -> None:
    flat = {size: StepTimes((seconds,)) for size, seconds in ((32, 5.0), (64, 9.0))}
    calibration = with_steps(
        *(StepCost(size, times.values_s, times.values_s) for size, times in flat.items())
    )
    seconds = [calibration.steps("simple-mlp", n, False).mean_s for n in (8, 32, 40, 64, 128)]
    assert seconds == pytest.approx([2.0, 5.0, 6.0, 9.0, 17.0])


@pytest.mark.parametrize(
    "steps",
    [
        (StepCost(32, RISING, RISING),),
        (StepCost(32, RISING, RISING), StepCost(64, RISING, RISING)),
    ],
)
def test_where_there_is_no_such_line_time_goes_by_images(steps: tuple[StepCost, ...]) -> None:
    times = with_steps(*steps).steps("simple-mlp", 16, busy=False)
    assert times.values_s == pytest.approx([value / 2 for value in RISING])


def test_a_fit_has_the_mean_and_the_spread_of_the_steps_and_the_measured_decay() -> None:
    even = tuple(1.0 + 0.0002 * n for n in range(1001))
    calibration = with_steps(StepCost(32, even, even))
    measured = calibration.measured.models[0].progress
    fit = calibration.fit("simple-mlp")
    assert fit.step_s == pytest.approx(1.1)
    assert fit.step_spread == pytest.approx(0.1 / 1.1, rel=1e-3)
    assert measured is not None
    assert (fit.scale, fit.knee, fit.progress_spread) == (
        measured.scale,
        measured.knee,
        measured.spread,
    )


def test_overheads_are_those_of_the_measured_link() -> None:
    network, overhead = SHIPPED.measured.network, SHIPPED.overhead()
    assert overhead.payload_share == network.payload_share
    assert overhead.round_trip_s == median(network.round_trip_s)


# --- fits ---


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=200))
def test_a_sample_rises_and_has_the_mean_of_what_was_measured(values: list[float]) -> None:
    found = fits.sample(values)
    assert list(found) == sorted(found)
    assert len(found) == min(20, len(values))
    if len(values) % len(found) == 0:
        assert sum(found) / len(found) == pytest.approx(sum(values) / len(values), rel=1e-4)


@given(st.floats(1e-6, 1e-2), st.floats(1e-12, 1e-8))
def test_an_affine_fit_finds_the_line_that_the_values_are_on(once: float, per_byte: float) -> None:
    sizes = (2e5, 2e6, 4.5e7)
    line = fits.affine(sizes, [once + per_byte * size for size in sizes])
    assert line.once_s == pytest.approx(once, rel=1e-3)
    assert line.byte_s == pytest.approx(per_byte, rel=1e-3)


def test_no_part_of_an_affine_fit_is_negative() -> None:
    assert fits.affine((1.0, 2.0, 4.0), (1.0, 3.0, 9.0)).once_s == 0
    assert fits.affine((1.0, 2.0, 4.0), (9.0, 3.0, 1.0)).byte_s == 0


@given(st.floats(0.01, 10), st.sampled_from(fits.KNEES[8:34]))
def test_a_decay_is_found_again(scale: float, knee: float) -> None:
    found = fits.progress([scale / (1 + number / knee) for number in range(1, 31)])
    assert found.scale == pytest.approx(scale, rel=1e-3)
    assert found.knee == pytest.approx(knee, rel=1e-3)
    assert found.spread == pytest.approx(0, abs=1e-3)


def test_the_spread_of_a_decay_is_that_of_its_rounds() -> None:
    wobble = [1.2 if number % 2 else 1 / 1.2 for number in range(1, 201)]
    found = fits.progress([up / (1 + number / 10) for number, up in enumerate(wobble, 1)])
    assert isinstance(found, Progress)
    assert found.spread == pytest.approx(3**0.5 * 0.1823, rel=0.01)


# --- measuring ---


@pytest.mark.timeout(120)
def test_calibrating_writes_a_file_that_the_twin_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    glance = Effort(("simple-mlp",), step_s=0.1, rounds=3, requests=20, pulls=1, repeats=1)
    monkeypatch.setattr("mpls.runtime.calibrate.QUICK", glance)
    file = tmp_path / "here.json"
    ran = CliRunner().invoke(cli, ["calibrate", "--quick", "--out", str(file)])
    assert ran.exit_code == 0, ran.output
    assert f"written to {file}" in ran.output
    assert "simple-mlp: local steps of 32 images, with transfers both ways" in ran.stderr
    calibration = load(file)
    _demand_plausible(calibration.measured)
    assert calibration.timing("simple-mlp").one_way_s > 0
    assert [model.name for model in calibration.measured.models] == ["simple-mlp"]


def _demand_plausible(measured: Measured) -> None:
    network, (model,) = measured.network, measured.models
    assert [step.batch_size for step in model.steps] == [32, 64]
    assert all(1e-5 < seconds[0] < 0.1 for s in model.steps for seconds in (s.alone_s, s.busy_s))
    assert model.test_s > model.steps[0].alone_s[0]
    assert model.progress is not None
    assert model.progress.scale > 0
    assert measured.mix.seconds(1e8) > measured.publish.seconds(1e8) > 0
    assert 0 < network.serve_s < 0.1
    assert network.bandwidth_Bps > 2 * network.paced_Bps
    assert 0.5 < network.payload_share <= 1
    assert 0.3 < network.duplex_ratio < 1.5


def test_calibrating_into_a_folder_that_is_not_there_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    ran = CliRunner().invoke(cli, ["calibrate", "--out", str(tmp_path / "no" / "c.json")])
    assert isinstance(ran.exception, BadInput)
    assert "there is no folder" in str(ran.exception)


def test_an_unknown_model_is_refused() -> None:
    ran = CliRunner().invoke(cli, ["calibrate", "--model", "no-such", "--out", "/tmp/c.json"])
    assert isinstance(ran.exception, BadInput)
    assert "'no-such' is unknown" in str(ran.exception)
