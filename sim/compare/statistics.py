"""The few statistics that the metrics are made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import combinations


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed, on the line between the two nearest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def kolmogorov_smirnov(left: Sequence[float], right: Sequence[float]) -> float:
    """The largest distance between the two shares of values below any point."""
    ours, theirs = sorted(left), sorted(right)
    return max(
        abs(bisect_right(ours, x) / len(ours) - bisect_right(theirs, x) / len(theirs))
        for x in {*ours, *theirs}
    )


def kendall_tau(pairs: Sequence[tuple[float, float]], counts: Sequence[tuple[int, int]]) -> float:
    """Of those pairs of items (by index) that count: the share ordered alike less the share that is
    not. `pairs` has two values of each item."""
    agreements = 0
    for a, b in counts:
        left, right = pairs[a][0] - pairs[b][0], pairs[a][1] - pairs[b][1]
        agreements += 1 if left * right > 0 else -1
    return agreements / len(counts)


def apart(intervals: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """The pairs of intervals (by index) that do not overlap."""
    return [
        (a, b)
        for a, b in combinations(range(len(intervals)), 2)
        if intervals[a][1] < intervals[b][0] or intervals[b][1] < intervals[a][0]
    ]
