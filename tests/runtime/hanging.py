"""A user's own model that trains for some steps and then hangs for good, once, leaving a file
`hangs` in the working directory: whoever finds that file does not hang again."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

from torch import Tensor, nn

STEPS = 200
MARK = Path("hangs")


class Hanging(nn.Module):
    """Changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = count(1)

    def forward(self, images: Tensor) -> Tensor:
        """The same images, or never."""
        if self.training and next(self._steps) > STEPS and not MARK.exists():
            MARK.touch()
            threading.Event().wait()
        return images


def mlp(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(Hanging(), nn.Flatten(), nn.Linear(784, classes))
