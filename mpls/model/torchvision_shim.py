"""The only place that imports torchvision: to download data sets, and to read CIFAR's pickles.

torchvision registers code for its compiled operators while it is imported. Beside a torch that it
was not built for (a CPU torch from one index, a CUDA torchvision from another) they do not load,
and the import dies of the missing names, although its data sets need none of them. Declaring the
names is enough.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any

import torch

_DECLARED = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPERATORS = ("nms", "qnms")


@cache
def datasets() -> Any:
    """The module `torchvision.datasets`."""
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in _OPERATORS:
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _DECLARED.define(schema)  # type: ignore[no-untyped-call]
    return importlib.import_module("torchvision.datasets")
