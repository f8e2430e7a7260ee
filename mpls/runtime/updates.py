"""What the aggregation thread hands to the trainer: the sums and counts of Eq. 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any

from numpy.typing import NDArray

from mpls.core.gate import NOT_FINITE, Bar, Gate
from mpls.core.messages import LayerRefused, Source
from mpls.core.mixing import LayerSum, norm
from mpls.wire import Buffer


@dataclass
class LayerUpdate:
    """The copies of one round, added up layer by layer. Handed over whole, and used once."""

    round: int
    sums: dict[str, LayerSum] = field(default_factory=dict)
    """Of as many values of each layer, from the first, as every copy has."""
    rests: dict[str, LayerSum] = field(default_factory=dict)
    """Of the values behind those, which by gRPC do not travel: a BatchNorm's."""
    heads: dict[str, int] = field(default_factory=dict)
    """How many values of each layer are in `sums`."""
    refused: tuple[LayerRefused, ...] = ()
    applied: list[Source] = field(default_factory=list)
    """Where each copy came from, but for the refused ones."""
    buffers: list[Buffer] = field(default_factory=list)
    """To be given back once mixed."""


def add_up(
    round_number: int,
    sources: Sequence[Source],
    claim: Callable[[int, str], Buffer],
    own_layer: Callable[[str], NDArray[Any]],
    norm_clip: float,
    gate: Gate,
) -> LayerUpdate:
    """Add the copies in the order of the plan, whatever order they came in, so that the sum's last
    bits do not depend on the network. `mpls.core.gate` says which copies are refused."""
    update = LayerUpdate(round_number)
    refused: list[LayerRefused] = []
    bars: dict[str, Bar] = {}
    update.buffers = [claim(source.request_id, source.layer) for source in sources]
    head_bytes: dict[str, int] = {}
    for source, buffer in zip(sources, update.buffers):
        shortest = head_bytes.get(source.layer, buffer.nbytes)
        head_bytes[source.layer] = min(shortest, buffer.nbytes)
    for source, buffer in zip(sources, update.buffers):
        cut, own = head_bytes[source.layer], own_layer(source.layer)
        head, rest = buffer[:cut].view(own.dtype), buffer[cut:].view(own.dtype)
        layer_sum = update.sums.get(source.layer)
        if layer_sum is None:
            # The first copy's buffer is ours, so the sum can grow in place.
            layer_sum = update.sums[source.layer] = LayerSum(own.dtype, head)
            update.heads[source.layer] = head.size
            bars[source.layer] = Bar(own[: head.size], norm_clip)
        allowed = partial(gate.allowed, source.peer, source.layer)
        sound = not rest.size or isfinite(norm(rest))
        reason = bars[source.layer].add(layer_sum, head, allowed) if sound else NOT_FINITE
        if reason:
            refused.append(LayerRefused(source.request_id, source.layer, reason))
            continue
        update.applied.append(source)
        if rest.size:
            update.rests.setdefault(source.layer, LayerSum(own.dtype, rest)).add_sound(rest)
    update.refused = tuple(refused)
    return update


def mix(update: LayerUpdate, own_layer: Callable[[str], NDArray[Any]]) -> int:
    """Eq. 1 on every layer that somebody delivered, in place; returns how many. The update of round
    0 takes the place of the own layers: nothing was learned yet."""
    keep_own = update.round > 0
    for layer, layer_sum in update.sums.items():
        layer_sum.mix_into(own_layer(layer)[: update.heads[layer]], keep_own)
    for layer, layer_sum in update.rests.items():
        layer_sum.mix_into(own_layer(layer)[update.heads[layer] :], keep_own)
    return sum(layer_sum.count > 0 for layer_sum in update.sums.values())
