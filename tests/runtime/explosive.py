"""A user's own model that learns well, but diverges within a few steps in the process of w1."""

from __future__ import annotations

import multiprocessing

from torch import Tensor, nn


def mlp(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    layer = nn.Linear(784, classes)
    if multiprocessing.current_process().name == "w1":
        layer.weight.register_hook(exaggerate)
    return nn.Sequential(nn.Flatten(), layer)


def exaggerate(gradient: Tensor) -> Tensor:
    return gradient * 1e38
