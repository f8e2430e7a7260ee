"""Eq. 1 as sums and counts per layer: new = (sum of the copies + own) / (number of copies + 1).

The aggregation thread adds up the copies of a layer (LayerSum), the trainer mixes the sum into its
current weights. A layer is one flat array of float32 or float64. Nothing here makes a temporary of
a layer's size, but for a copy that is unaligned, clipped or overflows when squared.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mpls.core.protocol import Bytes

Values = NDArray[Any]

BLOCK = 65_536
"""Values worked on at once where several passes are made: they stay in the cache between them."""


class LayerSum:
    """The copies of one layer, added up in the order of `add`.

    The first copy is referred to, not copied: it must stay as it is until mixed. From the second
    on the sum is in `storage`, of the layer's size: fresh memory if none is given, best the first
    copy's own if nobody else reads that.
    """

    def __init__(self, dtype: DTypeLike = np.float32, storage: Values | None = None) -> None:
        self.count = 0
        self._dtype = np.dtype(dtype)
        self._storage = storage
        self._total: Values | None = None

    def add(self, copy: Bytes | Values, norm_limit: float = inf) -> bool:
        """Count in one more copy: any buffer of the layer's values.

        A copy with a larger L2 norm than `norm_limit` is scaled down to it. False, and nothing
        has changed, if a value is not finite.
        """
        values = np.require(np.frombuffer(copy, self._dtype), requirements="A")
        length = norm(values)
        if not isfinite(length):
            return False
        if length > norm_limit:
            values = values * (norm_limit / length)
        self.add_sound(values)
        return True

    def add_sound(self, values: Values) -> None:
        """Count in a copy that is known to be finite and within any limit."""
        self._total = values if self._total is None else self._added(self._total, values)
        self.count += 1

    def mix_into(self, own: Values, keep_own: bool = True) -> None:
        """Eq. 1, in place; without `keep_own` the mean of the copies takes the place of `own`. With
        no copy, `own` stays as it is."""
        if self._total is None:
            return
        assert own.shape == self._total.shape
        if not keep_own:
            np.divide(self._total, self.count, out=own)
            return
        models = self.count + 1
        halving = models & (models - 1) == 0
        for part in _blocks(own.size):
            block = own[part]
            np.add(block, self._total[part], out=block)
            # For powers of two a product is as exact as a quotient, in half the time.
            if halving:
                np.multiply(block, 1 / models, out=block)
            else:
                np.divide(block, models, out=block)

    def _added(self, total: Values, values: Values) -> Values:
        if self._storage is None:
            self._storage = np.empty_like(total)
        return np.add(total, values, out=self._storage)


def norm(values: Values) -> float:
    """The L2 norm; infinite or NaN if a value is."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(np.dot(values, values))
    if isfinite(squares):
        return sqrt(squares)
    peak = float(np.abs(values).max())
    if not isfinite(peak):
        return peak
    scaled = values / peak
    return peak * sqrt(float(np.dot(scaled, scaled)))


def squared_distance(now: Values, before: Values) -> float:
    """Eq. 5: g, the squared L2 norm of the difference of two versions of a layer; infinite or NaN
    where that is too large for the layer's type."""
    scratch = np.empty(min(BLOCK, now.size), now.dtype)
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _blocks(now.size):
            change = np.subtract(now[part], before[part], out=scratch[: part.stop - part.start])
            total += float(np.dot(change, change))
    return total


def squares_and_product(values: Values, own: Values) -> tuple[float, float]:
    """|values|^2 and values . own, in one pass over both; infinite or NaN where a square is too
    large for the type or a value is not finite."""
    squares = product = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _blocks(own.size):
            block = values[part]
            squares += float(np.dot(block, block))
            product += float(np.dot(block, own[part]))
    return squares, product


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))
