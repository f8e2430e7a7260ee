"""From measured values to the few numbers of a calibration file: same values, same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, pstdev

import numpy as np

from mpls.core.calibration import Affine, Progress, Sample

PARTS = 20
KNEES = [10 ** (tenth / 10) for tenth in range(-10, 31)]
"""Rounds, 0.1 to 1,000, among which the best fit is looked for."""


def rounded(value: float) -> float:
    """To five digits: more are never known."""
    return float(f"{value:.5g}")


def sample(values: Sequence[float]) -> Sample:
    """The means of their twentieths, from the least on; fewer values stand for themselves."""
    parts = np.array_split(np.sort(values), min(PARTS, len(values)))
    return tuple(rounded(float(part.mean())) for part in parts)


def affine(sizes: Sequence[float], seconds: Sequence[float]) -> Affine:
    """The line whose relative errors are least, in squares. Neither part is below 0."""
    inverse = 1 / np.array(seconds)
    columns = np.stack([inverse, np.array(sizes) * inverse], axis=1)
    (once_s, byte_s), *_ = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)
    if once_s < 0 or byte_s < 0:
        ratio = fmean(seconds[i] / sizes[i] for i in range(len(sizes)))
        once_s, byte_s = (0.0, ratio) if once_s < 0 else (median(seconds), 0.0)
    return Affine(rounded(once_s), rounded(byte_s))


def progress(distances: Sequence[float]) -> Progress:
    """The decay that is nearest to the squared distances of rounds 1, 2, ..., in logarithms, so
    that every round counts alike."""
    logs = [math.log(distance) for distance in distances]

    def residuals(knee: float) -> list[float]:
        """Of the best scale for this knee, but for the scale's own logarithm."""
        return [log + math.log(1 + number / knee) for number, log in enumerate(logs, 1)]

    knee = min(KNEES, key=lambda knee: pstdev(residuals(knee)))
    scale = math.exp(fmean(residuals(knee)))
    # Evenly distributed within +-spread has this standard deviation times the square root of 3.
    spread = min(0.95, math.sqrt(3) * pstdev(residuals(knee)))
    return Progress(rounded(scale), rounded(knee), rounded(spread))
