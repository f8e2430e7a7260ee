"""Readers of the two file formats that image data sets come in: IDX and CIFAR's binary layout.

A file that is not what it should be raises BadInput with its name and what is wrong with it.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

from mpls.errors import BadInput

CIFAR_SHAPE = (3, 32, 32)

_IDX_UINT8 = 0x08


def read_idx(path: Path, item_shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array (N, *item_shape) in an IDX file, gzipped or not."""
    dimensions = 1 + len(item_shape)
    header_bytes = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(header_bytes)
            shape = _idx_shape(path, header, dimensions)
            if shape[1:] != item_shape:
                raise BadInput(f"{path}: holds items of shape {shape[1:]}, not {item_shape}")
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error
    if len(content) != prod(shape):
        raise BadInput(f"{path}: announces {prod(shape)} bytes of data and holds {len(content)}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _idx_shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, _IDX_UINT8, dimensions]):
        raise BadInput(
            f"{path}: is no IDX file of {dimensions}-dimensional bytes (starts {header[:4].hex()})"
        )
    return struct.unpack(f">{dimensions}I", header[4:])


def read_cifar(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, 3, 32, 32) uint8 and the last of each record's `label_bytes` labels, (N,)
    uint8. CIFAR-100 has two labels a record, coarse then fine."""
    record_bytes = label_bytes + prod(CIFAR_SHAPE)
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error
    if len(content) == 0 or len(content) % record_bytes:
        raise BadInput(
            f"{path}: {len(content)} bytes are no whole number of records of {record_bytes}"
        )
    records = content.reshape(-1, record_bytes)
    return records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE), records[:, label_bytes - 1]
