"""Several simple MLPs trained in one batched call, to the last bit as one by one.

A local step of a small network is mostly torch's own overhead. Here the steps of several workers
are made with the kernels that autograd would call, but directly and on stacked operands: half the
time for `simple-mlp` (docs/decisions/007). Where batched kernels round differently from single
ones, which may depend on the processor and on torch, nothing is batched: that is tried out first.

Shapes: W workers, B images of a minibatch, F features, H hidden units, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpls.core.streams import Stream
from mpls.model.data import Dataset

if TYPE_CHECKING:
    from torch import Tensor

    from mpls.model.layers import FlatModel
    from mpls.model.training import Learner

Weights = NDArray[Any]
Shapes = tuple[tuple[int, ...], ...]
LIMIT = 8
"""Workers in one call; the data of more no longer fits in a core's cache."""
_TRIAL_STEPS = 3
_TRIAL_LR = 0.01


class Together:
    """Batched local steps of models with the layout of `simple-mlp`, without momentum."""

    def __init__(self, shapes: Shapes, lr: float) -> None:
        self._shapes = shapes
        """Of weights and biases: (H, F), (H,), (C, H), (C,)."""
        self._lr = lr

    def steps(
        self, learners: Sequence[Learner], weights: Sequence[Weights], count: int
    ) -> Iterator[list[float]]:
        """Local steps of all the learners, whose weights these are: yields the losses, W, of each
        step before it changes anything. `weights` are written to when the last step is done."""
        import torch

        stacked = torch.stack([torch.from_numpy(own) for own in weights])
        slopes = torch.empty_like(stacked)
        weight_views, slope_views = self._cut(stacked), self._cut(slopes)
        for _ in range(count):
            batches = [learner.next_batch() for learner in learners]
            images = torch.stack([images for images, _ in batches]).flatten(2)
            labels = torch.stack([labels for _, labels in batches])
            yield descent(images, labels, weight_views, slope_views)
            stacked.add_(slopes, alpha=-self._lr)
        for own, trained in zip(weights, stacked):
            own[:] = trained.numpy()

    def _cut(self, flat: Tensor) -> list[Tensor]:
        """Views of the four parameters in (W, all), each with W in front, biases as rows."""
        import torch

        parts = torch.split(flat, [prod(shape) for shape in self._shapes], dim=1)
        return [part.view(len(flat), -1, shape[-1]) for part, shape in zip(parts, self._shapes)]


def descent(
    images: Tensor, labels: Tensor, weights: Sequence[Tensor], slopes: Sequence[Tensor]
) -> list[float]:
    """Forward and backward with images (W, B, F) and labels (W, B): fills the slopes and returns
    the losses, W."""
    import torch

    aten, size = torch.ops.aten, labels.shape[1]
    w1, b1, w2, b2 = weights
    hidden = torch.baddbmm(b1, images, w1.transpose(1, 2)).relu_()
    logits = torch.baddbmm(b2, hidden, w2.transpose(1, 2)).flatten(0, 1)
    likely = aten._log_softmax(logits, 1, False)
    share = likely.new_full((len(likely),), 1 / size)
    total = likely.new_tensor(float(len(likely)))
    error = aten.nll_loss_backward(share, likely, labels.flatten(), None, 0, -100, total)
    error = aten._log_softmax_backward_data(error, likely, 1, likely.dtype).view(*labels.shape, -1)
    inner = aten.threshold_backward(torch.bmm(error, w2), hidden, 0)
    torch.bmm(inner.transpose(1, 2), images, out=slopes[0])
    torch.sum(inner, 1, keepdim=True, out=slopes[1])
    torch.bmm(error.transpose(1, 2), hidden, out=slopes[2])
    torch.sum(error, 1, keepdim=True, out=slopes[3])
    # Each loss by itself: the order in which its parts are added up shows in the last bit.
    losses = map(torch.nn.functional.nll_loss, torch.split(likely, size), labels)
    return torch.stack(list(losses)).tolist()  # type: ignore[no-any-return]


def together(model: FlatModel, batch_size: int, lr: float, momentum: float) -> Together | None:
    """What trains such models in batched calls; None where it cannot, or not to the last bit."""
    from torch import nn

    parts = [type(part) for part in model.module.children()]
    if type(model.module) is not nn.Sequential or parts != [
        nn.Flatten,
        nn.Linear,
        nn.ReLU,
        nn.Linear,
    ]:
        return None
    shapes = tuple(tuple(parameter.shape) for parameter in model.module.parameters())
    plain = len(shapes) == 4 and model.device.type == "cpu" and not momentum
    return Together(shapes, lr) if plain and _is_exact(shapes, batch_size) else None


@lru_cache
def _is_exact(shapes: Shapes, batch_size: int) -> bool:
    """Whether groups of every size end with the weights and losses of learners that train alone."""
    alone = [_trial(shapes, batch_size, number) for number in range(LIMIT)]
    for learner in alone:
        for _ in range(_TRIAL_STEPS):
            learner.step()
    ends = [(learner.model.host, learner.take_loss()) for learner in alone]
    return all(_ends_at(ends[:size], shapes, batch_size) for size in range(1, LIMIT + 1))


def _ends_at(ends: Sequence[tuple[Weights, float | None]], shapes: Shapes, batch_size: int) -> bool:
    learners = [_trial(shapes, batch_size, number) for number in range(len(ends))]
    weights = [learner.model.host for learner in learners]
    for losses in Together(shapes, _TRIAL_LR).steps(learners, weights, _TRIAL_STEPS):
        for learner, loss in zip(learners, losses):
            learner.count_step(loss)
    return all(
        np.array_equal(own, end) and learner.take_loss() == loss
        for own, learner, (end, loss) in zip(weights, learners, ends)
    )


def _trial(shapes: Shapes, batch_size: int, number: int) -> Learner:
    """A learner of random images; the same for the same number."""
    import torch
    from torch import nn

    from mpls.model.layers import FlatModel
    from mpls.model.training import Learner

    (hidden, features), (classes, _) = shapes[0], shapes[2]
    with torch.random.fork_rng(devices=()):
        first, second = nn.Linear(features, hidden), nn.Linear(hidden, classes)
    module = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)
    model, draws, count = FlatModel(module), Stream(number, "trial"), 2 * batch_size
    model.weights.copy_(torch.from_numpy(draws.uniforms(model.weights.numel()) - 0.5))
    pixels = draws.uniforms(count * features).reshape(count, 1, 1, features)
    images = (256 * pixels).astype(np.uint8)
    labels = draws.permutation(count) % classes
    dataset = Dataset(
        "trial", images, labels, images, labels, classes, images.shape[1:], (0.5,), (0.25,)
    )
    return Learner(
        model,
        dataset,
        np.arange(count),
        batch_size=batch_size,
        lr=_TRIAL_LR,
        momentum=0.0,
        order=draws,
    )
