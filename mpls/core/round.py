"""The story of a worker among its peers: the aggregation round, and what it begins with.

`aggregation_round` is the paper's cycle; the pulls in it are `pulling.py`, and `watch.py` learns
what the next plan needs. All only yield effects; who carries them out, live or simulated, they
cannot know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpls.core.beliefs import Beliefs, Recorded, everything
from mpls.core.effects import Gather, Note, Publish, Sleep, Story
from mpls.core.gate import TOO_FAR
from mpls.core.messages import LayerRefused, Source, UpdateTaken
from mpls.core.peers import Peer
from mpls.core.plan import Plan, View
from mpls.core.pulling import pull
from mpls.core.receipt import Receipt
from mpls.core.settings import PlanSettings
from mpls.core.spec import WorkerSpec
from mpls.core.strategies import Strategy, make_strategy
from mpls.core.streams import Stream
from mpls.core.watch import standing_note, strike, watch

BOOTSTRAP_LOOK_S = 0.25
BOOTSTRAP_LOOKS = 20
"""A newcomer looks so often whether all of its peers are ready,"""
BOOTSTRAP_LOOKS_ALONE = 120
"""... and so often while none is: they may not have been told of it yet."""


class Rounds(Beliefs):
    """One worker's stories, and the beliefs that they share."""

    def __init__(
        self,
        spec: WorkerSpec,
        strategy: Strategy | None = None,
        recorded: Recorded = everything,
    ) -> None:
        """Of the notes that cost much, only kinds that are `recorded` are made."""
        super().__init__(spec, recorded)
        self.strategy = strategy or make_strategy(spec.plan)
        self.draws = Stream(spec.seed, "strategy", spec.name)

    def memory(self, now: float) -> dict[str, Any]:
        """See `Beliefs.memory`; with the strategy's draws."""
        return {**super().memory(now), "draws": self.draws.state()}

    def restore(self, memory: Mapping[str, Any], now: float = 0.0) -> None:
        """See `Beliefs.restore`."""
        super().restore(memory, now)
        self.draws.restore(memory["draws"])

    def opening(self, now: float) -> Iterable[Story]:
        """Keep watch over every peer; nobody is watched when nothing is ever pulled."""
        self.began_s = now
        return self._watches(self.peers.values())

    def change_peers(self, names: tuple[str, ...], now: float) -> Iterable[Story]:
        """Keep watch over those who joined; who left is told of in the trace."""
        joined, left = self.replace_peers(names)
        return [*(_tell_of_leaving(peer) for peer in left), *self._watches(joined)]

    def round(self, number: int, now: float) -> Story:
        """The aggregation round of this number; 0 is `bootstrap`."""
        if number == 0:
            return bootstrap(self)
        pause_s = self.spec.plan.interval_s if self.spec.pace.pace == "free" else 0.0
        return aggregation_round(self, number, self.strategy, pause_s)

    def _watches(self, peers: Iterable[Peer]) -> list[Story]:
        if self.spec.plan.strategy == "local":
            return []
        return [watch(self, peer) for peer in peers]


def bootstrap(worker: Rounds) -> Story:
    """What a newcomer begins with: every layer of every peer, once. It waits a while for those that
    cannot be reached yet, and not for those that are busy, which only just begin themselves; where
    nobody has any weights, or nothing is ever pulled, it begins with its own."""
    looks = 0 if worker.spec.plan.strategy == "local" else BOOTSTRAP_LOOKS_ALONE
    for look in range(looks):
        ready = len(worker.ready())
        if ready == len(worker.peers) or (ready and look >= BOOTSTRAP_LOOKS):
            break
        if (yield Sleep(BOOTSTRAP_LOOK_S)):
            break
    yield from aggregation_round(worker, 0, make_strategy(PlanSettings(strategy="appg")))


