"""Eq. 2-6: which peers are worth pulling from, and which layers of theirs. Array in, array out.

S peers, L layers, C classes; all arrays are float64. Whatever is added up over peers or classes is
added up exactly and rounded once (`math.fsum`), so that a decision depends neither on the order of
the peers nor on how a numpy version happens to sum: live and simulated decisions are bit-equal.

g (Eq. 5) is measured by the peer (`mpls.core.mixing.squared_distance`) and arrives here as numbers.
"""

from __future__ import annotations

from math import frexp, fsum, ldexp

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pairs = NDArray[np.bool_]

FLOOR_SLACK = 1e-9
"""With equal values the float mean can exceed each of them by one ulp (S = 6, S = 10): only what
is below the floor by more than this share is masked."""


def divergence(own: Floats, theirs: Floats) -> Floats:
    """Eq. 2: DD (S) in [0, 2], from the own label histogram (C) and the peers' (S, C)."""
    return _sums(np.abs(theirs - own).T)


def peer_scores(bandwidth_Bps: Floats, divergences: Floats, tau1: float, tau2: float) -> Floats:
    """Eq. 3 and 4: p (S), summing to 1."""
    fast, different = shares(bandwidth_Bps), shares(divergences)
    return shares(tau1 * fast + tau2 * different)


def layer_scores(progress: Floats) -> Floats:
    """Eq. 6: q (S, L), each column summing to 1, from g (S, L).

    A row of NaN is a peer whose progress is unknown: it counts with the mean of the known ones.
    """
    finite = np.isfinite(progress)
    if finite.all():
        return shares(progress)
    known: Pairs = np.all(finite, axis=1)
    filled = _scaled(np.where(known[:, None], progress, 0.0))
    filled[~known] = _sums(filled[known]) / max(1, int(known.sum()))
    return shares(filled)


def floors(merit: Floats) -> Floats:
    """theta (L): the mean over peers of p q (S, L)."""
    return _sums(merit) / len(merit)


def worthwhile(merit: Floats, floor: Floats) -> Pairs:
    """The mask (S, L) over p q (S, L): not below the floor (L), or the best that a layer has."""
    allowed: Pairs = (merit >= floor * (1 - FLOOR_SLACK)) | (merit == merit.max(axis=0))
    return allowed


def shares(values: Floats) -> Floats:
    """Non-negative values (S) or (S, L) divided by their sum over peers; a zero sum gives 1/S."""
    assert np.minimum.reduce(values, axis=None, initial=0.0) == 0.0
    if values.ndim == 1:
        return np.array(_shares_of_few(values.tolist()))
    scaled = _scaled(values)
    sums = _sums(scaled)
    if sums.all():
        return scaled / sums
    even = np.full_like(scaled, 1.0 / max(1, len(scaled)))
    return np.divide(scaled, sums, out=even, where=sums > 0)


def _shares_of_few(values: list[float]) -> list[float]:
    """`shares` of (S), which for a few peers numpy takes several times as long for."""
    exponent = frexp(max(values, default=0.0))[1]
    scaled = [ldexp(value, -exponent) for value in values]
    total = fsum(scaled)
    return [value / total if total > 0.0 else 1.0 / len(scaled) for value in scaled]


def _scaled(values: Floats) -> Floats:
    """Each column times the power of two that brings its largest value into [0.5, 1): exact, and
    no sum of it can overflow."""
    _, exponents = np.frexp(np.maximum.reduce(values, axis=0, initial=0.0))
    scaled: Floats = np.ldexp(values, -exponents)
    return scaled


def _sums(values: Floats) -> Floats:
    """Sum over the first axis, rounded once."""
    if values.ndim == 1:
        return np.array(fsum(values.tolist()))
    return np.array([fsum(column) for column in values.T.tolist()])
