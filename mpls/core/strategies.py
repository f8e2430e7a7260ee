"""The strategies, all with one signature: RULES is the table of them.

A strategy scores peers and layers, allows some (peer, layer) pairs, and pulls either what the
scheduler picks of these or all of them. Mixing divides by the number of copies plus one (Eq. 1),
so "one half each" is simply what a single source means. S peers, L layers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from mpls.core import selection
from mpls.core.plan import PeerView, Plan, View
from mpls.core.protocol import Vector
from mpls.core.schedule import Draft, Offers, everything, schedule
from mpls.core.selection import Floats, Pairs
from mpls.core.settings import PlanSettings
from mpls.core.streams import Stream
from mpls.errors import BadInput


class Strategy(Protocol):
    """What a user's own class must offer, besides a constructor that takes PlanSettings."""

    def plan(self, view: View, stream: Stream) -> Plan:
        """What to pull from whom now (see `Plan.of`); randomness only from `stream`."""


def make_strategy(settings: PlanSettings) -> Strategy:
    """The strategy that `settings.strategy` names, by the table or by import path.

    Raises BadInput if there is none.
    """
    rule = RULES.get(settings.strategy)
    return BuiltIn(settings, rule) if rule is not None else Imported(settings)


@dataclass(frozen=True)
class Candidates:
    """The usable peers, by name, with p (S) and q (S, L)."""

    peers: Sequence[PeerView]
    peer_score: Floats
    layer_score: Floats

    @cached_property
    def merit(self) -> Floats:
        """p q (S, L)."""
        return self.peer_score[:, None] * self.layer_score

    @cached_property
    def floor(self) -> Floats:
        """theta (L)."""
        return selection.floors(self.merit)

    def no_pairs(self) -> Pairs:
        """A mask (S, L) that allows nothing yet."""
        return np.zeros(self.layer_score.shape, dtype=bool)


# --- which pairs are allowed ------------------------------------------------------------------


def worthwhile(candidates: Candidates, stream: Stream) -> Pairs:
    """The paper's mask: p q not below the floor. Nothing is drawn."""
    return selection.worthwhile(candidates.merit, candidates.floor)


def drawn_by_merit(candidates: Candidates, stream: Stream) -> Pairs:
    """The paper's "probability" p q taken at its word: S draws for each layer, with replacement,
    so that a pair right at the floor is drawn once on average."""
    allowed = candidates.no_pairs()
    steps = np.add.accumulate(candidates.merit, axis=0)
    for layer, total in enumerate(steps[-1]):
        points = stream.uniforms(len(steps)) * total
        drawn = np.searchsorted(steps[:-1, layer], points, side="right")
        allowed[drawn if total > 0 else slice(None), layer] = True
    return allowed


def a_random_peer_per_layer(candidates: Candidates, stream: Stream) -> Pairs:
    """Each layer from one peer, all peers equally likely."""
    allowed = candidates.no_pairs()
    for layer in range(allowed.shape[1]):
        allowed[stream.below(len(allowed)), layer] = True
    return allowed


def a_random_peer(candidates: Candidates, stream: Stream) -> Pairs:
    """The whole model from one peer, all peers equally likely."""
    allowed = candidates.no_pairs()
    allowed[stream.below(len(allowed))] = True
    return allowed


def the_fastest_peer(candidates: Candidates, stream: Stream) -> Pairs:
    """The whole model from the peer of the highest bandwidth; equals by name."""
    allowed = candidates.no_pairs()
    allowed[np.argmax([peer.bandwidth_Bps for peer in candidates.peers])] = True
    return allowed


def every_peer(candidates: Candidates, stream: Stream) -> Pairs:
    """The whole model from every peer."""
    return ~candidates.no_pairs()


def nobody(candidates: Candidates, stream: Stream) -> Pairs:
    """Nothing is pulled."""
    return candidates.no_pairs()


# --- the table --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One strategy. A score that it does not use is 1/S for every peer."""

    uses_peer_score: bool
    uses_layer_score: bool
    allow: Callable[[Candidates, Stream], Pairs]
    scheduled: bool
    """Whether the scheduler picks among the allowed pairs; else all of them are pulled."""


# fmt: off
RULES = {
    #                    p      q      allowed pairs            scheduled
    "mpls":         Rule(True,  True,  worthwhile,              True),
    "mpls-peer":    Rule(True,  False, worthwhile,              True),
    "mpls-layer":   Rule(False, True,  worthwhile,              True),
    "rand-mpls":    Rule(False, False, a_random_peer_per_layer, False),
    "mpls-sampled": Rule(True,  True,  drawn_by_merit,          True),
    "appg":         Rule(False, False, every_peer,              False),
    "netmax":       Rule(False, False, the_fastest_peer,        False),
    "gossip":       Rule(False, False, a_random_peer,           False),
    "local":        Rule(False, False, nobody,                  False),
}
# fmt: on


