"""Local training: one SGD minibatch at a time on a worker's shard, and the test of a model.

A Learner belongs to one thread. It never sets torch's thread count or seeds: its caller does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.sgd import sgd

from mpls.core.streams import Stream
from mpls.errors import BadInput, RunFailed
from mpls.model.data import Dataset
from mpls.model.layers import FlatModel

_EVALUATION_BATCH = 500


class Diverged(RunFailed):
    """The training loss is no longer a finite number, so neither are the weights."""


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on a set of images: share of right answers, mean cross-entropy, and
    the share of right answers among the images of each class (None for a class without any)."""

    accuracy: float
    loss: float
    class_accuracy: tuple[float | None, ...]


def torch_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`. Raises BadInput for others, and for what this machine lacks."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise BadInput(f"device {name!r} is unknown; choose cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise BadInput(
            f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use cpu"
        )
    return torch.device(name)


class Learner:
    """A model, its optimizer, and the samples it learns from.

    `shard` indexes the data set's training images, at least one. They are scaled once and kept on
    the model's device. Each pass visits them in a new order drawn from `order`, in full batches
    only, since a last batch of one image would break BatchNorm; who is left over takes part in
    later passes.
    """

    def __init__(
        self,
        model: FlatModel,
        dataset: Dataset,
        shard: np.ndarray,
        *,
        batch_size: int,
        lr: float,
        momentum: float,
        order: Stream,
    ) -> None:
        assert len(shard) > 0
        self.model = model
        self.batch_size = min(batch_size, len(shard))
        self.pass_steps = len(shard) // self.batch_size
        self.steps = 0
        self._classes = dataset.classes
        self._scale, self._shift = _affine(dataset, model.weights)
        self._images = self._scaled(dataset.train_images[shard])
        self._labels = torch.from_numpy(dataset.train_labels[shard]).to(model.device)
        self._lr = lr
        self._momentum = momentum
        self._velocity: list[Tensor | None] = [None]
        self._order = order
        self._pass_order = order.state()
        """Of the stream before the present pass was drawn from it."""
        self._passed = 0
        """Local steps of the present pass that are done."""
        self._batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        self._loss_sum = 0.0
        self._loss_steps = 0

    def step(self) -> None:
        """One minibatch. Raises Diverged if its loss is not finite."""
        images, labels = self.next_batch()
        self.model.gradient.zero_()
        loss = cross_entropy(self.model.module(images), labels)
        self.count_step(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        self._descend()

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The images and labels of the next local step; for `step`, and for who does its work."""
        batch = next(self._batches, None)
        if batch is None:
            self._pass_order, self._passed = self._order.state(), 0
            self._batches = self._new_pass()
            batch = next(self._batches)
        self._passed += 1
        return batch

    def count_step(self, loss: float) -> None:
        """One more local step had this loss. Raises Diverged if that is not finite."""
        if not math.isfinite(loss):
            raise Diverged(
                f"the training loss was {loss} at local step {self.steps + 1}; try a smaller lr"
            )
        self.steps += 1
        self._loss_sum += loss
        self._loss_steps += 1

    def _descend(self) -> None:
        """torch's SGD in its functional form: the class would import torch._dynamo when it is made,
        which takes longer than a whole short run."""
        sgd(
            [self.model.weights],
            [self.model.gradient],
            self._velocity,
            weight_decay=0.0,
            momentum=self._momentum,
            lr=self._lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            foreach=False,
        )

    def take_loss(self) -> float | None:
        """The mean training loss of the steps since this was last asked; None without any."""
        mean = self._loss_sum / self._loss_steps if self._loss_steps else None
        self._loss_sum, self._loss_steps = 0.0, 0
        return mean

    def evaluate(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        before_batch: Callable[[], None] | None = None,
    ) -> Evaluation:
        """Test the current weights on uint8 images (N, *input_shape) and int64 labels (N,). What
        `before_batch` raises ends it."""
        logits = self._logits(images, before_batch)
        wanted = torch.from_numpy(labels)
        right = wanted[logits.argmax(1) == wanted].bincount(minlength=self._classes).tolist()
        asked = wanted.bincount(minlength=self._classes).tolist()
        return Evaluation(
            accuracy=sum(right) / len(labels),
            loss=cross_entropy(logits, wanted).item(),
            class_accuracy=tuple(r / a if a else None for r, a in zip(right, asked)),
        )

    def _logits(self, images: np.ndarray, before_batch: Callable[[], None] | None) -> Tensor:
        module = self.model.module
        module.eval()
        parts = []
        try:
            with torch.inference_mode():
                for at in range(0, len(images), _EVALUATION_BATCH):
                    if before_batch is not None:
                        before_batch()
                    part = self._scaled(images[at : at + _EVALUATION_BATCH])
                    parts.append(module(part).cpu())
        finally:
            module.train()
        return torch.cat(parts)

    def _scaled(self, images: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(images.astype(self.model.manifest.dtype))
        return pixels.to(self.model.device).mul_(self._scale).add_(self._shift)

    def _new_pass(self, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        drawn = self._order.permutation(len(self._labels))[: self.pass_steps * self.batch_size]
        indices = torch.from_numpy(drawn).to(self.model.device)
        batches = torch.split(indices, self.batch_size)[skip:]
        return (
            (self._images.index_select(0, batch), self._labels.index_select(0, batch))
            for batch in batches
        )

    # --- what survives a crash ---

    def state(
        self, spare: Mapping[str, np.ndarray] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything that the steps to come depend on, copied: tensors by name (`weights`,
        `velocity` with momentum, `torch_rng`, and each `buffer.` that does not travel), and the
        rest as JSON knows it (`layout`: names and shapes of what `weights` holds, in order).

        `spare` are tensors of an earlier state, which nobody reads any more: written over."""
        tensors = {"weights": self.model.weights, "torch_rng": torch.get_rng_state()}
        if self._velocity[0] is not None:
            tensors["velocity"] = self._velocity[0]
        if self.model.device.type == "cuda":
            tensors["cuda_rng"] = torch.cuda.get_rng_state(self.model.device)
        tensors |= {f"buffer.{name}": values for name, values in self.model.staying().items()}
        layout = [
            [tensor.name, list(tensor.shape)]
            for layer in self.model.manifest.layers
            for tensor in layer.tensors
        ]
        plain = {
            "layout": layout,
            "order": self._pass_order,
            "passed": self._passed,
            "steps": self.steps,
            "loss_sum": self._loss_sum,
            "loss_steps": self._loss_steps,
        }
        spare = spare or {}
        return {name: _copied(values, spare.get(name)) for name, values in tensors.items()}, plain

    def restore(self, tensors: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> None:
        """Go on where `state` was taken: the steps to come are the same, bit by bit, on the CPU.
        Raises BadInput where it is of another kind of learner."""
        here = {"weights": self.model.weights} | {
            f"buffer.{name}": values for name, values in self.model.staying().items()
        }
        for name, values in here.items():
            _copy_into(name, values, tensors)
        velocity = tensors.get("velocity")
        if velocity is not None:
            fresh = torch.empty_like(self.model.weights)
            _copy_into("velocity", fresh, tensors)
            self._velocity = [fresh]
        torch.set_rng_state(torch.from_numpy(tensors["torch_rng"].copy()))
        if self.model.device.type == "cuda" and "cuda_rng" in tensors:
            state = torch.from_numpy(tensors["cuda_rng"].copy())
            torch.cuda.set_rng_state(state, self.model.device)
        self.model.fetch()
        self.steps = plain["steps"]
        self._loss_sum, self._loss_steps = plain["loss_sum"], plain["loss_steps"]
        self._order.restore(plain["order"])
        self._pass_order, self._passed = plain["order"], plain["passed"]
        self._batches = self._new_pass(skip=self._passed)


def _copied(values: Tensor, spare: np.ndarray | None) -> np.ndarray:
    if spare is None:
        spare = torch.empty_like(values, device="cpu").numpy()
    assert spare.shape == tuple(values.shape)
    torch.from_numpy(spare).copy_(values)
    return spare


def _copy_into(name: str, values: Tensor, tensors: Mapping[str, np.ndarray]) -> None:
    found = tensors.get(name)
    if found is None or found.shape != tuple(values.shape):
        raise BadInput(
            f"{name}: {None if found is None else found.shape} where {tuple(values.shape)} belongs"
        )
    values.copy_(torch.from_numpy(found.copy()))


def _affine(dataset: Dataset, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and summand, (channels, 1, 1), that standardise pixels of 0..255."""
    mean, std = (np.array(values)[:, None, None] for values in (dataset.mean, dataset.std))
    return like.new_tensor(1 / (255 * std)), like.new_tensor(-mean / std)
