"""What a link can carry as time goes on: piecewise constant, so that nothing happens in between.

A capacity is asked for its rate, and until when that holds, with times that never go back. Draws
are PCG64's raw bits and arithmetic that IEEE 754 rounds alike everywhere; a sine is rounded to
whole bytes per second. So a link varies alike on every machine.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from mpls.core.streams import Stream

NEVER_S = math.inf
FLOOR_SHARE = 0.05
"""A varying rate never falls below this share of its mean."""


class Capacity(Protocol):
    """The rate of one direction of a link."""

    def at(self, now: float) -> tuple[float, float]:
        """Bytes per second, above 0, and when that may change: after `now`, infinite for never."""


@dataclass(frozen=True)
class Constant:
    """The same rate for ever."""

    rate_Bps: float

    def at(self, now: float) -> tuple[float, float]:
        return self.rate_Bps, NEVER_S


class Steps:
    """Each rate holds from its time to the next one's; the first also before."""

    def __init__(self, steps: Sequence[tuple[float, float]]) -> None:
        """`steps` are (seconds, bytes per second), at least one, in order of time."""
        assert steps
        self._times_s = [at_s for at_s, _ in steps]
        self._rates_Bps = [rate_Bps for _, rate_Bps in steps]
        assert all(a < b for a, b in pairwise(self._times_s))

    def at(self, now: float) -> tuple[float, float]:
        following = max(1, bisect_right(self._times_s, now))
        until_s = self._times_s[following] if following < len(self._times_s) else NEVER_S
        return self._rates_Bps[following - 1], until_s


@dataclass(frozen=True)
class Sine:
    """Swings about a mean, sampled on a grid of `step_s`."""

    mean_Bps: float
    amplitude_Bps: float
    period_s: float
    step_s: float
    phase: float = 0.0
    """In periods, 0 to 1."""

    def at(self, now: float) -> tuple[float, float]:
        cell = grid_cell(now, self.step_s)
        turns = cell * self.step_s / self.period_s + self.phase
        swing_Bps = self.amplitude_Bps * math.sin(2.0 * math.pi * (turns % 1.0))
        rate_Bps = float(round(max(self.mean_Bps + swing_Bps, FLOOR_SHARE * self.mean_Bps)))
        return max(1.0, rate_Bps), (cell + 1) * self.step_s


class Autoregressive:
    """AR(1) on a grid of `step_s`: what is left of a deviation after a step is `correlation`, and
    new noise keeps the standard deviation at `sd_Bps`. It starts at a stationary draw."""

    def __init__(
        self, mean_Bps: float, sd_Bps: float, correlation: float, step_s: float, draws: Stream
    ) -> None:
        assert 0.0 <= correlation < 1.0
        self._mean_Bps, self._sd_Bps, self._step_s = mean_Bps, sd_Bps, step_s
        self._kept, self._noise = correlation, math.sqrt(1.0 - correlation * correlation)
        self._draws = draws
        self._cell = 0
        self._deviation = nearly_normal(draws)

    def at(self, now: float) -> tuple[float, float]:
        cell = grid_cell(now, self._step_s)
        assert cell >= self._cell
        for _ in range(cell - self._cell):
            noise = self._noise * nearly_normal(self._draws)
            self._deviation = self._kept * self._deviation + noise
        self._cell = cell
        rate_Bps = self._mean_Bps + self._sd_Bps * self._deviation
        return max(rate_Bps, FLOOR_SHARE * self._mean_Bps), (cell + 1) * self._step_s


def nearly_normal(draws: Stream) -> float:
    """Mean 0, standard deviation 1, within 6: the sum of twelve uniform draws less 6. Unlike the
    usual transforms it needs no logarithm, whose last bit differs between machines."""
    return math.fsum(draws.uniforms(12).tolist()) - 6.0


def grid_cell(now: float, step_s: float) -> int:
    """The k with k * step_s <= now < (k + 1) * step_s, as these products are rounded."""
    cell = int(now / step_s)
    if cell * step_s > now:
        return cell - 1
    return cell + 1 if (cell + 1) * step_s <= now else cell
