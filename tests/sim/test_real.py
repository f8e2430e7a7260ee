"""Virtual workers that really train are, to the last bit, workers that train one by one."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from mpls.core.gate import Gate
from mpls.core.messages import Source
from mpls.errors import RunFailed
from mpls.model import nets
from mpls.model.layers import FlatModel
from mpls.runtime.updates import add_up, mix
from sim import real_batched
from sim.learning import Copy
from sim.real import Real
from tests.sim.real_rig import DIGITS, cluster, learners, real, simulated, weights

MODELS = (
    "simple-mlp",
    "lenet5",
    "tests.sim.own_models:averaging",
    "tests.sim.own_models:bypassed",
)
STEPS = (3, 2, 5)
"""Of successive stretches."""


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_equals_learners_that_train_one_by_one(
    model: str, momentum: float, jobs: int
) -> None:
    config = cluster(5, model={"name": model}, training={"momentum": momentum, "lr": 0.05})
    alone = learners(config)
    with real(config, jobs) as learning:
        for steps in STEPS:
            for worker in range(5):
                learning.begin(worker, steps, surely_all=worker != 3)
            for worker, learner in enumerate(alone):
                for _ in range(steps):
                    learner.step()
                assert learning.end(worker, steps) == learner.take_loss()
                assert np.array_equal(weights(learning, worker), learner.model.host)


def test_workers_with_fewer_samples_than_a_batch_train_as_they_would_alone() -> None:
    config = cluster(
        12, training={"batch_size": 300}, data={"balanced": False, "alpha": 0.05, "min_samples": 20}
    )
    alone = learners(config)
    assert len({learner.batch_size for learner in alone}) == 5
    with real(config) as learning:
        for worker in range(12):
            learning.begin(worker, 2, surely_all=True)
        for worker, learner in enumerate(alone):
            learner.step()
            learner.step()
            learning.end(worker, 2)
            assert np.array_equal(weights(learning, worker), learner.model.host)


def test_where_batched_steps_are_not_exact_none_are_batched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = real_batched.descent

    def off_by_a_bit(*operands: Any) -> list[float]:
        losses = exact(*operands)
        slope = operands[-1][0]
        slope.copy_(torch.nextafter(slope, slope + 1))
        return losses

    monkeypatch.setattr(real_batched, "descent", off_by_a_bit)
    model = FlatModel(nets.build("simple-mlp", (1, 28, 28), 10, seed=1))
    assert real_batched.together(model, 31, lr=0.1, momentum=0.0) is None


@pytest.mark.parametrize("pace", ["overlap", "free", "sequential"])
def test_a_simulation_has_the_same_trace_however_many_processes_train(pace: str) -> None:
    training = {"rounds": 3, "local_steps": 6, "pace": pace, "eval_every": 2}
    alone, spread = (simulated(cluster(4, training=training), jobs) for jobs in (1, 2))
    assert alone.sha256() == spread.sha256()
    kinds = [record["kind"] for record in alone.records["w0"]]
    assert {"pass", "mix", "snapshot", "eval"} <= set(kinds)


@pytest.mark.parametrize("norm_clip", [0.0, 0.5])
def test_mixing_equals_what_live_workers_do(norm_clip: float) -> None:
    config = cluster(4, network={"norm_clip": norm_clip})
    with real(config) as learning:
        trained = [_trained(learning, worker) for worker in range(4)]
        own = trained[0]
        sources = [Source(f"w{n}", layer, n, 1, 0) for n in (2, 1, 3) for layer in ("fc1", "fc2")]
        copies = [Copy(source.layer, trained[source.request_id]) for source in sources]
        trained[2].layers["fc2"] = np.full_like(trained[2].layers["fc2"], np.nan)

        live = {name: values.copy() for name, values in own.layers.items()}
        update = add_up(
            1,
            sources,
            lambda number, layer: trained[number].layers[layer].view(np.uint8).copy(),
            lambda layer: own.layers[layer],
            norm_clip,
            Gate(),
        )
        mix(update, lambda layer: live[layer])
        assert learning.mix(0, copies) == {1: "not-finite"}
        assert [refused.layer for refused in update.refused] == [copies[1].layer]
        mixed = learning.snapshot(0, 2, 1)
        for name, values in live.items():
            assert np.array_equal(mixed.layers[name], values)
            assert not np.array_equal(mixed.layers[name], own.layers[name])


def _trained(learning: Real, worker: int):  # type: ignore[no-untyped-def]
    learning.begin(worker, 2, surely_all=False)
    learning.end(worker, 2)
    return learning.snapshot(worker, 1, 0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_test_is_the_learners_own_before_and_after_mixing(jobs: int) -> None:
    config = cluster(3, training={"local_steps": 2, "eval_every": 1})
    alone = learners(config)
    with real(config, jobs) as learning:
        for worker in range(3):
            learning.begin(worker, 2, surely_all=True)
        for worker, learner in enumerate(alone):
            learning.end(worker, 2)
            learner.model.host[:] = weights(learning, worker)
            _demand_equal_scores(learning, worker, learner)
        peer = learning.snapshot(1, 1, 1)
        learning.mix(0, [Copy(name, peer) for name in peer.layers])
        alone[0].model.host[:] = weights(learning, 0)
        _demand_equal_scores(learning, 0, alone[0])


def _demand_equal_scores(learning: Real, worker: int, learner) -> None:  # type: ignore[no-untyped-def]
    scores = learning.evaluate(worker)
    assert scores is not None
    assert vars(scores) == vars(learner.evaluate(DIGITS.test_images, DIGITS.test_labels))


def test_a_snapshot_stays_as_it_was_published() -> None:
    with real(cluster()) as learning:
        snapshot = learning.snapshot(0, 1, 0)
        before = [values.copy() for values in snapshot.layers.values()]
        _trained(learning, 0)
        assert all(map(np.array_equal, snapshot.layers.values(), before))
        with pytest.raises(ValueError, match="read-only"):
            snapshot.layers["fc1"][0] = 1.0


def test_progress_is_the_squared_distance_of_versions_and_the_path_their_sum() -> None:
    with real(cluster(mpls={"progress": "path"})) as learning:
        versions = []
        for version in (1, 2, 3):
            versions.append(learning.snapshot(0, version, version - 1))
            learning.begin(0, 2, surely_all=False)
            learning.end(0, 2)
        first, second, third = versions
        assert first.path == (0.0, 0.0)
        assert second.path == pytest.approx(_squares(second, first), rel=1e-5)
        steps = zip(_squares(second, first), _squares(third, second))
        assert third.path == pytest.approx([sum(pair) for pair in steps], rel=1e-5)
        assert third.squared_distance(first) == pytest.approx(_squares(third, first), rel=1e-5)
        assert third.squared_distance(second) == pytest.approx(_squares(third, second), rel=1e-5)


def _squares(new, old) -> list[float]:  # type: ignore[no-untyped-def]
    pairs = zip(new.layers.values(), old.layers.values())
    return [float(((a.astype(float) - b) ** 2).sum()) for a, b in pairs]


def test_buffers_of_snapshots_that_nobody_needs_are_used_again() -> None:
    with real(cluster()) as learning:
        held = learning.snapshot(0, 1, 0)
        for version in range(2, 20):
            learning.snapshot(0, version, version)
        gc.collect()
        assert held.version == 1
        assert learning.snapshots.made == 3


def test_virtual_seconds_come_from_the_calibration_and_the_workers_speed() -> None:
    config = cluster()
    fast = config.model_copy(
        update={"workers": tuple(w.model_copy(update={"speed": 2.0}) for w in config.workers)}
    )
    with real(config) as one, real(fast) as other:
        seconds = [one.begin(0, 100, surely_all=False) for _ in range(200)]
        halves = [other.begin(0, 100, surely_all=False) for _ in range(200)]
        times = one.times
    assert halves == pytest.approx([s / 2 for s in seconds], abs=1e-8)
    assert set(seconds) == {round(100 * value, 9) for value in times.values_s}
    assert np.mean(seconds) == pytest.approx(100 * times.mean_s, rel=0.1)


def test_a_worker_that_crashed_goes_on_without_its_lost_results() -> None:
    config = cluster()
    with real(config, jobs=2) as learning:
        learner = learners(config)[0]
        learning.begin(0, 50, surely_all=True)  # it never asks, but publishes when it restarts
        for _ in range(50):
            learner.step()
        assert np.array_equal(weights(learning, 0), learner.model.host)
        learning.begin(0, 2, surely_all=True)
        learning.begin(0, 3, surely_all=True)
        assert learning.end(0, 3) is not None
        for _ in range(5):
            learner.step()
        assert np.array_equal(weights(learning, 0), learner.model.host)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("model", ["simple-mlp", "lenet5"])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_worker(model: str, jobs: int) -> None:
    config = cluster(model={"name": model}, training={"lr": 1e20})
    with real(config, jobs) as learning:
        learning.begin(1, 30, surely_all=True)
        with pytest.raises(RunFailed, match=r"worker w1: .* loss was .* try a smaller lr"):
            learning.end(1, 30)


def test_a_training_process_that_is_killed_ends_the_run() -> None:
    with real(cluster(), jobs=2) as learning:
        learning.begin(1, 10_000, surely_all=True)
        os.kill(_training_processes()["training 1"], signal.SIGKILL)
        with pytest.raises(RunFailed, match=r"training 1 ended unexpectedly \(exit -9\)"):
            learning.end(1, 10_000)


def test_closing_ends_all_processes() -> None:
    with real(cluster(), jobs=2) as learning:
        learning.begin(0, 1, surely_all=True)
        learning.end(0, 1)
        assert list(_training_processes()) == ["training 0", "training 1"]
    assert not _training_processes()


def _training_processes() -> dict[str, int]:
    """Process ids by name."""
    children = {child.name: child.pid for child in multiprocessing.active_children()}
    return {name: pid for name, pid in sorted(children.items()) if pid and "training" in name}


DYING = """
import sys
from typing import Any

if __name__ == "__main__":
    from tests.sim.real_rig import cluster, real

    with real(cluster(), jobs=2) as learning:
        learning.begin(0, 10**9, surely_all=True)
        print("up", flush=True)
        sys.stdin.read()
"""


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    parent = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 3
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
