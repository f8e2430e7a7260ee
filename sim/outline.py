"""What fitted learning has to know of models and data sets, without torch and without their files.

The layers of the shipped models are spelled out here in closed form; a test holds them equal to
what torch builds. A user's own model is built once, and only that imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpls.config import ClusterConfig
from mpls.core.plan import Layer
from mpls.model.data import load
from mpls.model.manifest import Manifest, Shape
from mpls.model.partition import label_histograms, label_table, partition
from sim.learning import Shard

Tensors = list[tuple[str, Shape]]

IMAGES: dict[str, tuple[int, int, Shape]] = {
    "digits": (8_000, 10, (1, 28, 28)),
    "mnist": (60_000, 10, (1, 28, 28)),
    "fashion-mnist": (60_000, 10, (1, 28, 28)),
    "cifar10": (50_000, 10, (3, 32, 32)),
    "cifar100": (50_000, 100, (3, 32, 32)),
}
"""Of each data set: training images, classes, and the shape of an image."""


def layers_of(config: ClusterConfig) -> tuple[tuple[Layer, ...], str]:
    """The layers of the configured model with their bytes, and the hash of its manifest."""
    _, classes, shape = IMAGES[config.data.dataset]
    known = _KNOWN.get(config.model.name)
    if known is None:
        manifest = _built(config, shape, classes)
    else:
        manifest = Manifest.of("<f4", dict(known(shape, classes)))
    layers = tuple(Layer(layer.name, layer.layer_bytes) for layer in manifest.layers)
    return layers, manifest.hash


def images_of(config: ClusterConfig) -> int:
    """Training images of the configured data set."""
    return IMAGES[config.data.dataset][0]


def shards_of(config: ClusterConfig) -> list[Shard]:
    """What the configured partition gives each worker.

    Labels other than those of the embedded digits are taken to be equally frequent, as they nearly
    are. Where the images are too few for so many workers, each is taken to be there several times.
    """
    images, classes, _ = IMAGES[config.data.dataset]
    if config.data.dataset == "digits":
        labels = load("digits", "").train_labels
    else:
        labels = np.arange(images) % classes
    workers = len(config.workers)
    copies = -(-workers * 2 * config.data.min_samples // images)
    labels = np.tile(labels, max(1, copies))
    shards = partition(labels, workers, **config.partition_settings())
    histograms = label_histograms(label_table(labels, shards, classes))
    return [
        Shard(tuple(row), len(shard), max(1, len(shard) // config.training.batch_size))
        for row, shard in zip(histograms.tolist(), shards)
    ]


def _built(config: ClusterConfig, shape: Shape, classes: int) -> Manifest:
    from mpls.model import nets
    from mpls.model.layers import FlatModel

    return FlatModel(nets.build(config.model.name, shape, classes, config.cluster.seed)).manifest


# --- the shipped models -----------------------------------------------------------------------

Layers = Iterator[tuple[str, Tensors]]


def _weighted(name: str, *shape: int) -> tuple[str, Tensors]:
    """A linear layer or a convolution with a bias; outputs come first in the shape."""
    return name, [(f"{name}.weight", shape), (f"{name}.bias", shape[:1])]


def _simple_mlp(shape: Shape, classes: int) -> Layers:
    yield _weighted("fc1", 64, int(np.prod(shape)))
    yield _weighted("fc2", classes, 64)


def _lenet5(shape: Shape, classes: int) -> Layers:
    channels, height, width = shape
    pad = 2 if height == 28 else 0
    rows, columns = (((side + 2 * pad - 4) // 2 - 4) // 2 for side in (height, width))
    yield _weighted("conv1", 6, channels, 5, 5)
    yield _weighted("conv2", 16, 6, 5, 5)
    yield _weighted("fc1", 120, 16 * rows * columns)
    yield _weighted("fc2", 84, 120)
    yield _weighted("fc3", classes, 84)


def _nin(shape: Shape, classes: int) -> Layers:
    channels = shape[0]
    blocks = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192, classes)))
    for block, (kernel, widths) in enumerate(blocks, 1):
        for place, (width, side) in enumerate(zip(widths, (kernel, 1, 1)), 1):
            yield _weighted(f"block{block}.conv{place}", width, channels, side, side)
            channels = width


def _resnet18(shape: Shape, classes: int) -> Layers:
    yield _normalised("conv1", "bn1", 64, shape[0], 3)
    channels = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            name = f"stage{stage}.{block}"
            yield _normalised(f"{name}.conv1", f"{name}.bn1", width, channels, 3)
            yield _normalised(f"{name}.conv2", f"{name}.bn2", width, width, 3)
            if channels != width:
                short = f"{name}.shortcut"
                yield _normalised(f"{short}.conv", f"{short}.bn", width, channels, 1)
            channels = width
    yield _weighted("fc", classes, 512)


def _normalised(conv: str, norm: str, width: int, channels: int, side: int) -> tuple[str, Tensors]:
    """A convolution without a bias, and the BatchNorm that belongs to it."""
    parts = ("weight", "bias", "running_mean", "running_var")
    tensors: Tensors = [(f"{conv}.weight", (width, channels, side, side))]
    return conv, tensors + [(f"{norm}.{part}", (width,)) for part in parts]


_KNOWN = {"simple-mlp": _simple_mlp, "lenet5": _lenet5, "nin": _nin, "resnet18": _resnet18}
