"""Any module becomes one flat buffer, and goes on learning as if nothing had happened."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mpls.errors import BadInput
from mpls.model.layers import ROOT_LAYER, FlatModel, group_layers
from mpls.model.nets import build


class Tied(nn.Module):
    """Embedding and output share one matrix; an LSTM and a parameter of its own between them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.embed = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.out = nn.Linear(4, 7)
        self.out.weight = self.embed.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embed(words))[0][:, -1]) * self.scale


def layer_names(module: nn.Module) -> list[str]:
    return list(group_layers(module))


def norm_chain() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
    )


def test_batch_norm_and_its_running_statistics_belong_to_the_layer_before():
    layers = group_layers(build("resnet18", (3, 32, 32), 10, seed=1))
    assert list(layers["stage2.0.shortcut.conv"]) == [
        "stage2.0.shortcut.conv.weight",
        "stage2.0.shortcut.bn.weight",
        "stage2.0.shortcut.bn.bias",
        "stage2.0.shortcut.bn.running_mean",
        "stage2.0.shortcut.bn.running_var",
    ]


def test_the_step_counter_of_batch_norm_never_travels():
    layers = group_layers(norm_chain())
    assert not any("num_batches_tracked" in name for own in layers.values() for name in own)


def test_a_batch_norm_before_any_layer_is_a_layer_of_its_own():
    assert layer_names(norm_chain()) == ["0", "1", "4"]


def test_a_batch_norm_without_weights_still_travels_with_its_layer():
    layers = group_layers(nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3, affine=False)))
    assert list(layers["0"]) == ["0.weight", "0.bias", "1.running_mean", "1.running_var"]


def test_tied_weights_travel_once_with_the_module_named_first():
    layers = group_layers(Tied())
    assert list(layers) == [ROOT_LAYER, "embed", "lstm", "out"]
    assert list(layers["embed"]) == ["embed.weight"]
    assert list(layers["out"]) == ["out.bias"]
    assert list(layers[ROOT_LAYER]) == ["scale"]


def test_a_transformer_block_is_split_into_its_parametrised_modules():
    assert layer_names(nn.TransformerEncoderLayer(8, 2, 16)) == [
        "self_attn",
        "self_attn.out_proj",
        "linear1",
        "linear2",
        "norm1",
        "norm2",
    ]


MODULES = [
    lambda: (Tied(), torch.tensor([[1, 2, 3], [4, 5, 6]])),
    lambda: (
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        torch.ones(2, 3, 8),
    ),
    lambda: (norm_chain(), torch.arange(24.0).reshape(4, 6)),
    lambda: (build("lenet5", (1, 28, 28), 10, 1), torch.ones(2, 1, 28, 28)),
    lambda: (norm_chain().double(), torch.arange(24.0, dtype=torch.float64).reshape(4, 6)),
]


@pytest.mark.parametrize("make", MODULES)
def test_flat_sgd_equals_sgd_on_every_parameter(make):
    plain, inputs = make()
    flat = FlatModel(copy.deepcopy(plain))
    each = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    whole = torch.optim.SGD([flat.weights], lr=0.1, momentum=0.9)
    for _ in range(3):
        each.zero_grad()
        plain(inputs).square().mean().backward()
        each.step()
        flat.gradient.zero_()
        flat.module(inputs).square().mean().backward()
        whole.step()
    pairs = zip(plain.state_dict().items(), flat.module.state_dict().values())
    for (name, expected), got in pairs:
        assert torch.equal(expected, got), name


@pytest.mark.parametrize("make", MODULES)
def test_every_parameter_and_statistic_is_a_view_at_its_place_in_the_manifest(make):
    model = FlatModel(make()[0])
    tensors = {**dict(model.module.named_parameters()), **dict(model.module.named_buffers())}
    at = 0
    for layer in model.manifest.layers:
        assert layer.offset_bytes == at
        for spec in layer.tensors:
            tensor = tensors[spec.name]
            assert tensor.data_ptr() == model.weights.data_ptr() + at, spec.name
            assert tuple(tensor.shape) == spec.shape
            at += spec.tensor_bytes
    assert at == model.manifest.total_bytes == model.host.nbytes


def test_host_is_the_weights_themselves_on_the_cpu():
    model = FlatModel(build("simple-mlp", (1, 28, 28), 10, seed=1))
    fc2 = model.manifest.layers[1]
    fc2.values_in(model.host)[:] = 3
    assert fc2.name == "fc2"
    assert bool((model.module.fc2.weight == 3).all())
    assert bool((model.module.fc2.bias == 3).all())


def test_momentum_leaves_the_statistics_to_batch_norm():
    model = FlatModel(norm_chain())
    optimizer = torch.optim.SGD([model.weights], lr=0.5, momentum=0.9)
    for _ in range(3):
        model.gradient.zero_()
        model.module(torch.randn(4, 6, generator=torch.Generator().manual_seed(1))).sum().backward()
        statistics = model.module[2].running_var.clone()
        optimizer.step()
        assert torch.equal(model.module[2].running_var, statistics)


def test_a_frozen_parameter_travels_and_is_not_trained():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    module[0].weight.requires_grad_(False)
    frozen = module[0].weight.clone()
    model = FlatModel(module)
    model.module(torch.ones(1, 3)).sum().backward()
    torch.optim.SGD([model.weights], lr=1.0).step()
    assert torch.equal(module[0].weight, frozen)
    assert model.manifest.layers[0].tensors[0].name == "0.weight"


def test_two_models_of_the_same_kind_have_the_same_manifest_whatever_their_weights():
    one, other = (FlatModel(build("lenet5", (1, 28, 28), 10, seed)).manifest for seed in (1, 2))
    assert one == other
    assert one.hash == other.hash


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("lbn"), min_size=1, max_size=8))
def test_every_parameter_is_in_exactly_one_layer(kinds):
    made = {
        "l": lambda: nn.Linear(3, 3),
        "b": lambda: nn.BatchNorm1d(3),
        "n": lambda: nn.LayerNorm(3),
    }
    module = nn.Sequential(*(made[kind]() for kind in kinds))
    names = [name for own in group_layers(module).values() for name in own]
    assert len(names) == len(set(names))
    assert set(names) >= {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Flatten(), "no parameters"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), r"1\.weight"),
        (nn.Linear(2, 2).to(torch.bfloat16), "bfloat16; allowed are torch.float16"),
    ],
)
def test_a_model_that_cannot_be_one_buffer_is_bad_input(module, message):
    with pytest.raises(BadInput, match=message):
        FlatModel(module)


def test_weights_are_kept_when_a_model_becomes_flat():
    module = build("nin", (3, 32, 32), 10, seed=1)
    before = np.concatenate([tensor.detach().numpy().ravel() for tensor in module.parameters()])
    assert np.array_equal(FlatModel(module).host, before)
