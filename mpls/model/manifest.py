"""Which bytes of a model belong to which layer: the map that all workers of a run share.

A model lives in one flat buffer of one floating type. Layer follows layer in module order, and in a
layer tensor follows tensor, C-contiguous and little-endian, so that a layer's bytes on the wire are
exactly its stretch of the buffer. This file knows nothing of torch: whoever pulls, mixes, serves or
simulates layers needs no more than these few numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Union

import numpy as np

Flat = Union[bytes, bytearray, memoryview, "np.ndarray[Any, Any]"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor. `dtype` is numpy's spelling with the byte order, such as `<f4`."""

    name: str
    shape: Shape
    dtype: str

    @property
    def tensor_bytes(self) -> int:
        """Its length in the buffer."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class LayerSpec:
    """One layer, the unit that is pulled and mixed, and the stretch of the buffer that it owns."""

    name: str
    offset_bytes: int
    tensors: tuple[TensorSpec, ...]

    @cached_property
    def layer_bytes(self) -> int:
        """Its length in the buffer and on the wire."""
        return sum(tensor.tensor_bytes for tensor in self.tensors)

    def bytes_in(self, flat: Flat) -> np.ndarray:
        """View of the layer in a whole model's buffer: uint8, one dimension, nothing copied."""
        stop = self.offset_bytes + self.layer_bytes
        return np.frombuffer(flat, np.uint8)[self.offset_bytes : stop]

    def values_in(self, flat: Flat) -> np.ndarray:
        """The same view, as numbers."""
        return self.bytes_in(flat).view(self.tensors[0].dtype)

    def tensors_in(self, flat: Flat) -> Iterator[tuple[TensorSpec, np.ndarray]]:
        """Each of its tensors with a view of its values in a whole model's buffer."""
        values, start = self.values_in(flat), 0
        for tensor in self.tensors:
            stop = start + prod(tensor.shape)
            yield tensor, values[start:stop].reshape(tensor.shape)
            start = stop


@dataclass(frozen=True)
class Manifest:
    """A model's layers, in module order."""

    layers: tuple[LayerSpec, ...]

    @classmethod
    def of(cls, dtype: str, layers: Mapping[str, Iterable[tuple[str, Shape]]]) -> Manifest:
        """Lay out layers, each a list of (tensor name, shape), one behind the other."""
        specs: list[LayerSpec] = []
        offset_bytes = 0
        for name, tensors in layers.items():
            members = tuple(TensorSpec(tensor, shape, dtype) for tensor, shape in tensors)
            specs.append(LayerSpec(name, offset_bytes, members))
            offset_bytes += specs[-1].layer_bytes
        return cls(tuple(specs))

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The one type of all tensors."""
        return np.dtype(self.layers[0].tensors[0].dtype)

    @cached_property
    def total_bytes(self) -> int:
        """The length of the buffer."""
        return sum(layer.layer_bytes for layer in self.layers)

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex over layer names, tensor names, shapes and dtypes, in order. Workers whose
        hashes differ cannot exchange layers; they find out at hello."""
        layers = [
            [layer.name, [[t.name, list(t.shape), t.dtype] for t in layer.tensors]]
            for layer in self.layers
        ]
        text = json.dumps(layers, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def empty(self) -> np.ndarray:
        """A flat buffer for one whole model, as numbers, not yet written to."""
        return np.empty(self.total_bytes // self.dtype.itemsize, self.dtype)
