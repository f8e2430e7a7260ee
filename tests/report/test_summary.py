"""`summary.json` says what became of each worker, and how far their models are apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mpls.report.progress import WorkerProgress
from mpls.report.summary import consensus_distance, summarise

Tensors = dict[str, np.ndarray]


def models(count: int, seed: int = 1, dtype: str = "float32") -> list[Tensors]:
    random = np.random.default_rng(seed)
    shapes = {"conv.weight": (4, 3, 3), "conv.bias": (4,), "fc.weight": (10, 7)}
    return [
        {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def saved(folder: Path, weights: list[Tensors]) -> list[Path]:
    files = [folder / f"w{number}.safetensors" for number in range(len(weights))]
    for file, tensors in zip(files, weights):
        save_file(tensors, file)
    return files


def reference(weights: list[Tensors]) -> float:
    """Root mean square distance from the mean, each model one long float64 vector."""
    flat = np.array([np.concatenate([t.ravel() for t in model.values()]) for model in weights])
    distances = np.linalg.norm(
        flat.astype(np.float64) - flat.mean(axis=0, dtype=np.float64), axis=1
    )
    return float(np.sqrt((distances**2).mean()))


@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from(["float16", "float32", "float64"]))
def test_the_distance_from_consensus_is_that_of_numpy(tmp_path_factory, count, seed, dtype):
    weights = models(count, seed, dtype)
    files = saved(tmp_path_factory.mktemp("weights"), weights)
    assert consensus_distance(files) == pytest.approx(reference(weights), rel=1e-6, abs=1e-9)


def test_equal_models_are_at_consensus(tmp_path):
    (weights,) = models(1)
    assert consensus_distance(saved(tmp_path, [weights] * 3)) == 0.0


def test_two_models_are_each_half_their_distance_from_the_mean(tmp_path):
    zero, one = {"w": np.zeros(1, np.float32)}, {"w": np.full(1, 3, np.float32)}
    assert consensus_distance(saved(tmp_path, [zero, one])) == 1.5


def test_without_every_models_weights_there_is_no_distance(tmp_path):
    files = saved(tmp_path, models(3))
    files[1].unlink()
    assert consensus_distance(files) is None
    assert consensus_distance([]) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_no_number_any_more_has_no_distance(tmp_path, value):
    weights = models(3)
    weights[1]["conv.bias"][2] = value
    assert consensus_distance(saved(tmp_path, weights)) is None


def test_models_that_are_merely_huge_have_one(tmp_path):
    weights = models(2)
    weights[0]["conv.bias"][:] = 1e30
    assert consensus_distance(saved(tmp_path, weights)) == pytest.approx(1e30, rel=1e-5)


def test_the_summary_has_each_worker_with_its_exit_and_is_json(tmp_path):
    saved(tmp_path, models(2))
    workers = [
        WorkerProgress("w0", "stopped", pid=7, round=20, local_steps=1660, test_accuracy=0.93),
        WorkerProgress("w1", "failed", "training: why", pid=8, round=4, pulls_failed=2),
    ]
    summary = summarise(
        workers, [0, 1], tmp_path, status="failed", strategy="mpls", seconds=1.23456
    )
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["status"], summary["strategy"], summary["seconds"]) == ("failed", "mpls", 1.235)
    assert summary["consensus_distance"] == consensus_distance(
        [tmp_path / "w0.safetensors", tmp_path / "w1.safetensors"]
    )
    first, second = summary["workers"]
    assert [first[key] for key in ("id", "name", "pid", "rounds", "local_steps", "exit")] == [
        *(0, "w0", 7, 20, 1660, 0)
    ]
    assert [second[key] for key in ("id", "state", "reason", "pulls_failed", "exit")] == [
        *(1, "failed", "training: why", 2, 1)
    ]


def test_the_summary_has_the_keys_that_were_promised(tmp_path):
    summary = summarise(
        [WorkerProgress("w0")], [-9], tmp_path, status="failed", strategy="local", seconds=0.0
    )
    assert {"status", "strategy", "seconds", "workers", "consensus_distance"} <= summary.keys()
    promised = """id name pid rounds local_steps test_accuracy local_accuracy test_loss
        class_accuracy bytes_in bytes_out pulls_ok pulls_failed exit"""
    assert set(promised.split()) <= summary["workers"][0].keys()
    assert summary["workers"][0]["exit"] == -9