class BuiltIn:
    """A strategy of the table."""

    def __init__(self, settings: PlanSettings, rule: Rule) -> None:
        self.settings = settings
        self.rule = rule

    def plan(self, view: View, stream: Stream) -> Plan:
        """Score, allow, schedule, explain."""
        peers = view.usable_peers()
        if not peers:
            return Plan.of(view, {})
        candidates = self.candidates(view, peers)
        offers = Offers(
            layer_bytes=tuple(layer.bytes for layer in view.layers),
            bandwidth_Bps=tuple(peer.bandwidth_Bps for peer in peers),
            allowed=self.rule.allow(candidates, stream),
        )
        if self.rule.scheduled:
            draft = schedule(offers, self.settings, view.downlink_Bps)
        else:
            draft = everything(offers)
        return _explained(view, candidates, draft)

    def candidates(self, view: View, peers: Sequence[PeerView]) -> Candidates:
        """These peers of the view with the scores that the rule uses."""
        p = np.full(len(peers), 1 / len(peers))
        if self.rule.uses_peer_score:
            bandwidths_Bps = np.array([peer.bandwidth_Bps for peer in peers])
            divergence = _divergence(view, peers)
            p = selection.peer_scores(
                bandwidths_Bps, divergence, self.settings.tau1, self.settings.tau2
            )
        q = np.full((len(peers), len(view.layers)), 1 / len(peers))
        if self.rule.uses_layer_score:
            q = selection.layer_scores(_progress(view, peers))
        return Candidates(peers, p, q)


def _divergence(view: View, peers: Sequence[PeerView]) -> Floats:
    """DD (S). An unknown histogram is taken for a uniform one."""
    histograms = [view.own_histogram, *(peer.histogram for peer in peers)]
    classes = max(len(histogram or ()) for histogram in histograms)
    uniform = (1 / max(1, classes),) * classes
    table = np.array([uniform if histogram is None else histogram for histogram in histograms])
    return selection.divergence(table[0], table[1:])


def _progress(view: View, peers: Sequence[PeerView]) -> Floats:
    """g (S, L), with rows of NaN where it is unknown."""
    unknown = (float("nan"),) * len(view.layers)
    return np.array([unknown if peer.progress is None else peer.progress for peer in peers])


def _explained(view: View, candidates: Candidates, draft: Draft) -> Plan:
    """The draft by names, with all that led to it."""
    names = [peer.name for peer in candidates.peers]
    labels = [layer.name for layer in view.layers]
    assignment, copies = {}, {}
    for name, layers, added in zip(names, draft.layers, draft.copies):
        assignment[name] = tuple(labels[layer] for layer in layers)
        copies[name] = assignment[name][len(layers) - added :]
    return Plan.of(
        view,
        assignment,
        peer_score=dict(zip(names, candidates.peer_score.tolist())),
        layer_score=_rows(names, candidates.layer_score.tolist()),
        floor=tuple(candidates.floor.tolist()),
        efficiency=_rows(names, draft.offers.efficiency),
        copies=copies,
    )


def _rows(names: list[str], table: list[list[float]]) -> dict[str, Vector]:
    return {name: tuple(row) for name, row in zip(names, table)}


# --- a user's own -----------------------------------------------------------------------------


class Imported:
    """A strategy named as `package.module:Class`; what it plans is checked each time."""

    def __init__(self, settings: PlanSettings) -> None:
        self.name = settings.strategy
        module, colon, attribute = self.name.partition(":")
        if not (module and colon and attribute):
            known = ", ".join(RULES)
            raise self._bad(f"neither one of {known}, nor a class named as package.module:Class")
        try:
            self.inner: Strategy = getattr(importlib.import_module(module), attribute)(settings)
        except Exception as error:  # whatever their code raises, the name is what is wrong here
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise self._bad(
                f"cannot be imported and called with PlanSettings ({reason})"
            ) from error
        if not callable(getattr(self.inner, "plan", None)):
            raise self._bad("has no method plan(view, stream)")

    def plan(self, view: View, stream: Stream) -> Plan:
        """What the user's class plans, with the loads computed anew. BadInput if it names what is
        not in the view."""
        try:
            theirs = self.inner.plan(view, stream)
            if not isinstance(theirs, Plan):
                raise BadInput(f"plan: must be a Plan (see Plan.of), not {type(theirs).__name__}")
            ours = Plan.of(view, theirs.assignment)
        except BadInput as error:
            raise self._bad(str(error)) from error
        return replace(
            theirs,
            assignment=ours.assignment,
            load_s=ours.load_s,
            makespan_s=ours.makespan_s,
            unserved=ours.unserved,
        )

    def _bad(self, reason: str) -> BadInput:
        return BadInput(f"strategy = {self.name!r}: {reason}")
