"""Every layout of every data set is read, and whatever is missing or damaged is named.

Small files in the official formats are written here; the real ones in ../shared/data are read too
where they are.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mpls.errors import BadInput
from mpls.model.data import DATASETS, load

SHARED = Path(__file__).parents[3] / "shared" / "data"
IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data sets in {SHARED}")


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def images(count: int, *shape: int) -> np.ndarray:
    size = count * int(np.prod(shape))
    return (np.arange(size) * 31 % 251).astype(np.uint8).reshape(count, *shape)


def labels(count: int, classes: int = 10) -> np.ndarray:
    return (np.arange(count) * 7 % classes).astype(np.uint8)


def write_idx(folder: Path, suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix else bytes
    for name, array in zip(IDX, (images(20, 28, 28), labels(20), images(5, 28, 28), labels(5))):
        (folder / f"{name}-ubyte{suffix}").write_bytes(pack(idx(array)))


def write_cifar(folder: Path, *, fine: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ("train.bin", "test.bin")
        if fine
        else ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")
    )
    for name in names:
        columns = [labels(6)[:, None], labels(6, 100)[:, None]] if fine else [labels(6)[:, None]]
        (folder / name).write_bytes(np.hstack([*columns, images(6, 3072)]).tobytes())


def refusal(name: str, root: Path, **options: bool) -> str:
    with pytest.raises(BadInput) as raised:
        load(name, root, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_digits_are_8000_and_2000_real_digits_without_any_folder():
    digits = load("digits", "/does/not/exist")
    assert digits.train_images.shape == (8_000, 1, 28, 28)
    assert digits.test_images.shape == (2_000, 1, 28, 28)
    assert np.bincount(digits.train_labels).min() > 600
    pixels = digits.train_images / 255
    assert abs(pixels.mean() - digits.mean[0]) < 0.002
    assert abs(pixels.std() - digits.std[0]) < 0.002


@needs_shared
def test_digits_are_the_images_that_mnist_starts_with():
    digits, mnist = load("digits", ""), load("mnist", SHARED)
    known = {image.tobytes(): label for image, label in zip(mnist.train_images, mnist.train_labels)}
    assert all(
        known[image.tobytes()] == label
        for image, label in zip(digits.test_images, digits.test_labels)
    )


@needs_shared
def test_the_real_mnist_is_read():
    mnist = load("mnist", SHARED)
    assert mnist.train_images.shape == (60_000, 1, 28, 28)
    assert mnist.test_labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]


@needs_shared
def test_the_cifar10_subset_is_read():
    cifar = load("cifar10", SHARED)
    assert cifar.train_images.shape == (10_000, 3, 32, 32)
    assert np.bincount(cifar.test_labels, minlength=10).min() > 0


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "."),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "."),
    ],
)
def test_idx_files_are_found_in_every_layout(tmp_path, name, folder, suffix):
    write_idx(tmp_path / folder, suffix)
    dataset = load(name, tmp_path)
    assert np.array_equal(dataset.train_images, images(20, 1, 28, 28))
    assert np.array_equal(dataset.test_labels, labels(5))
    assert dataset.train_labels.dtype == np.int64


def test_cifar10_takes_as_many_batches_as_there_are(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-bin")
    dataset = load("cifar10", tmp_path)
    assert np.array_equal(dataset.train_images[6:], images(6, 3, 32, 32))
    assert dataset.train_labels.tolist() == [*labels(6), *labels(6)]
    assert len(dataset.test_images) == 6


def test_cifar100_uses_the_fine_labels(tmp_path):
    write_cifar(tmp_path / "cifar-100-binary", fine=True)
    dataset = load("cifar100", tmp_path)
    assert dataset.train_labels.tolist() == labels(6, 100).tolist()
    assert dataset.classes == 100


def write_pickles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision reads pickles of the official MD5 only, so ours are made official."""
    from mpls.model.torchvision_shim import datasets

    def dump(name: str, content: dict[str, object]) -> tuple[str, str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return name, hashlib.md5(data).hexdigest()

    folder.mkdir()
    batch = {"data": images(6, 3072), "labels": labels(6).tolist()}
    cifar = datasets().CIFAR10
    monkeypatch.setattr(cifar, "train_list", [dump("data_batch_1", batch)])
    monkeypatch.setattr(cifar, "test_list", [dump("test_batch", batch)])
    name, md5 = dump("batches.meta", {"label_names": [str(c) for c in range(10)]})
    meta = {"filename": name, "key": "label_names", "md5": md5}
    monkeypatch.setattr(cifar, "meta", meta)


def test_the_pickled_cifar10_is_read_through_torchvision(tmp_path, monkeypatch):
    write_pickles(tmp_path / "cifar-10-batches-py", monkeypatch)
    dataset = load("cifar10", tmp_path)
    assert np.array_equal(dataset.train_images, images(6, 3, 32, 32))
    assert dataset.test_labels.tolist() == labels(6).tolist()


def test_a_pickle_that_is_not_the_official_one_is_never_opened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    assert "torchvision cannot read CIFAR10" in refusal("cifar10", tmp_path)


def test_what_is_missing_is_fetched_through_torchvision_when_that_was_asked_for(
    tmp_path, monkeypatch
):
    """The archive lies there already, as after a download, so that no network is needed."""
    from mpls.model.torchvision_shim import datasets

    folder = tmp_path / "cifar-10-batches-py"
    write_pickles(folder, monkeypatch)
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(datasets().CIFAR10, "tgz_md5", md5)
    assert "allow the download" in refusal("cifar10", tmp_path)
    fetched = load("cifar10", tmp_path, download=True)
    assert np.array_equal(fetched.train_images, images(6, 3, 32, 32))
    assert np.array_equal(load("cifar10", tmp_path).test_images, fetched.test_images)


def test_a_failed_download_is_bad_input_with_its_reason(tmp_path, monkeypatch):
    from mpls.model.torchvision_shim import datasets

    nowhere = (tmp_path / "nowhere").as_uri()
    monkeypatch.setattr(datasets().MNIST, "mirrors", [f"{nowhere}/"])
    message = refusal("mnist", tmp_path, download=True)
    assert "cannot download MNIST" in message
    assert "train-images" in message


@pytest.mark.parametrize("name", DATASETS[1:])
def test_a_root_that_is_not_there_is_named_with_what_was_looked_for(tmp_path, name):
    message = refusal(name, tmp_path / "nothing")
    assert str(tmp_path / "nothing") in message
    assert "create it" in message


@pytest.mark.parametrize("name", DATASETS[1:])
def test_a_set_that_is_not_in_the_root_is_never_replaced_by_anything(tmp_path, name):
    message = refusal(name, tmp_path)
    assert message.startswith(f"{name} was not found in data.root {str(tmp_path)!r}")
    assert "allow the download" in message


def test_an_unknown_data_set_lists_the_known_ones():
    assert all(name in refusal("imagenet", Path()) for name in DATASETS)


DAMAGES = {
    "train-images-idx3-ubyte": [
        (b"", "no IDX file"),
        (b"PNG and so on", "no IDX file"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 4 + bytes([0, 0, 0, 28] * 2), "announces 3367254359280"),
        (idx(images(20, 28, 28))[:-1], "announces 15680 bytes of data and holds 15679"),
        (idx(images(20, 28, 28)) + b"x", "announces 15680 bytes of data and holds 15681"),
        (idx(images(20, 28, 27)), r"items of shape (28, 27), not (28, 28)"),
        (idx(images(19, 28, 28)), "19 training images and 20 labels"),
        (idx(labels(20)), "no IDX file"),
    ],
    "t10k-labels-idx1-ubyte": [(idx(labels(5) + 5), "a test label is 13, of 10 classes")],
}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [(file, *damage) for file, damages in DAMAGES.items() for damage in damages],
)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(tmp_path, file, content, message):
    write_idx(tmp_path)
    (tmp_path / file).write_bytes(content)
    assert message in refusal("mnist", tmp_path)


@pytest.mark.parametrize("cut", [3, 100])
def test_a_truncated_gz_is_named(tmp_path, cut):
    write_idx(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    assert f"{path}: cannot be read" in refusal("mnist", tmp_path)


def test_a_gz_that_is_none_is_named(tmp_path):
    write_idx(tmp_path, ".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(b"<html>not found</html>")
    assert f"{path}: cannot be read" in refusal("mnist", tmp_path)


def test_a_missing_sister_file_is_named(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "t10k-labels-idx1-ubyte [.gz] missing" in refusal("mnist", tmp_path)


def test_a_truncated_cifar_batch_is_named(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-bin")
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path}: 18437 bytes are no whole number" in refusal("cifar10", tmp_path)


def test_a_missing_cifar_test_batch_is_named(tmp_path):
    write_cifar(tmp_path / "cifar-100-binary", fine=True)
    (tmp_path / "cifar-100-binary" / "test.bin").unlink()
    assert "test.bin is missing" in refusal("cifar100", tmp_path)
