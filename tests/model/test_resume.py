"""A learner that is saved and restored goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mpls.checkpoint import Checkpoint, decode, encode
from mpls.core.mixing import LayerSum
from mpls.core.streams import Stream
from mpls.errors import BadInput
from mpls.model.data import Dataset
from mpls.model.layers import FlatModel
from mpls.model.training import Learner

CLASSES, SAMPLES, PASSES = 3, 40, 4
COMMITS = (7, 10, 16)
"""After these local steps a recorded copy of the weights is mixed in."""


class Net(nn.Module):
    """With all that has a state beside its weights: statistics, a counter, and chance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(2 * 4 * 4, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(torch.relu(self.norm(self.conv(images)))).flatten(1))


def dataset() -> Dataset:
    draws = np.random.default_rng(1)
    images = draws.integers(0, 256, (SAMPLES, 1, 6, 6), np.uint8)
    labels = draws.integers(0, CLASSES, SAMPLES)
    return Dataset("x", images, labels, images, labels, CLASSES, (1, 6, 6), (0.5,), (0.25,))


DATA = dataset()


def learner(momentum: float, seed: int = 1) -> Learner:
    torch.manual_seed(seed)
    return Learner(
        FlatModel(Net()),
        DATA,
        np.arange(SAMPLES),
        batch_size=8,
        lr=0.1,
        momentum=momentum,
        order=Stream(1, "batches", "w0"),
    )


def advance(worker: Learner, until_step: int) -> Learner:
    """Train, and mix the recorded copies in at their steps."""
    while worker.steps < until_step:
        worker.step()
        if worker.steps in COMMITS:
            copy = np.random.default_rng(worker.steps).standard_normal(worker.model.host.size)
            mean = LayerSum(np.float32)
            assert mean.add(copy.astype(np.float32))
            mean.mix_into(worker.model.host)
    return worker


def weight_hash(worker: Learner) -> str:
    buffers = worker.model.module.state_dict()
    return hashlib.sha256(
        b"".join(values.numpy().tobytes() for values in (worker.model.weights, *buffers.values()))
    ).hexdigest()


def through_a_file(worker: Learner) -> Checkpoint:
    tensors, plain = worker.state()
    nothing: dict[str, object] = {}
    saved = Checkpoint(
        "w0", "m", nothing, 0, worker.steps, 0, tensors, plain, nothing, nothing, nothing, 0.0
    )
    return decode(b"".join(encode(saved)), "x")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 20), st.sampled_from([0.0, 0.9]))
def test_row_19_a_run_that_crashed_at_any_step_ends_with_the_weights_of_one_that_did_not(
    crash: int, momentum: float
) -> None:
    whole = advance(learner(momentum), 20)
    saved = through_a_file(advance(learner(momentum), crash))
    again = learner(momentum, seed=99)
    again.restore(saved.tensors, saved.learner)
    assert again.steps == crash
    assert weight_hash(advance(again, 20)) == weight_hash(whole)
    assert again.take_loss() == whole.take_loss()


def test_what_was_saved_does_not_change_with_the_training_that_goes_on() -> None:
    worker = advance(learner(0.9), 3)
    tensors, plain = worker.state()
    before = {name: values.copy() for name, values in tensors.items()}, json.dumps(plain)
    advance(worker, 9)
    assert all(np.array_equal(values, before[0][name]) for name, values in tensors.items())
    assert json.dumps(plain) == before[1]


def test_a_state_written_over_an_older_one_is_the_same_in_no_new_memory() -> None:
    worker = advance(learner(0.9), 3)
    older, _ = worker.state()
    advance(worker, 9)
    fresh, plain = worker.state()
    again, plain_again = worker.state(older)
    assert plain_again == plain
    assert again.keys() == fresh.keys()
    for name, values in again.items():
        assert values is older[name]
        assert np.array_equal(values, fresh[name])


def test_a_state_written_over_one_from_before_the_first_step_has_the_momentum_too() -> None:
    worker = learner(0.9)
    older, _ = worker.state()
    assert "velocity" not in older
    fresh, again = advance(worker, 2).state()[0], worker.state(older)[0]
    assert np.array_equal(again["velocity"], fresh["velocity"])


def test_the_state_of_another_model_is_refused() -> None:
    tensors, plain = learner(0.0).state()
    with pytest.raises(BadInput, match=r"weights: \(3,\) where \(\d+,\) belongs"):
        learner(0.0).restore({**tensors, "weights": np.zeros(3, np.float32)}, plain)
    del tensors["buffer.norm.num_batches_tracked"]
    with pytest.raises(BadInput, match=r"buffer.norm.num_batches_tracked: None"):
        learner(0.0).restore(tensors, plain)
