"""A user's own models that train well, but whose layers the protocol cannot carry."""

from __future__ import annotations

from torch import nn


def many(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    inner = [nn.Linear(4, 4) for _ in range(1030)]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4), *inner, nn.Linear(4, classes))


def long(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _named("x" * 129, classes)


def unprintable(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _named("x\x1b[2J", classes)


def longest(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _named("x" * 128, classes)


def _named(layer: str, classes: int) -> nn.Module:
    model = nn.Sequential(nn.Flatten())
    model.add_module(layer, nn.Linear(784, classes))
    return model
