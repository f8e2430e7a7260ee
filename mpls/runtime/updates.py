"""What the aggregation thread hands to the trainer: the sums and counts of Eq. 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpls.core.messages import LayerRefused, Source
from mpls.core.mixing import LayerSum, norm_limit
from mpls.wire import Buffer


@dataclass
class LayerUpdate:
    """The copies of one round, added up layer by layer. Handed over whole, and used once."""

    round: int
    sums: dict[str, LayerSum] = field(default_factory=dict)
    refused: tuple[LayerRefused, ...] = ()
    peer_rounds: list[int] = field(default_factory=list)
    """Round of the snapshot that each copy came from, but for the refused ones: the staleness."""
    buffers: list[Buffer] = field(default_factory=list)
    """To be given back once mixed."""


def add_up(
    round_number: int,
    sources: Sequence[Source],
    claim: Callable[[int, str], Buffer],
    own_layer: Callable[[str], NDArray[Any]],
    norm_clip: float,
) -> LayerUpdate:
    """Add the copies in the order of the plan, whatever order they came in, so that the sum's last
    bits do not depend on the network. A copy with a value that is not finite is refused."""
    update = LayerUpdate(round_number)
    refused: list[LayerRefused] = []
    limits = _norm_limits(sources, own_layer, norm_clip)
    for source in sources:
        buffer = claim(source.request_id, source.layer)
        update.buffers.append(buffer)
        layer_sum = update.sums.get(source.layer)
        if layer_sum is None:
            own = own_layer(source.layer)
            # The first copy's buffer is ours, so the sum can grow in place.
            layer_sum = update.sums[source.layer] = LayerSum(own.dtype, buffer.view(own.dtype))
        if layer_sum.add(buffer, limits.get(source.layer, np.inf)):
            update.peer_rounds.append(source.round)
        else:
            refused.append(LayerRefused(source.request_id, source.layer, "not-finite"))
    update.refused = tuple(refused)
    return update


def _norm_limits(
    sources: Sequence[Source], own_layer: Callable[[str], NDArray[Any]], norm_clip: float
) -> Mapping[str, float]:
    if norm_clip == 0:
        return {}
    layers = dict.fromkeys(source.layer for source in sources)
    return {layer: norm_limit(own_layer(layer), norm_clip) for layer in layers}


def mix(update: LayerUpdate, own_layer: Callable[[str], NDArray[Any]]) -> int:
    """Eq. 1 on every layer that somebody delivered, in place; returns how many."""
    for layer, layer_sum in update.sums.items():
        layer_sum.mix_into(own_layer(layer))
    return sum(layer_sum.count > 0 for layer_sum in update.sums.values())