def aggregation_round(
    worker: Rounds, number: int, strategy: Strategy, pause_s: float = 0.0
) -> Story:
    """Select, pull in parallel, publish: one cycle of the paper's Section 3."""
    yield Sleep(pause_s)
    view = worker.view()
    plan = strategy.plan(view, worker.draws)
    if worker.recorded("plan"):
        yield Note("plan", {"round": number, **_beliefs(view), **plan.as_record()})
    wanted = {worker.peers[name]: layers for name, layers in _sources(plan)}
    budgets_s = [worker.pull_budget_s(peer, layers) for peer, layers in wanted.items()]
    spare = len(view.peers) > 1
    pulls = [
        pull(worker, peer, layers, budget_s, spare, patient=number > 0)
        for (peer, layers), budget_s in zip(wanted.items(), budgets_s)
    ]
    receipts: list[Receipt] = yield Gather(pulls, timeout_s=worker.spec.pull.round_s)
    left_s = max(budgets_s, default=0.0) - max((r.seconds() for r in receipts), default=0.0)
    again = yield from pull_again(worker, number, receipts, left_s)
    worker.settle_downlink()
    worker.gate.keep(peer.name for peer in worker.ready())
    taken: UpdateTaken | None = yield Publish(number, _copies([*receipts, *again]))
    yield from _strike(worker, [*receipts, *again], taken.refused if taken else ())
    if worker.recorded("pull"):
        for receipt in (*receipts, *again):
            for record in receipt.pull_records(number, taken):
                yield Note("pull", record)
    yield Note("round", _report(number, receipts, again, taken))


def pull_again(worker: Rounds, number: int, receipts: list[Receipt], left_s: float) -> Story:
    """Once more, from another peer each, the layers that were spoilt and that nobody else brought,
    in what is left of the round's longest deadline; returns the Receipts."""
    brought = {layer for receipt in receipts for layer in receipt.arrived}
    asked = {(receipt.peer, layer) for receipt in receipts for layer in receipt.wanted}
    chosen: dict[Peer, list[str]] = {}
    for layer in dict.fromkeys(layer for receipt in receipts for layer in receipt.spoilt()):
        other = worker.substitute(layer, asked)
        if other is not None and layer not in brought and left_s > 0:
            chosen.setdefault(other, []).append(layer)
    for peer, layers in chosen.items():
        about = {"round": number, "peer": peer.name, "layers": list(layers)}
        yield Note("again", {**about, "budget_s": left_s})
    pulls = [pull(worker, peer, tuple(layers), left_s) for peer, layers in chosen.items()]
    return (yield Gather(pulls, timeout_s=max(0.0, left_s)))


def _strike(worker: Rounds, receipts: list[Receipt], on_mixing: tuple[LayerRefused, ...]) -> Story:
    """Every layer that was thrown away counts against its sender; what only stood out leaves it
    out for a while."""
    for receipt in receipts:
        peer, now = worker.peers.get(receipt.peer), receipt.ended_s
        if peer is None:  # it left the cluster meanwhile
            continue
        refused = [*receipt.refusals, *receipt.own(on_mixing)]
        far = [refusal for refusal in refused if refusal.reason == TOO_FAR]
        for refusal in refused:
            if refusal not in far:
                yield from strike(peer, f"{refusal.layer}: {refusal.reason}", now)
        if far:
            peer.stood_out(now, worker.share())
            if peer.standing != peer.noted:
                yield standing_note(peer, f"{far[0].layer}: {TOO_FAR}", now)
        elif receipt.arrived:
            peer.outliers = 0


def _tell_of_leaving(peer: Peer) -> Story:
    yield Note("peer", {"peer": peer.name, "standing": "removed", "why": "left the cluster"})


def _sources(plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    return [(peer, layers) for peer, layers in plan.assignment.items() if layers]


def _copies(receipts: Sequence[Receipt]) -> tuple[Source, ...]:
    return tuple(source for receipt in receipts for source in receipt.sources())


def _beliefs(view: View) -> dict[str, object]:
    return {
        "bandwidth_Bps": {peer.name: peer.bandwidth_Bps for peer in view.peers},
        "progress": {peer.name: peer.progress for peer in view.peers},
    }


def _report(
    number: int, receipts: list[Receipt], again: list[Receipt], taken: UpdateTaken | None
) -> dict[str, object]:
    """Conservation: planned + again = applied + refused by reason + timed out + cancelled."""
    ends: dict[str, int] = {}
    for receipt in (*receipts, *again):
        for end in receipt.ends(taken).values():
            ends[end] = ends.get(end, 0) + 1
    planned, more = (sum(len(r.wanted) for r in some) for some in (receipts, again))
    assert sum(ends.values()) == planned + more
    return {"round": number, "planned": planned, "again": more, "ends": ends}
