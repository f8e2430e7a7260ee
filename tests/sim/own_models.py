"""Models that a user may bring, for the tests of real training."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def averaging(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Its BatchNorm averages over all steps so far, so the step counter, which does not travel,
    decides about the statistics, which do."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 5, stride=4),
        nn.BatchNorm2d(4, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, classes),
    )


class Bypassed(nn.Sequential):
    """The parts of simple-mlp, but not its forward pass."""

    def forward(self, input: Tensor) -> Any:
        flat, hidden, relu, out = self
        return out(relu(hidden(flat(input))) * 2)


def bypassed(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Bypassed(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, classes))
