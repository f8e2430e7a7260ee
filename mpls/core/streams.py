"""Randomness as an argument: one seeded stream per concern, split by name.

A stream is named by the run's seed and a path of words, so that an extra draw in one place never
shifts another. Only PCG64's raw 64-bit integers are used, because they are the same on every
platform and numpy version, while numpy's distributions are allowed to change between versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Stream:
    """Deterministic draws. The same (seed, names) gives the same draws everywhere."""

    def __init__(self, seed: int, *names: str | int) -> None:
        text = "/".join([str(seed), *map(str, names)])
        entropy = int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")
        self._bits = np.random.PCG64(entropy)

    def uniform(self) -> float:
        """One float in [0, 1), of 53 random bits."""
        return int(self._bits.random_raw() >> 11) / 9007199254740992.0

    def uniforms(self, count: int) -> np.ndarray:
        """`count` floats in [0, 1), the same as as many calls of `uniform`."""
        return (self._bits.random_raw(count) >> np.uint64(11)) / 9007199254740992.0

    def between(self, low: float, high: float) -> float:
        """One float in [low, high)."""
        return low + (high - low) * self.uniform()

    def below(self, bound: int) -> int:
        """One integer in [0, bound)."""
        assert bound > 0
        return int(self.uniform() * bound)

    def pick(self, items: Sequence[T]) -> T:
        """One item, each equally likely."""
        return items[self.below(len(items))]

    def permutation(self, count: int) -> np.ndarray:
        """The numbers 0..count-1 in random order, int64."""
        return np.argsort(self._bits.random_raw(count), kind="stable")

    def state(self) -> dict[str, object]:
        """What `restore` takes, as plain numbers and strings."""
        return dict(self._bits.state)

    def restore(self, state: dict[str, object]) -> None:
        """Go on where `state` was taken."""
        self._bits.state = state  # type: ignore[assignment]
