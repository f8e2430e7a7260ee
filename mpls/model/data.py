"""The data sets: where their files are looked for, and how they are read.

`digits` is packaged (see digits.README.md) and needs no network. The others are looked for in the
folder `data.root`, in the layouts that torchvision, Debian and the official archives leave behind.
What is not there is an error that says where it was looked for and how to get it, or is downloaded
through torchvision when that was asked for. Nothing ever stands in for missing data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpls.errors import BadInput
from mpls.model.formats import CIFAR_SHAPE, read_cifar, read_idx

DIGITS_FILE = Path(__file__).with_name("digits.npz")
DIGITS_TRAIN = 8_000

_MNIST_SHAPE = (28, 28)
_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Images and labels to train on, images and labels to test on."""
Finder = Callable[[Path], Arrays | None]


@dataclass(frozen=True)
class Dataset:
    """Images are uint8, (N, *input_shape), channels first; labels int64, (N,), in 0..classes-1.

    `mean` and `std` are those of the training pixels of each channel, with pixels in [0, 1]; all
    workers scale their inputs by them, whatever their own shard looks like.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class _Source:
    classes: int
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    finders: tuple[Finder, ...]
    """One for each layout; what the first finds is used."""
    looked_for: str
    """The same in words, for who has none of them."""
    torchvision: str
    """Name of torchvision's class, which can download it."""


def load(name: str, root: str | Path, download: bool = False) -> Dataset:
    """The data set `name`, one of DATASETS, from below the folder `root` (ignored for `digits`).

    Raises BadInput if it is not there and not to be downloaded, cannot be downloaded, or is
    damaged.
    """
    if name not in DATASETS:
        raise BadInput(f"data set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    source = _SOURCES[name]
    if name == "digits":
        arrays = _digits()
    else:
        folder = Path(root)
        if not folder.is_dir():
            raise BadInput(
                f"data.root {str(root)!r} is no folder; name the one that has {name} "
                f"({source.looked_for}), or create it for the download"
            )
        found = (finder(folder) for finder in source.finders)
        arrays = next(filter(None, found), None) or _missing(name, source, folder, download)
    return _checked(name, source, arrays)


def _missing(name: str, source: _Source, folder: Path, download: bool) -> Arrays:
    if download:
        return _through_torchvision(source.torchvision, folder, download=True)
    raise BadInput(
        f"{name} was not found in data.root {str(folder)!r} (looked for {source.looked_for}); "
        "put the files there, or allow the download"
    )


def _checked(name: str, source: _Source, arrays: Arrays) -> Dataset:
    train_images, train_labels, test_images, test_labels = arrays
    for part, images, labels in (
        ("training", train_images, train_labels),
        ("test", test_images, test_labels),
    ):
        if len(images) != len(labels) or len(labels) == 0:
            raise BadInput(f"{name}: {len(images)} {part} images and {len(labels)} labels")
        if labels.max() >= source.classes:
            raise BadInput(f"{name}: a {part} label is {labels.max()}, of {source.classes} classes")
    return Dataset(
        name,
        train_images.reshape(-1, *source.input_shape),
        train_labels.astype(np.int64),
        test_images.reshape(-1, *source.input_shape),
        test_labels.astype(np.int64),
        source.classes,
        source.input_shape,
        source.mean,
        source.std,
    )


def _digits() -> Arrays:
    with np.load(DIGITS_FILE, allow_pickle=False) as file:
        images, labels = file["x"], file["y"]
    split = DIGITS_TRAIN
    return images[:split], labels[:split], images[split:], labels[split:]


def _idx_in(folder: str) -> Finder:
    return lambda root: _read_idx_files(root / folder)


def _read_idx_files(folder: Path) -> Arrays | None:
    paths = [_plain_or_gz(folder / name) for name in _IDX_FILES]
    found = [path for path in paths if path is not None]
    if not found:
        return None
    if len(found) < len(paths):
        missing = [name for name, path in zip(_IDX_FILES, paths) if path is None]
        raise BadInput(f"{folder}: {', '.join(missing)} [.gz] missing beside {found[0].name}")
    images, labels, test_images, test_labels = found
    return (
        read_idx(images, _MNIST_SHAPE),
        read_idx(labels, ()),
        read_idx(test_images, _MNIST_SHAPE),
        read_idx(test_labels, ()),
    )


def _plain_or_gz(path: Path) -> Path | None:
    gz = path.with_name(path.name + ".gz")
    return next((candidate for candidate in (path, gz) if candidate.is_file()), None)


def _cifar10_binary(root: Path) -> Arrays | None:
    return _read_cifar_files(root / "cifar-10-batches-bin", "data_batch_*.bin", "test_batch.bin", 1)


def _cifar100_binary(root: Path) -> Arrays | None:
    return _read_cifar_files(root / "cifar-100-binary", "train.bin", "test.bin", 2)


def _read_cifar_files(folder: Path, train: str, test: str, label_bytes: int) -> Arrays | None:
    if not folder.is_dir():
        return None
    batches = sorted(folder.glob(train))
    if not batches or not (folder / test).is_file():
        raise BadInput(f"{folder}: {train if not batches else test} is missing")
    images, labels = zip(*(read_cifar(path, label_bytes) for path in batches))
    return np.concatenate(images), np.concatenate(labels), *read_cifar(folder / test, label_bytes)


def _pickled(folder: str, torchvision_class: str) -> Finder:
    def find(root: Path) -> Arrays | None:
        if not (root / folder).is_dir():
            return None
        return _through_torchvision(torchvision_class, root, download=False)

    return find


def _through_torchvision(torchvision_class: str, root: Path, download: bool) -> Arrays:
    """torchvision unpickles CIFAR's files only after their MD5 matched the official ones."""
    from mpls.model.torchvision_shim import datasets

    try:
        kind = getattr(datasets(), torchvision_class)
        parts = [kind(str(root), train=train, download=download) for train in (True, False)]
    except Exception as error:  # whatever torchvision, the network or the unpickler may raise
        verb = "download" if download else "read"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"torchvision cannot {verb} {torchvision_class} in {str(root)!r}: {reason}"
        ) from error
    train, test = ((np.asarray(part.data), np.asarray(part.targets)) for part in parts)
    return _channels_first(train[0]), train[1], _channels_first(test[0]), test[1]


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if images.ndim == 4 else images


