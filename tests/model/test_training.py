"""A Learner learns from its own shard only, in an order that its stream decides, and tests what it
says it tests."""

from __future__ import annotations

import dataclasses
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mpls.core.streams import Stream
from mpls.errors import BadInput
from mpls.model.data import Dataset, load
from mpls.model.layers import FlatModel
from mpls.model.nets import build
from mpls.model.training import Diverged, Learner, torch_device

DIGITS = load("digits", "")
TEST = DIGITS.test_images, DIGITS.test_labels


def learner(
    model: str | nn.Module = "simple-mlp",
    dataset: Dataset = DIGITS,
    samples: int = 320,
    batch_size: int = 32,
    lr: float = 0.1,
    seed: int = 1,
) -> Learner:
    if isinstance(model, str):
        model = build(model, dataset.input_shape, dataset.classes, seed=1)
    return Learner(
        FlatModel(model),
        dataset,
        np.arange(samples),
        batch_size=batch_size,
        lr=lr,
        momentum=0.0,
        order=Stream(seed, "data", "order", 0),
    )


def train(worker: Learner, steps: int) -> Learner:
    for _ in range(steps):
        worker.step()
    return worker


class Recorder(nn.Module):
    """Remembers the brightness of every image it is shown in training."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[float]] = []
        self.fc = nn.Linear(1, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = images.flatten(1).mean(1, keepdim=True)
        if self.training:
            self.seen.append(brightness.flatten().tolist())
        return self.fc(brightness)


def numbered(count: int) -> Dataset:
    """Every image is a flat grey of its own."""
    images = np.repeat(np.arange(count, dtype=np.uint8), 4).reshape(-1, 1, 2, 2)
    labels = np.arange(count) % 10
    return Dataset("grey", images, labels, images, labels, 10, (1, 2, 2), (0.0,), (1 / 255,))


def test_a_pass_shows_full_batches_of_different_samples_in_a_new_order_each_time():
    recorder = Recorder()
    worker = learner(recorder, numbered(50), samples=50, batch_size=16)
    assert worker.pass_steps == 3
    train(worker, 6)
    first, second = list(chain(*recorder.seen[:3])), list(chain(*recorder.seen[3:]))
    assert {len(batch) for batch in recorder.seen} == {16}
    assert len(set(first)) == len(set(second)) == 48
    assert first != second


def test_only_the_own_shard_is_trained_on():
    recorder = Recorder()
    worker = learner(recorder, numbered(50), samples=20, batch_size=5)
    train(worker, worker.pass_steps)
    assert sorted(chain(*recorder.seen)) == pytest.approx(list(range(20)))


def test_a_shard_smaller_than_a_batch_is_one_batch():
    worker = learner(samples=7, batch_size=32)
    assert (worker.batch_size, worker.pass_steps) == (7, 1)
    train(worker, 2)


def test_the_same_stream_gives_the_same_weights_and_another_one_others():
    first, again, other = (train(learner(seed=seed), 20).model.host for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_step_is_the_textbook_step():
    worker = learner(samples=32, batch_size=32, lr=0.5)
    module = build("simple-mlp", (1, 28, 28), 10, seed=1)
    pixels = torch.from_numpy(DIGITS.train_images[:32]) / 255
    loss = cross_entropy(
        module((pixels - 0.1307) / 0.3081), torch.from_numpy(DIGITS.train_labels[:32])
    )
    loss.backward()
    train(worker, 1)
    expected = [(tensor - 0.5 * tensor.grad).detach().numpy() for tensor in module.parameters()]
    joined = np.concatenate([values.ravel() for values in expected])
    np.testing.assert_allclose(worker.model.host, joined, atol=1e-5)
    assert worker.take_loss() == pytest.approx(loss.item(), rel=1e-5)


def test_three_passes_over_the_digits_are_worth_85_percent():
    worker = learner(samples=8_000)
    before = worker.evaluate(*TEST)
    after = train(worker, 3 * worker.pass_steps).evaluate(*TEST)
    assert before.accuracy < 0.3
    assert after.accuracy > 0.85
    assert after.loss < before.loss


@pytest.mark.parametrize(
    ("name", "lr", "steps"), [("lenet5", 0.05, 30), ("nin", 0.01, 15), ("resnet18", 0.02, 6)]
)
def test_a_convolutional_network_can_learn_a_few_images_by_heart(name, lr, steps):
    worker = learner(name, samples=8, lr=lr)
    losses = [train(worker, 1).take_loss() for _ in range(steps)]
    assert min(losses) < 0.8 * losses[0]


def test_the_loss_is_the_mean_since_it_was_last_asked_for():
    worker, twin = learner(), learner()
    each = [train(twin, 1).take_loss() for _ in range(4)]
    assert train(worker, 3).take_loss() == pytest.approx(sum(each[:3]) / 3)
    assert train(worker, 1).take_loss() == pytest.approx(each[3])
    assert worker.take_loss() is None


def test_evaluation_counts_right_answers_in_all_and_for_each_class():
    worker = train(learner(samples=2_000), 60)
    found = worker.evaluate(*TEST)
    shares = np.bincount(DIGITS.test_labels) / len(DIGITS.test_labels)
    assert np.dot(found.class_accuracy, shares) == pytest.approx(found.accuracy)
    pixels = (torch.from_numpy(DIGITS.test_images) / 255 - 0.1307) / 0.3081
    with torch.no_grad():
        logits = worker.model.module(pixels)
    answers = logits.argmax(1).numpy()
    assert found.accuracy == pytest.approx((answers == DIGITS.test_labels).mean(), abs=0.001)
    assert found.loss == pytest.approx(
        cross_entropy(logits, torch.from_numpy(DIGITS.test_labels)).item(), rel=1e-4
    )


def test_a_class_without_test_images_has_no_accuracy():
    few = DIGITS.test_labels < 4
    found = learner().evaluate(DIGITS.test_images[few], DIGITS.test_labels[few])
    assert found.class_accuracy[4:] == (None,) * 6
    assert None not in found.class_accuracy[:4]


def test_evaluation_changes_neither_weights_nor_statistics_nor_mode():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(1352, 10))
    worker = train(learner(module), 2)
    before = worker.model.host.copy()
    worker.evaluate(*TEST)
    assert np.array_equal(worker.model.host, before)
    assert module.training
    assert train(worker, 1).steps == 3


def test_an_evaluation_can_be_ended_before_each_batch_and_training_goes_on():
    worker, batches = learner(), []
    images, labels = (np.concatenate([values] * 4) for values in TEST)

    def before_batch() -> None:
        batches.append(len(batches))
        if len(batches) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        worker.evaluate(images, labels, before_batch)
    assert len(batches) == 3
    assert worker.model.module.training
    assert train(worker, 1).steps == 1


def test_a_loss_that_is_not_finite_is_named_with_its_step():
    worker = learner(lr=1e30)
    with pytest.raises(Diverged, match=r"loss was (nan|inf) at local step \d+; try a smaller lr"):
        train(worker, 20)
    assert worker.steps < 20


def test_weights_mixed_in_from_outside_are_what_the_next_step_starts_from():
    worker, twin = train(learner(), 3), train(learner(), 3)
    worker.model.host[:] = 0
    twin.model.host *= 0
    assert np.array_equal(train(worker, 1).model.host, train(twin, 1).model.host)
    assert np.count_nonzero(worker.model.host) > 0


def test_channels_are_scaled_by_their_own_mean_and_deviation():
    images = np.full((4, 3, 2, 2), 51, np.uint8)
    labels = np.arange(4)
    dataset = dataclasses.replace(
        numbered(4), train_images=images, train_labels=labels, input_shape=(3, 2, 2),
        mean=(0.2, 0.1, 0.0), std=(1.0, 0.5, 0.1),
    )  # fmt: skip
    recorder = Recorder()
    train(learner(recorder, dataset, samples=4), 1)
    assert recorder.seen[0] == pytest.approx([(0.0 + 0.2 + 2.0) / 3] * 4, abs=1e-6)


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:x", "mps", ""])
def test_an_unknown_device_lists_the_known_ones(name):
    with pytest.raises(BadInput, match="choose cpu, cuda or cuda:N"):
        torch_device(name)


def test_a_device_that_is_not_here_is_bad_input():
    with pytest.raises(BadInput, match="'cuda:99' is not here"):
        torch_device("cuda:99")
    assert torch_device("cpu").type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_host_copy_is_fetched_and_pushed():
    model = FlatModel(build("simple-mlp", (1, 28, 28), 10, seed=1), torch_device("cuda"))
    model.host[:] = 2
    model.push()
    assert bool((model.module.fc1.weight == 2).all())
    model.weights.fill_(3)
    model.fetch()
    assert (model.host == 3).all()
