"""The layers that are spelled out are those that torch builds."""

from __future__ import annotations

import pytest

from mpls.config import builtin, changed
from mpls.model import data, nets
from mpls.model.layers import FlatModel
from mpls.model.partition import label_histograms, label_table, partition
from sim.outline import IMAGES, layers_of, shards_of


@pytest.mark.parametrize("dataset", ["digits", "cifar100"])
@pytest.mark.parametrize("model", nets.MODELS)
def test_a_shipped_model_has_the_layers_that_torch_builds(dataset: str, model: str) -> None:
    config = changed(builtin(), {"data": {"dataset": dataset}, "model": {"name": model}})
    _, classes, shape = IMAGES[dataset]
    manifest = FlatModel(nets.build(model, shape, classes, 1)).manifest
    layers, digest = layers_of(config)
    assert digest == manifest.hash
    assert [(layer.name, layer.bytes) for layer in layers] == [
        (layer.name, layer.layer_bytes) for layer in manifest.layers
    ]


def test_a_users_own_model_is_built() -> None:
    config = changed(builtin(), {"model": {"name": "mpls.model.nets:simple_mlp"}})
    assert layers_of(config) == layers_of(builtin())


def test_the_digits_are_shared_out_as_in_a_real_run() -> None:
    config, digits = builtin(), data.load("digits", "")
    shards = partition(digits.train_labels, 3, **config.partition_settings())
    expected = label_histograms(label_table(digits.train_labels, shards, 10))
    assert [list(shard.histogram) for shard in shards_of(config)] == expected.tolist()
    assert [shard.samples for shard in shards_of(config)] == [len(shard) for shard in shards]


def test_a_thousand_workers_find_enough_images() -> None:
    workers = [{"id": i, "address": "127.0.0.1:0"} for i in range(1000)]
    shards = shards_of(changed(builtin(), {"workers": workers}))
    assert len(shards) == 1000
    assert min(shard.samples for shard in shards) >= 32
