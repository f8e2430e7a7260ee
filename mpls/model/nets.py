"""The networks: four of our own, or a user's, named by import path.

Every worker of a run starts from the same weights, so building one is seeded by the run. Nothing
here drops out at random: with a dropout layer, a resumed run could not equal an uncrashed one.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from mpls.core.streams import Stream
from mpls.errors import BadInput

Shape = tuple[int, ...]
Factory = Callable[..., nn.Module]


def build(name: str, input_shape: Shape, classes: int, seed: int) -> nn.Module:
    """A fresh model, on the CPU, with the initial weights that `seed` stands for.

    `input_shape` is that of one image, channels first; the output has one logit a class. torch's
    global generator is left as it was. Raises BadInput if there is no such model, or if it does
    not turn such images into logits.
    """
    factory = _factory(name)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(Stream(seed, "model").below(2**48))
        try:
            module = factory(input_shape=input_shape, classes=classes)
            fits = isinstance(module, nn.Module) and _logits(module, input_shape) == (1, classes)
        except Exception as error:  # whatever a user's own code may raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise BadInput(f"model {name!r} fails on inputs {input_shape}: {reason}") from error
    if not fits:
        raise BadInput(
            f"model {name!r}: the factory must return a torch.nn.Module that turns inputs "
            f"(N, {', '.join(map(str, input_shape))}) into logits (N, {classes})"
        )
    return module


def _logits(module: nn.Module, input_shape: Shape) -> Shape:
    dtype = next((tensor.dtype for tensor in module.parameters()), None)
    training = module.training
    with torch.no_grad():
        logits = module.eval()(torch.zeros(1, *input_shape, dtype=dtype))
    module.train(training)
    return tuple(logits.shape)


def _factory(name: str) -> Factory:
    if name in MODELS:
        return MODELS[name]
    place, colon, attribute = name.partition(":")
    if not colon:
        raise BadInput(
            f"model {name!r} is unknown; choose one of {', '.join(MODELS)}, "
            "or name your own as package.module:factory"
        )
    try:
        return cast(Factory, getattr(importlib.import_module(place), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"model {name!r} cannot be imported: {error}") from error


def simple_mlp(input_shape: Shape, classes: int) -> nn.Module:
    """One hidden layer of 64."""
    features = torch.Size(input_shape).numel()
    return _chain(
        flatten=nn.Flatten(),
        fc1=nn.Linear(features, 64),
        relu=nn.ReLU(),
        fc2=nn.Linear(64, classes),
    )


def lenet5(input_shape: Shape, classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max pooling; images of 28x28 are padded to the 32x32 it was made
    for."""
    channels, height, width = input_shape
    pad = 2 if height == 28 else 0
    rows, columns = ((side + 2 * pad - 4) // 2 - 4 for side in (height, width))
    return _chain(
        conv1=nn.Conv2d(channels, 6, 5, padding=pad),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * (rows // 2) * (columns // 2), 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, classes),
    )


def nin(input_shape: Shape, classes: int) -> nn.Module:
    """Network in network: nine convolutions in three blocks, no linear layer (Lin et al., 2014)."""
    channels = input_shape[0]
    module = _chain(
        block1=_mlpconv(channels, 5, (192, 160, 96)),
        pool1=nn.MaxPool2d(3, stride=2, padding=1),
        block2=_mlpconv(96, 5, (192, 192, 192)),
        pool2=nn.AvgPool2d(3, stride=2, padding=1),
        block3=_mlpconv(192, 3, (192, 192, classes)),
        pool3=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            # Nine layers deep and without normalisation, torch's default start hardly learns.
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    return module


def _mlpconv(channels: int, kernel: int, widths: tuple[int, int, int]) -> nn.Module:
    first, second, third = widths
    return _chain(
        conv1=nn.Conv2d(channels, first, kernel, padding=kernel // 2),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(first, second, 1),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(second, third, 1),
        relu3=nn.ReLU(),
    )


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape
    changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = _chain(
                conv=nn.Conv2d(channels, width, 1, stride, bias=False), bn=nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def resnet18(input_shape: Shape, classes: int) -> nn.Module:
    """ResNet-18 with the 3x3 stem for small images (He et al., 2016)."""
    return _chain(
        conv1=nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        stage1=nn.Sequential(_ResidualBlock(64, 64, 1), _ResidualBlock(64, 64, 1)),
        stage2=nn.Sequential(_ResidualBlock(64, 128, 2), _ResidualBlock(128, 128, 1)),
        stage3=nn.Sequential(_ResidualBlock(128, 256, 2), _ResidualBlock(256, 256, 1)),
        stage4=nn.Sequential(_ResidualBlock(256, 512, 2), _ResidualBlock(512, 512, 1)),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(512, classes),
    )


def _chain(**parts: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(parts))


MODELS: dict[str, Factory] = {
    "simple-mlp": simple_mlp,
    "lenet5": lenet5,
    "nin": nin,
    "resnet18": resnet18,
}
