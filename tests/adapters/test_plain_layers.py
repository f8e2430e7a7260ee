"""What of a model travels by gRPC: weight and bias of convolutions and linear layers, in module
order. A BatchNorm stays at home, and is mixed only with copies that have one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mpls.adapters.contract import Catalogue
from mpls.core.gate import Gate
from mpls.core.messages import Source
from mpls.errors import Refused
from mpls.model import nets
from mpls.model.layers import FlatModel, plain_values
from mpls.runtime.updates import add_up, mix

SHAPES = {"simple-mlp": (1, 28, 28), "lenet5": (1, 28, 28), "nin": (3, 32, 32)}


@pytest.mark.parametrize("name", SHAPES)
def test_of_a_model_without_batch_norm_every_layer_travels_whole(name: str) -> None:
    module = nets.build(name, SHAPES[name], 10, seed=1)
    manifest = FlatModel(module).manifest
    assert plain_values(module) == {layer.name: layer.layer_bytes // 4 for layer in manifest.layers}
    Catalogue(plain_values(module))


def test_of_resnet18_the_first_values_of_each_layer_are_the_convolution_s_own() -> None:
    module = nets.build("resnet18", (3, 32, 32), 10, seed=1)
    model = FlatModel(module)
    plain = plain_values(module)
    assert list(plain) == [layer.name for layer in model.manifest.layers]
    parts = dict(module.named_modules())
    for layer in model.manifest.layers:
        part = parts[layer.name]
        own = [part.weight, *([part.bias] if part.bias is not None else [])]
        expected = np.concatenate([tensor.detach().numpy().ravel() for tensor in own])
        values = layer.values_in(model.host)
        assert np.array_equal(values[: plain[layer.name]], expected)
    assert sum(plain.values()) < model.manifest.total_bytes // 4


class TwoParameters(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.scale = nn.Parameter(torch.ones(4))


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "LayerNorm 1"),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)), "BatchNorm1d 0"),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4)), "Embedding 0"),
        (nn.Sequential(nn.ConvTranspose2d(1, 1, 3)), "ConvTranspose2d 0"),
        (nn.MultiheadAttention(4, 2), r"MultiheadAttention \."),
        (TwoParameters(), r"TwoParameters \."),
        (tied(), "Linear 1"),
        (nn.Linear(4, 4).double(), "torch.float64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_with_anything_else_is_refused(module: nn.Module, why: str) -> None:
    with pytest.raises(Refused, match=why) as refusal:
        plain_values(module)
    assert "zmq" in str(refusal.value)


# --- mixing with copies that have no BatchNorm ---

WHOLE, PLAIN = 10, 6
OWN = np.arange(WHOLE, dtype=np.float32)


class Round:
    """Copies of one layer of ten values, of which six travel by gRPC."""

    def __init__(self, *copies: list[float]) -> None:
        self.own = OWN.copy()
        buffers = [np.array(values, np.float32).view(np.uint8) for values in copies]
        sources = [Source(f"w{n}", "conv", n, 0, 3) for n in range(len(copies))]
        self.update = add_up(1, sources, lambda n, _: buffers[n], lambda _: OWN.copy(), 0.0, Gate())

    def mixed(self) -> np.ndarray:
        mix(self.update, lambda _: self.own)
        return self.own


def test_from_grpc_alone_the_batch_norm_stays_exactly_as_it_is() -> None:
    mixed = Round([3.0] * PLAIN, [6.0] * PLAIN).mixed()
    assert np.array_equal(mixed[:PLAIN], (OWN[:PLAIN] + 9.0) / 3)
    assert np.array_equal(mixed[PLAIN:], OWN[PLAIN:])


@pytest.mark.parametrize("order", [1, -1])
def test_from_both_kinds_each_value_is_the_mean_of_what_came_of_it(order: int) -> None:
    copies = [[3.0] * PLAIN, [6.0] * WHOLE, [9.0] * WHOLE][::order]
    mixed = Round(*copies).mixed()
    assert np.array_equal(mixed[:PLAIN], (OWN[:PLAIN] + 18.0) / 4)
    assert np.array_equal(mixed[PLAIN:], (OWN[PLAIN:] + 15.0) / 3)


def test_a_copy_whose_batch_norm_is_not_finite_is_refused_whole() -> None:
    this = Round([3.0] * PLAIN, [6.0] * (WHOLE - 1) + [float("nan")])
    assert [refusal.request_id for refusal in this.update.refused] == [1]
    mixed = this.mixed()
    assert np.array_equal(mixed[:PLAIN], (OWN[:PLAIN] + 3.0) / 2)
    assert np.array_equal(mixed[PLAIN:], OWN[PLAIN:])
