"""Straight lines through what was sampled: does a figure grow with time, and how sure is that?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import mean, median
from typing import Any

HOUR_S = 3600.0
FIRST_FREEDOM = 3
"""With fewer points than this beyond what the lines take, no interval is told."""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Slope:
    """Change per hour, and the ends of its 95 % interval."""

    per_h: float
    low: float
    high: float
    points: int
    span_s: float
    """From the first point to the last."""

    def as_plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)


def slope(groups: Sequence[Points]) -> Slope | None:
    """Of (seconds, value) points: one slope by least squares for all groups, each of which has a
    height of its own. None where there are too few points, or all at one time."""
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(map(len, groups)) - len(groups) - 1
    around = [point for group in groups for point in _around_its_mean(group)]
    spread = sum(t * t for t, _ in around)
    if freedom < FIRST_FREEDOM or spread == 0.0:
        return None
    steep = sum(t * y for t, y in around) / spread
    rest = sum((y - steep * t) ** 2 for t, y in around)
    half = student(freedom) * sqrt(rest / freedom / spread)
    times = [t for group in groups for t, _ in group]
    ends = (steep * HOUR_S, (steep - half) * HOUR_S, (steep + half) * HOUR_S)
    return Slope(*ends, points=len(around), span_s=max(times) - min(times))


def student(freedom: int) -> float:
    """The .975 quantile of Student's t, by the first terms of its expansion in 1/freedom around the
    normal one: within 1 % from 3 degrees of freedom on."""
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def thinned(points: Points, every_s: float) -> list[tuple[float, float]]:
    """The mean of each stretch of time: neighbours in time are too alike to count as many."""
    stretches: dict[int, list[tuple[float, float]]] = {}
    for t, y in points:
        stretches.setdefault(int(t // every_s), []).append((t, y))
    return [(mean(t for t, _ in some), mean(y for _, y in some)) for some in stretches.values()]


def middle(points: Points) -> tuple[float, float]:
    """The median of the times, and of the values."""
    return median(t for t, _ in points), median(y for _, y in points)


def _around_its_mean(points: Points) -> list[tuple[float, float]]:
    at, height = mean(t for t, _ in points), mean(y for _, y in points)
    return [(t - at, y - height) for t, y in points]
