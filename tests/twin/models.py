"""Models whose steps wait for a device, as on a machine with an accelerator.

Several workers share two cores here. If they computed all the time, each would mostly wait for the
others, which no worker on a server of its own does. So the CPU does a small part of each step, the
rest passes asleep, and three to six workers leave the cores free most of the time.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import torch
from torch import Tensor, nn


class Device(nn.Module):
    """Takes this long for each training step, and changes nothing."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, images: Tensor) -> Tensor:
        """The same images, later."""
        if self.training:
            time.sleep(self.seconds)
        return images


def small(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """0.2 MB, 10 ms a step."""
    return _mlp(input_shape, classes, 64, 64, 0.01)


def medium(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """3.9 MB, 30 ms a step."""
    return _mlp(input_shape, classes, 512, 1_088, 0.03)


def large(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """45 MB, 100 ms a step."""
    return _mlp(input_shape, classes, 2_048, 4_652, 0.1)


def _mlp(
    input_shape: tuple[int, ...], classes: int, first: int, second: int, step_s: float
) -> nn.Module:
    features = torch.Size(input_shape).numel()
    return nn.Sequential(
        OrderedDict(
            device=Device(step_s),
            flatten=nn.Flatten(),
            fc1=nn.Linear(features, first),
            relu1=nn.ReLU(),
            fc2=nn.Linear(first, second),
            relu2=nn.ReLU(),
            fc3=nn.Linear(second, classes),
        )
    )
