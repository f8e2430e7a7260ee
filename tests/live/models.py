"""Models for live tests, named in their cluster files as `tests.live.models:...`.

Each takes long to send and little to train. All can be hung: SIGUSR1 stops every thread of Python
for HANG_S, the way a faulty extension would, while ZeroMQ's own thread goes on answering.
"""

from __future__ import annotations

import ctypes
import signal
from collections import OrderedDict
from types import FrameType
from typing import Any

import torch
from torch import nn

HANG_S = 14


def five_megabytes(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Layers of 0.8, 4.2 and 0.2 MB."""
    return _mlp(input_shape, classes, 256, 4096)


def one_big_layer(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Layers of 0.8, 45 and 1.8 MB."""
    return _mlp(input_shape, classes, 256, 43_945)


def small(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Layers of 0.2, 0.02 and 0.003 MB."""
    return _mlp(input_shape, classes, 64, 64)


def _mlp(input_shape: tuple[int, ...], classes: int, first: int, second: int) -> nn.Module:
    signal.signal(signal.SIGUSR1, _hang)
    features = torch.Size(input_shape).numel()
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(features, first),
            relu1=nn.ReLU(),
            fc2=nn.Linear(first, second),
            relu2=nn.ReLU(),
            fc3=nn.Linear(second, classes),
        )
    )


def _hang(_: int, __: FrameType | None) -> None:
    """PyDLL, unlike CDLL, keeps Python's lock while it calls."""
    ctypes.PyDLL(None).sleep(HANG_S)


def hoarder(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """As `small`, but SIGUSR2 makes its next step ask for memory until it is refused, or the worst
    comes."""
    signal.signal(signal.SIGUSR2, lambda *_: Hoarding.now.append(True))
    model = small(input_shape, classes)
    model.add_module("hoarding", Hoarding())
    return model


class Hoarding(nn.Module):
    """Passes on what it is given."""

    now: list[bool] = []  # noqa: RUF012 - one for the process: a signal handler knows no model

    def forward(self, values: torch.Tensor) -> Any:
        """Every page is written to, and so is there."""
        held = []
        while self.now:
            held.append(b"x" * 2**26)
        return values
