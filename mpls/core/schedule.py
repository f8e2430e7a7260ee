"""Eq. 7-9 and Algorithm 1: which peer brings which layer. S peers, L layers.

Theory of operation. A layer of M bytes takes mu1 = M / B_s from peer s (Eq. 7) and phi = M / B_best
from the fastest peer allowed to bring it (Eq. 8). So its efficiency E = phi / mu1 = B_s / B_best
(Eq. 9) does not depend on M, ties are the rule, and the tie rule is the schedule. It also follows
that *one* order of the layers serves every peer: by B_best ascending a peer's efficiencies descend.
Bandwidths are compared as they came and bytes are added up as integers: what is equal in theory
compares equal, and a load is rounded once.

Two holes in the paper are closed here. With S = 1 the printed bound 1/sqrt(S) equals the highest
efficiency, closes the only peer and assigns nothing: the bound is 0 then. And the loop has no exit
for layers that every peer is masked for: they are left out from the start. For S >= 2 it ends,
because a layer's fastest allowed peer has E = 1 > 1/sqrt(S) while that layer is open.

Peers are numbered by name, layers in module order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush
from math import fsum, inf, sqrt

import numpy as np

from mpls.core.selection import Floats, Pairs
from mpls.core.settings import FILLS, SCHEDULERS, TIES, PlanSettings


@dataclass(frozen=True)
class Offers:
    """What can be had from whom. `bandwidth_Bps` (S) is positive; `allowed` (S, L) is the mask."""

    layer_bytes: tuple[int, ...]
    bandwidth_Bps: tuple[float, ...]
    allowed: Pairs

    def __post_init__(self) -> None:
        assert self.allowed.shape == (len(self.bandwidth_Bps), len(self.layer_bytes))
        assert all(bandwidth > 0 for bandwidth in self.bandwidth_Bps)
        assert all(size >= 0 for size in self.layer_bytes)

    @cached_property
    def best_Bps(self) -> Floats:
        """B_best (L): the bandwidth of the fastest allowed peer; 0 where nobody is allowed."""
        speeds = np.array(self.bandwidth_Bps)[:, None]
        best: Floats = np.where(self.allowed, speeds, 0.0).max(axis=0, initial=0.0)
        return best

    @cached_property
    def allowed_rows(self) -> list[list[bool]]:
        """`allowed` (S, L) as lists, which are faster to look into one by one."""
        rows: list[list[bool]] = self.allowed.tolist()
        return rows

    @cached_property
    def efficiency(self) -> list[list[float]]:
        """E (S, L), Eq. 9; 0 for masked pairs and empty layers."""
        speeds = np.array(self.bandwidth_Bps)[:, None]
        real: Pairs = self.allowed & (np.array(self.layer_bytes) > 0)
        table: list[list[float]] = np.divide(
            speeds, self.best_Bps, out=np.zeros(real.shape), where=real
        ).tolist()
        return table

    def order(self, tie: str) -> list[int]:
        """The servable layers that have bytes, by efficiency descending (for any peer); between
        equals the larger first (`size`) or not (`index`); then by number."""
        best_Bps = self.best_Bps.tolist()
        wanted = [i for i, size in enumerate(self.layer_bytes) if size > 0 and best_Bps[i] > 0]
        larger_first = tie == "size"
        return sorted(
            wanted, key=lambda i: (best_Bps[i], -self.layer_bytes[i] if larger_first else 0)
        )


@dataclass
class Draft:
    """A schedule in the making: for each peer its layers, in the order they are to be pulled, and
    their bytes. `copies` counts the layers at the end of each peer's list that the fill added."""

    offers: Offers
    layers: list[list[int]] = field(init=False)
    bytes: list[int] = field(init=False)
    copies: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.layers = [[] for _ in self.offers.bandwidth_Bps]
        self.bytes = [0] * len(self.layers)
        self.copies = [0] * len(self.layers)

    def give(self, peer: int, layer: int) -> None:
        """This peer brings this layer, after those it has."""
        self.layers[peer].append(layer)
        self.bytes[peer] += self.offers.layer_bytes[layer]

    def load_s(self, peer: int) -> float:
        """Eq. 7."""
        return self.bytes[peer] / self.offers.bandwidth_Bps[peer]

    def makespan_s(self) -> float:
        """Eq. 8: the largest load."""
        return max((self.load_s(peer) for peer in range(len(self.layers))), default=0.0)


