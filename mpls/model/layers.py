"""A torch module whose whole state is one flat buffer, layer after layer.

Publishing a snapshot is then one memcpy, mixing one pass per layer, and the optimizer sees a
single tensor. What travels: every parameter, and the running mean and variance of BatchNorm; never
its step counter, nor any other buffer.

A layer is a module with parameters of its own, and its key is the module's name. Two exceptions: a
BatchNorm belongs to the convolution or linear layer before it, because its statistics describe
that layer's output; and a tensor used twice belongs to the module that is named first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mpls.errors import BadInput, Refused
from mpls.model.manifest import Manifest

ROOT_LAYER = "."
"""Key of parameters that sit on the outermost module; no module can have this name."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_BATCH_NORM_HOSTS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PLAIN_TENSORS = (["weight", "bias"], ["weight"])
_DTYPES = {torch.float16: "<f2", torch.float32: "<f4", torch.float64: "<f8"}

Grouped = Mapping[str, Mapping[str, Tensor]]


def group_layers(module: nn.Module) -> Grouped:
    """Layer name -> tensor name -> tensor, both in module order, each tensor in one layer only."""
    layers: dict[str, dict[str, Tensor]] = {}
    seen: set[int] = set()
    host = ""
    for name, part in module.named_modules():
        own = {key: tensor for key, tensor in _travelling(part) if id(tensor) not in seen}
        if not own:
            continue
        seen.update(map(id, own.values()))
        layer = (host if isinstance(part, _BATCH_NORMS) else "") or name or ROOT_LAYER
        prefix = f"{name}." if name else ""
        layers.setdefault(layer, {}).update((prefix + key, tensor) for key, tensor in own.items())
        if isinstance(part, _BATCH_NORM_HOSTS):
            host = layer
    return layers


def _travelling(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from part.named_parameters(recurse=False)
    if isinstance(part, _BATCH_NORMS):
        statistics = {"running_mean": part.running_mean, "running_var": part.running_var}
        yield from ((name, tensor) for name, tensor in statistics.items() if tensor is not None)


def plain_values(module: nn.Module) -> dict[str, int]:
    """For a transport that knows only weight and bias of convolutions and linear layers: for each
    layer how many of its values, from the first, these are. What follows is a BatchNorm's.

    Raises Refused if anything else in the module is trained, or is no float32.
    """
    plain: dict[str, int] = {}
    seen: set[int] = set()
    for name, part in module.named_modules():
        own = dict(part.named_parameters(recurse=False))
        if isinstance(part, _BATCH_NORMS) and plain:
            continue
        if own:
            fresh = seen.isdisjoint(map(id, own.values()))
            if not (isinstance(part, _PLAIN) and fresh and [*own] in _PLAIN_TENSORS):
                what = f"{type(part).__name__} {name or ROOT_LAYER}"
                raise Refused(
                    f"the model's {what} is no convolution or linear layer of its own, and no other"
                    ' travels by gRPC; use transport = "zmq"'
                )
            seen.update(map(id, own.values()))
            plain[name or ROOT_LAYER] = sum(tensor.numel() for tensor in own.values())
    dtypes = {tensor.dtype for tensor in module.parameters()}
    if dtypes != {torch.float32}:
        found = ", ".join(sorted(map(str, dtypes)))
        raise Refused(f'gRPC carries torch.float32 only, the model has {found}; use "zmq"')
    return plain


class FlatModel:
    """Moves a module to a device and its travelling tensors into one buffer, of which they become
    views. Owned by one thread, as the module is.

    `weights` and `gradient` (torch, on the device) have one element for each number of the model;
    `weights.grad` is `gradient`, so `torch.optim.SGD([model.weights])` updates everything in one
    call. Zero it with `gradient.zero_()`: setting gradients to None would cut the views. BatchNorm
    statistics always have gradient 0. Keep weight decay off, since it would shrink them.

    `host` is the same model as a numpy array. On the CPU it *is* the weights. For another device it
    is a staging copy: `fetch()` before reading it, `push()` after writing to it.

    Raises BadInput if the module has no parameters, or not all of one floating type.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self.module = module.to(device)
        self.device = torch.device(device)
        layers = group_layers(module)
        dtype = _common_dtype(layers)
        self.manifest = Manifest.of(
            _DTYPES[dtype],
            {name: [(k, tuple(t.shape)) for k, t in own.items()] for name, own in layers.items()},
        )
        tensors = [tensor for own in layers.values() for tensor in own.values()]
        self.weights = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        self.gradient = torch.zeros_like(self.weights)
        self.weights.grad = self.gradient
        self._adopt(tensors)
        self.host = self._host()

    def _adopt(self, tensors: list[Tensor]) -> None:
        sizes = [tensor.numel() for tensor in tensors]
        stretches = zip(
            tensors, torch.split(self.weights, sizes), torch.split(self.gradient, sizes)
        )
        for tensor, values, slope in stretches:
            tensor.data = values.view(tensor.shape)
            if isinstance(tensor, nn.Parameter):
                tensor.grad = slope.view(tensor.shape)

    def staying(self) -> dict[str, Tensor]:
        """The module's buffers that do not travel, such as BatchNorm's step counters, by name."""
        travelling = {
            id(tensor) for own in group_layers(self.module).values() for tensor in own.values()
        }
        buffers = self.module.named_buffers()
        return {name: values for name, values in buffers if id(values) not in travelling}

    def _host(self) -> np.ndarray:
        if self.device.type == "cpu":
            return self.weights.numpy()
        return torch.empty_like(self.weights, device="cpu", pin_memory=True).numpy()

    def fetch(self) -> None:
        """Bring `host` up to date with the weights. Nothing to do on the CPU."""
        if self.device.type != "cpu":
            torch.from_numpy(self.host).copy_(self.weights)

    def push(self) -> None:
        """Bring the weights up to date with `host`. Nothing to do on the CPU."""
        if self.device.type != "cpu":
            self.weights.copy_(torch.from_numpy(self.host))


def _common_dtype(layers: Grouped) -> torch.dtype:
    tensors = {name: tensor for own in layers.values() for name, tensor in own.items()}
    if not tensors:
        raise BadInput("the model has no parameters, so there is nothing to train")
    first, dtype = next((name, tensor.dtype) for name, tensor in tensors.items())
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise BadInput(
                f"the model's {name} is {tensor.dtype}; allowed are " + ", ".join(map(str, _DTYPES))
            )
        if tensor.dtype != dtype:
            raise BadInput(
                f"the model mixes {dtype} ({first}) and {tensor.dtype} ({name}); "
                "all of it must have one type"
            )
    return dtype
