"""How far a copy of a layer may pull the own weights, and which copies are not mixed in at all.

A copy is held against the own layer (docs/decisions/012); distances are ratios to the own layer's
norm, and what is usual is the distance of the nearer half of the peers. One more than FAR times as
far as usual is moved towards the own layer until it is as far as usual; one more than ABSURD times
is refused. Each peer has one vote, its latest distance, however often it is pulled from: so a
minority of the peers cannot move the bar, and a worker that comes back far behind, to which
everybody is far, refuses nobody for long. What is left is clipped: its norm may be `norm_clip`
times the own layer's, at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf, isfinite, sqrt

import numpy as np

from mpls.core.mixing import LayerSum, Values, norm, squares_and_product
from mpls.core.protocol import Bytes

FAR = 3.5
ABSURD = 6.0
NEAR = 0.05
"""Usual is this much at least: copies nearer than FAR times it are left as they are."""
NOT_FINITE = "not-finite"
TOO_FAR = "too-far"
Allowed = Callable[[float], float]


def as_it_is(distance: float) -> float:
    """Allows whatever is finite."""
    return distance


class Gate:
    """One worker's votes."""

    def __init__(self) -> None:
        self._votes: dict[str, dict[str, float]] = {}
        """Layer -> peer -> distance of its latest copy."""

    def allowed(self, peer: str, layer: str, distance: float) -> float:
        """How far a copy that is this far may be: so far, only as far as usual, or 0 if it is
        refused. The distance is the peer's vote now. Nobody else's vote being known, everything is
        allowed."""
        votes = self._votes.setdefault(layer, {})
        votes[peer] = distance
        usual = max(NEAR, sorted(votes.values())[(len(votes) - 1) // 2])
        if distance <= FAR * usual:
            return distance
        return usual if distance <= ABSURD * usual else 0.0

    def keep(self, peers: Iterable[str]) -> None:
        """Forget the votes of all others: they may come back with very different weights."""
        kept = set(peers)
        for votes in self._votes.values():
            for peer in votes.keys() - kept:
                del votes[peer]

    def memory(self) -> dict[str, dict[str, float]]:
        """What `restore` takes, as JSON knows it: votes that were not infinite."""
        return {
            layer: {peer: vote for peer, vote in votes.items() if isfinite(vote)}
            for layer, votes in self._votes.items()
        }

    def restore(self, memory: Mapping[str, Mapping[str, float]]) -> None:
        """The votes of before a restart."""
        self._votes = {layer: dict(votes) for layer, votes in memory.items()}


class Bar:
    """What the copies of one layer are held against: the own layer. With `norm_clip` 0, and for an
    own layer of zeros, only values that are not finite are refused."""

    def __init__(self, own: Values, norm_clip: float) -> None:
        self._own = own
        self._norm_clip = norm_clip
        own_norm = norm(own) if norm_clip else 0.0
        self._own_norm = own_norm if isfinite(own_norm) else 0.0

    def add(self, layer_sum: LayerSum, copy: Bytes | Values, allowed: Allowed = as_it_is) -> str:
        """Count in one more copy, or say why not: NOT_FINITE, TOO_FAR."""
        if not self._own_norm:
            return "" if layer_sum.add(copy) else NOT_FINITE
        values = np.require(np.frombuffer(copy, self._own.dtype), requirements="A")
        squares, product = squares_and_product(values, self._own)
        apart = squares - 2 * product + self._own_norm**2
        distance = sqrt(max(0.0, apart)) / self._own_norm if isfinite(apart) else inf
        if distance == inf and not isfinite(norm(values)):
            return NOT_FINITE
        within = allowed(distance)
        if within == 0 < distance:
            return TOO_FAR
        if within < distance:
            values = self._own + (values - self._own) * values.dtype.type(within / distance)
            squares = inf
        if sqrt(squares) <= self._norm_clip * self._own_norm:
            layer_sum.add_sound(values)
        else:
            layer_sum.add(values, self._norm_clip * self._own_norm)
        return ""
