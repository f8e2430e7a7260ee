"""The four networks are the paper's, and a user's own is checked before anything runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mpls.errors import BadInput
from mpls.model.layers import group_layers
from mpls.model.nets import MODELS, build

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def parameters(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "count"),
    [
        ("simple-mlp", MNIST, 10, 50_890),
        ("lenet5", MNIST, 10, 61_706),
        ("nin", CIFAR, 10, 966_986),
        ("resnet18", CIFAR, 100, 11_220_132),
    ],
)
def test_parameter_counts_are_those_of_the_paper(name, shape, classes, count):
    assert parameters(build(name, shape, classes, seed=1)) == count


def test_lenet5_has_the_papers_count_in_every_layer():
    layers = group_layers(build("lenet5", MNIST, 10, seed=1))
    counts = [sum(tensor.numel() for tensor in own.values()) for own in layers.values()]
    assert counts == [156, 2_416, 48_120, 10_164, 850]


def test_nin_has_nine_convolutions_of_the_papers_widths():
    convolutions = [m for m in build("nin", CIFAR, 10, 1).modules() if isinstance(m, nn.Conv2d)]
    widths = [convolution.out_channels for convolution in convolutions]
    assert widths == [192, 160, 96, 192, 192, 192, 192, 192, 10]


def test_resnet18_has_62_tensors_in_21_layers():
    module = build("resnet18", CIFAR, 100, seed=1)
    layers = group_layers(module)
    assert len(list(module.parameters())) == 62
    assert len(layers) == 21
    assert list(layers)[-1] == "fc"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [MNIST, CIFAR])
def test_every_network_takes_the_images_of_every_data_set(name, shape):
    logits = build(name, shape, 10, seed=1)(torch.zeros(2, *shape))
    assert logits.shape == (2, 10)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (build("lenet5", MNIST, 10, seed).conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_building_leaves_the_callers_generator_alone():
    before = torch.get_rng_state()
    build("simple-mlp", MNIST, 10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def linear(input_shape, classes):
    """A user's factory."""
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), classes))


def one_logit(input_shape, classes):
    return linear(input_shape, 1)


def no_module(input_shape, classes):
    return "a model"


def broken(input_shape, classes):
    raise ZeroDivisionError("by zero")


@pytest.fixture
def user_module(monkeypatch):
    """This file, importable by a name of its own."""
    import sys

    monkeypatch.setitem(sys.modules, "users_nets", sys.modules[__name__])
    return "users_nets"


def test_a_users_own_factory_is_named_by_import_path(user_module):
    assert parameters(build(f"{user_module}:linear", MNIST, 10, seed=1)) == 7_850


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alexnet", "simple-mlp, lenet5, nin, resnet18"),
        ("no.such.place:net", "cannot be imported"),
        (":net", "cannot be imported"),
        ("users_nets:nothing", "cannot be imported"),
        ("users_nets:MNIST", "TypeError"),
        ("users_nets:one_logit", r"logits \(N, 10\)"),
        ("users_nets:no_module", "torch.nn.Module"),
        ("users_nets:broken", "ZeroDivisionError: by zero"),
    ],
)
def test_a_model_that_cannot_be_used_is_named_with_the_reason(user_module, name, message):
    with pytest.raises(BadInput, match=message) as raised:
        build(name, MNIST, 10, seed=1)
    assert repr(name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_image_too_small_for_the_network_is_bad_input():
    with pytest.raises(BadInput, match="lenet5"):
        build("lenet5", (1, 8, 8), 10, seed=1)