_MNIST_SCALE = {"mean": (0.1307,), "std": (0.3081,)}

_SOURCES = {
    "digits": _Source(
        10, (1, *_MNIST_SHAPE), **_MNIST_SCALE, finders=(), looked_for="", torchvision=""
    ),
    "mnist": _Source(
        10,
        (1, *_MNIST_SHAPE),
        **_MNIST_SCALE,
        finders=(_idx_in("MNIST/raw"), _idx_in(".")),
        looked_for=f"{_IDX_FILES[0]}[.gz] etc. in MNIST/raw or the folder itself",
        torchvision="MNIST",
    ),
    "fashion-mnist": _Source(
        10,
        (1, *_MNIST_SHAPE),
        mean=(0.2860,),
        std=(0.3530,),
        finders=(_idx_in("FashionMNIST/raw"), _idx_in("fashion-mnist"), _idx_in(".")),
        looked_for=f"{_IDX_FILES[0]}[.gz] etc. in FashionMNIST/raw, fashion-mnist or the folder "
        "itself",
        torchvision="FashionMNIST",
    ),
    "cifar10": _Source(
        10,
        CIFAR_SHAPE,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        finders=(_cifar10_binary, _pickled("cifar-10-batches-py", "CIFAR10")),
        looked_for="cifar-10-batches-bin or cifar-10-batches-py",
        torchvision="CIFAR10",
    ),
    "cifar100": _Source(
        100,
        CIFAR_SHAPE,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        finders=(_cifar100_binary, _pickled("cifar-100-python", "CIFAR100")),
        looked_for="cifar-100-binary or cifar-100-python",
        torchvision="CIFAR100",
    ),
}

DATASETS = tuple(_SOURCES)
