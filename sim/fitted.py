"""Learning without torch: seconds and progress from fitted numbers, for thousands of workers.

A local step takes `step_s`, divided by the worker's speed, with a spread. Each published round
moves layer l by a squared distance of scale_l / (1 + round / knee), with a spread: what live runs
show is a fast start and a slow decline. Distances between versions add up, as path lengths do.
Accuracy is not modelled; nothing is known of it here.

Draws use raw integers only and results are rounded, so that the same seed gives the same numbers
on every machine (docs/decisions/006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpls.core.plan import Layer
from mpls.core.protocol import Vector
from mpls.core.streams import Stream
from sim.learning import Copy, Scores, Shard


@dataclass(frozen=True)
class Fit:
    """What is known of a model's training on a machine."""

    step_s: float
    """Of one local step, alone on a core."""
    step_spread: float = 0.05
    """A pass takes up to this share more or less."""
    scale: float = 0.5
    """Squared distance that the first round moves the whole model, spread over layers by bytes."""
    knee: float = 10.0
    """Rounds after which the distance has halved."""
    progress_spread: float = 0.5
    """A layer's distance is up to this share more or less."""


@dataclass(frozen=True)
class FittedSnapshot:
    """A version without weights: how far each layer has come."""

    version: int
    round: int
    path: Vector

    def squared_distance(self, older: FittedSnapshot) -> Vector:
        """Eq. 5, as the difference of paths."""
        return tuple(new - old for new, old in zip(self.path, older.path))


class Fitted:
    """A `sim.learning.Learning` of fitted numbers."""

    def __init__(
        self,
        layers: Sequence[Layer],
        model: str,
        shards: Sequence[Shard],
        speeds: Sequence[float],
        fit: Fit,
        seed: int,
    ) -> None:
        self.layers = tuple(layers)
        self.model = model
        self.shards = shards
        self._fit = fit
        self._step_s = [fit.step_s / speed for speed in speeds]
        self._times = [Stream(seed, "fitted", "times", i) for i in range(len(shards))]
        self._moves = [Stream(seed, "fitted", "moves", i) for i in range(len(shards))]
        total_bytes = sum(layer.bytes for layer in layers) or 1
        self._scales = [round(fit.scale * layer.bytes / total_bytes, 9) for layer in layers]
        self._paths: list[Vector] = [(0.0,) * len(self.layers)] * len(shards)

    def begin(self, worker: int, steps: int, surely_all: bool) -> float:
        """See `sim.learning.Learning`."""
        spread = 1 + self._fit.step_spread * (2 * self._times[worker].uniform() - 1)
        return round(steps * self._step_s[worker] * spread, 9)

    def end(self, worker: int, steps: int) -> float | None:
        """No loss is known."""
        return None

    def snapshot(self, worker: int, version: int, round_number: int) -> FittedSnapshot:
        """One step further along each layer's path."""
        fade = 1 / (1 + round_number / self._fit.knee)
        draws = self._moves[worker].uniforms(len(self.layers)).tolist()
        spread = self._fit.progress_spread
        self._paths[worker] = tuple(
            old + round(scale * fade * (1 + spread * (2 * draw - 1)), 9)
            for old, scale, draw in zip(self._paths[worker], self._scales, draws)
        )
        return FittedSnapshot(version, round_number, self._paths[worker])

    def mix(self, worker: int, copies: Sequence[Copy], keep_own: bool = True) -> dict[int, str]:
        """Every copy is accepted."""
        return {}

    def evaluate(self, worker: int) -> Scores | None:
        """Nothing is known."""
        return None

    def save(self, worker: int) -> tuple[Vector, dict[str, object]]:
        """How far each layer has come, and the draws to come."""
        return self._paths[worker], self._moves[worker].state()

    def restore(self, worker: int, saved: tuple[Vector, dict[str, object]]) -> None:
        """See `sim.learning.Learning`."""
        self._paths[worker], moves = saved
        self._moves[worker].restore(moves)

    def close(self) -> None:
        """Nothing to give back."""