def schedule(offers: Offers, settings: PlanSettings, downlink_Bps: float | None) -> Draft:
    """Algorithm 1 (`list`) or earliest finish time (`eft`), and the fill, as the settings say.

    With `fill = "downlink"` and a downlink that was never measured, nothing is filled.
    """
    assert settings.scheduler in SCHEDULERS
    assert settings.tie in TIES
    assert settings.fill in FILLS
    order = offers.order(settings.tie)
    draft = list_schedule(offers, order) if settings.scheduler == "list" else eft_schedule(offers)
    if settings.fill == "paper":
        add_copies(draft, order)
    elif settings.fill == "downlink":
        add_copies(draft, order, limit_bytes=draft.makespan_s() * (downlink_Bps or 0.0))
    _check(draft, order)
    return draft


def list_schedule(offers: Offers, order: list[int]) -> Draft:
    """Algorithm 1, lines 1-15: the least loaded peer takes its most efficient open layer."""
    draft = Draft(offers)
    efficiency, allowed = offers.efficiency, offers.allowed_rows
    bound = 1 / sqrt(len(allowed)) if len(allowed) > 1 else 0.0
    available = [(0.0, -fsum(row), peer) for peer, row in enumerate(efficiency)]
    heapify(available)
    open_layers = dict.fromkeys(order)
    while open_layers:
        assert available, "a layer is open, but the peer with E = 1 for it is closed"
        _, minus_rank, peer = heappop(available)
        row = allowed[peer]
        for best in open_layers:
            if row[best]:
                break
        else:
            continue
        if efficiency[peer][best] <= bound:
            continue
        del open_layers[best]
        draft.give(peer, best)
        heappush(available, (draft.load_s(peer), minus_rank + efficiency[peer][best], peer))
    return draft


def eft_schedule(offers: Offers) -> Draft:
    """The largest layer first, each to the allowed peer that finishes it earliest."""
    draft = Draft(offers)
    speeds = np.array(offers.bandwidth_Bps)
    given_bytes = np.zeros(len(speeds))
    larger_first = sorted(offers.order("index"), key=lambda i: (-offers.layer_bytes[i], i))
    for layer in larger_first:
        finish_s = (given_bytes + offers.layer_bytes[layer]) / speeds
        peer = int(np.where(offers.allowed[:, layer], finish_s, inf).argmin())
        draft.give(peer, layer)
        given_bytes[peer] = draft.bytes[peer]
    return draft


def everything(offers: Offers) -> Draft:
    """Every allowed pair, in module order: the baselines, which do not schedule."""
    draft = Draft(offers)
    for peer, layer in np.argwhere(offers.allowed).tolist():
        if offers.layer_bytes[layer] > 0:
            draft.give(peer, layer)
    return draft


def add_copies(draft: Draft, order: list[int], limit_bytes: float = inf) -> None:
    """Algorithm 1, lines 16-22: each peer takes what else fits under the makespan, and all peers
    together no more than `limit_bytes`."""
    sizes, makespan_s, total_bytes = draft.offers.layer_bytes, draft.makespan_s(), sum(draft.bytes)
    for peer, allowed in enumerate(draft.offers.allowed_rows):
        speed_Bps, given = draft.offers.bandwidth_Bps[peer], set(draft.layers[peer])
        for layer in order:
            fits = allowed[layer] and (draft.bytes[peer] + sizes[layer]) / speed_Bps <= makespan_s
            if fits and layer not in given and total_bytes + sizes[layer] <= limit_bytes:
                draft.give(peer, layer)
                draft.copies[peer] += 1
                total_bytes += sizes[layer]


def _check(draft: Draft, order: list[int]) -> None:
    """What must hold of any schedule."""
    sizes, makespan_s = draft.offers.layer_bytes, draft.makespan_s()
    brought: set[int] = set()
    for peer, layers in enumerate(draft.layers):
        assert len(set(layers)) == len(layers), "a layer is pulled twice from one peer"
        assert draft.bytes[peer] == sum(sizes[layer] for layer in layers), "not Eq. 7"
        assert draft.load_s(peer) <= makespan_s, "a load above the makespan"
        allowed = draft.offers.allowed_rows[peer]
        assert all(allowed[layer] for layer in layers), "a masked pair is used"
        brought.update(layers)
    assert brought == set(order), "a servable layer was left out"
    first = sum(map(len, draft.layers)) - sum(draft.copies)
    assert first == len(order), "a layer has not exactly one source before the fill"
