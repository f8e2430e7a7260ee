"""The story of a worker among its peers: pull, aggregation round, and keeping watch.

`pull` and `aggregation_round` are the paper's cycle; `watch` learns what the next plan needs. All
three only yield effects; who carries them out, live or simulated, they cannot know.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpls.core import protocol
from mpls.core.bandwidth import BandwidthEstimator
from mpls.core.effects import Gather, Note, Outcome, Publish, Request, Sleep, Story
from mpls.core.messages import LayerRefused, UpdateTaken
from mpls.core.peers import Peer
from mpls.core.plan import Plan, View
from mpls.core.receipt import Receipt, window_bytes
from mpls.core.spec import WorkerSpec
from mpls.core.strategies import Strategy, make_strategy
from mpls.core.streams import Stream

FINAL_REASONS = frozenset({"cancelled", "timed-out", "bad-request", "unsupported", "unknown-layer"})
"""An attempt that ended so is not repeated within the same pull."""
LOST_REASONS = frozenset({"disconnected", "unreachable", "refused"})
"""After these the next attempt finds a new connection, if any, which wants a hello first."""
NEVER_S = float("inf")
FIRST_RETRY_S = 0.1
"""A peer that does not answer is asked again after this, then twice as long, up to `status_s`."""
LINGER_S = 10.0
"""A finished worker waits this long for a peer that fell silent to be heard again."""
LINGER_PROGRESS_S = 600.0
"""... and this long for one that answers but never finishes a round."""
IDLE_WATCH_S = 5.0
"""With `status_s` 0, how often it is looked whether a peer was left out and is to be asked."""
STALE_S = 30.0
"""A peer not measured for this long (jittered by up to half) is probed."""
LEAST_SHARE = 0.1
"""At least this much of an attempt's time is its transfer, whatever round trip and wait are taken
out: else bytes that came at once, or from a peer that claims to have waited, took no time."""
PROBE_BYTES = 1_000_000
PROBE_LEAST_BYTES = 65_536


class Rounds:
    """One worker's stories, and the beliefs that they share."""

    def __init__(self, spec: WorkerSpec, strategy: Strategy | None = None) -> None:
        self.spec = spec
        self.stall_s = spec.pull.stall_s
        self.layer_bytes = {layer.name: layer.bytes for layer in spec.layers}
        self.strategy = strategy or make_strategy(spec.plan)
        self.draws = Stream(spec.seed, "strategy", spec.name)
        self.jitter = Stream(spec.seed, "jitter", spec.name)
        prior_Bps = spec.pull.prior_bandwidth_Bps
        self.peers = {name: Peer(name, BandwidthEstimator(prior_Bps)) for name in spec.peers}
        self.downlink = BandwidthEstimator(prior_Bps)
        self.began_s = 0.0

    def opening(self, now: float) -> Iterable[Story]:
        """Keep watch over every peer; nobody is watched when nothing is ever pulled."""
        self.began_s = now
        if self.spec.plan.strategy == "local":
            return ()
        return [watch(self, peer) for peer in self.peers.values()]

    def round(self, number: int, now: float) -> Story:
        """The aggregation round of this number."""
        pause_s = self.spec.plan.interval_s if self.spec.pace.pace == "free" else 0.0
        return aggregation_round(self, number, pause_s)

    def view(self) -> View:
        """What the next plan is made from: the peers that are ready."""
        ready = tuple(p.view() for p in self.peers.values() if p.standing == "ready")
        downlink_Bps = self.downlink.value_Bps if self.downlink.measured_s is not None else None
        return View(self.spec.layers, self.spec.histogram, ready, downlink_Bps)

    def peers_training(self, now: float) -> bool:
        """Whether some peer that was heard of lately still trains, and makes progress: a worker
        that has finished goes on serving for those."""
        return any(
            peer.state in ("ready", "running")
            and now - peer.heard_s < LINGER_S
            and now - peer.advanced_s < LINGER_PROGRESS_S
            for peer in self.peers.values()
        )

    def pull_budget_s(self, peer: Peer, layers: Iterable[str]) -> float:
        """The deadline of a pull: what its bytes should take at a cautious bandwidth, times a
        factor, with a floor."""
        pull = self.spec.pull
        wanted_bytes = sum(self.layer_bytes[layer] for layer in layers)
        expected_s = peer.round_trip_s() + wanted_bytes / peer.bandwidth.cautious_Bps()
        return min(pull.round_s, max(pull.deadline_floor_s, pull.deadline_factor * expected_s))


def aggregation_round(worker: Rounds, number: int, pause_s: float = 0.0) -> Story:
    """Select, pull in parallel, publish: one cycle of the paper's Section 3."""
    yield Sleep(pause_s)
    view = worker.view()
    plan = worker.strategy.plan(view, worker.draws)
    yield Note("plan", {"round": number, **_beliefs(view), **plan.as_record()})
    pulls = [pull(worker, worker.peers[name], layers) for name, layers in _sources(plan)]
    receipts: list[Receipt] = yield Gather(pulls, timeout_s=worker.spec.pull.round_s)
    sources = tuple(source for receipt in receipts for source in receipt.sources())
    taken: UpdateTaken | None = yield Publish(number, sources)
    yield from _strike(worker, receipts, taken.refused if taken else ())
    for receipt in receipts:
        for record in receipt.pull_records(number, taken):
            yield Note("pull", record)
    yield Note("round", _report(number, receipts, taken))


def pull(worker: Rounds, peer: Peer, layers: tuple[str, ...]) -> Story:
    """Ask one peer for several layers until all came, the deadline passed or retries ran out.

    What arrived whole is kept; a retry asks only for the missing rest, and resumes in the middle
    of a layer."""
    receipt = Receipt(peer.name, layers, worker.layer_bytes)
    left_s = worker.pull_budget_s(peer, layers)
    pauses_s = [0.0, *worker.spec.pull.backoffs_s()]
    while receipt.missing() and pauses_s and left_s > pauses_s[0]:
        pause_s = pauses_s[0]
        yield Sleep(pause_s)
        left_s -= pause_s
        if receipt.reason in LOST_REASONS:
            greeting = yield from _greet(worker, peer, left_s)
            left_s -= greeting.seconds
            if peer.standing != peer.noted:
                yield _standing_note(peer, greeting.reason)
        ask = receipt.next_pull(window_bytes(peer.bandwidth.value_Bps))
        outcome = yield Request(peer.name, ask, timeout_s=max(0.0, left_s))
        left_s -= outcome.seconds
        moved_bytes = receipt.take(ask, outcome)
        _measure(worker, peer, outcome, moved_bytes)
        if outcome.request_id:
            yield Note("attempt", receipt.attempt_record(ask, outcome, moved_bytes))
        if outcome.reason in FINAL_REASONS:
            break
        pauses_s = pauses_s[1:] if outcome.reason else [0.0, *pauses_s[1:]]
    yield from _judge(worker, peer, receipt)
    return receipt


def watch(worker: Rounds, peer: Peer) -> Story:
    """Say hello, then ask for the status again and again; probe the link when its bandwidth has
    not been measured for long. With `status_s` 0 only a peer that is not ready is asked."""
    reason, retry_s = "unknown", FIRST_RETRY_S
    longest_s = worker.spec.pull.status_s or IDLE_WATCH_S
    while True:
        if reason or worker.spec.pull.status_s or peer.standing != "ready":
            outcome = yield from (_greet if reason else _ask_status)(worker, peer)
            news = outcome.reason != reason or peer.standing != peer.noted
            if news and outcome.reason != "cancelled":
                yield _standing_note(peer, outcome.reason)
            reason = outcome.reason
            yield from _probe_if_stale(worker, peer, outcome)
        pause_s = min(retry_s, longest_s) if reason else longest_s
        retry_s = 2 * retry_s if reason else FIRST_RETRY_S
        if (yield Sleep(pause_s)):
            return


def _greet(worker: Rounds, peer: Peer, patience_s: float = NEVER_S) -> Story:
    spec = worker.spec
    hello = protocol.Hello(0, spec.name, spec.model, spec.histogram, spec.samples)
    timeout_s = max(0.0, min(patience_s, spec.pull.stall_s))
    outcome: Outcome = yield Request(peer.name, hello, timeout_s)
    welcome = outcome.reply
    answered = isinstance(welcome, protocol.Welcome)
    if isinstance(welcome, protocol.Welcome) and _fits(welcome, hello, peer):
        peer.believe_histogram(welcome.histogram, len(spec.histogram))
        peer.progress = None
        peer.time_round_trip(outcome)
        if peer.standing == "incompatible":
            peer.standing = "away"
        peer.answered(outcome.now)
    elif answered or outcome.reason in ("unsupported", "refused"):
        peer.standing = "incompatible"
    else:
        peer.missed()
    return outcome


def _fits(welcome: protocol.Welcome, hello: protocol.Hello, peer: Peer) -> bool:
    """Whether it is who we think at this address, and trains what we train."""
    theirs = (welcome.v, welcome.model, welcome.name)
    return theirs == (hello.v, hello.model, peer.name)


def _ask_status(worker: Rounds, peer: Peer) -> Story:
    outcome: Outcome = yield Request(
        peer.name, protocol.Status(0), timeout_s=worker.spec.pull.stall_s
    )
    status = outcome.reply
    if isinstance(status, protocol.StatusOk):
        if status.round != peer.round or status.state != peer.state:
            peer.advanced_s = outcome.now
        peer.state, peer.round, peer.version = status.state, status.round, status.version
        peer.believe_progress(status.progress, len(worker.spec.layers))
        peer.time_round_trip(outcome)
        peer.answered(outcome.now)
    else:
        peer.missed()
    return outcome


def _probe_if_stale(worker: Rounds, peer: Peer, answer: Outcome) -> Story:
    """Else a peer that is never chosen would never be measured again."""
    patience_s = STALE_S * worker.jitter.between(1.0, 1.5)
    measured_s = peer.bandwidth.measured_s
    since_s = max(worker.began_s if measured_s is None else measured_s, peer.probed_s)
    if answer.reason or answer.now - since_s < patience_s:
        return
    peer.probed_s = answer.now
    half_second_bytes = int(peer.bandwidth.value_Bps * 0.5)
    probe = protocol.Probe(0, min(PROBE_BYTES, max(PROBE_LEAST_BYTES, half_second_bytes)))
    outcome: Outcome = yield Request(peer.name, probe, timeout_s=worker.spec.pull.round_s)
    _measure(worker, peer, outcome, outcome.received_bytes)


def _measure(worker: Rounds, peer: Peer, outcome: Outcome, moved_bytes: int) -> None:
    """Learn the bandwidth from an attempt, less the round trip and the server's own wait."""
    if moved_bytes <= 0:
        return
    wait_s = outcome.layers[0].wait_s if outcome.layers else 0.0
    least_s = LEAST_SHARE * (outcome.last_byte_s - outcome.start_s)
    start_s = min(outcome.start_s + peer.round_trip_s() + wait_s, outcome.last_byte_s - least_s)
    peer.bandwidth.observe(start_s, outcome.last_byte_s, moved_bytes, outcome.sharers)
    worker.downlink.observe(start_s, outcome.last_byte_s, moved_bytes)


def _judge(worker: Rounds, peer: Peer, receipt: Receipt) -> Story:
    """What the pull says about the peer."""
    if not receipt.missing():
        peer.delivered(receipt.ended_s)
        peer.believe_progress(receipt.progress, len(worker.spec.layers))
    elif receipt.reason != "cancelled":
        peer.failed_pull(receipt.ended_s)
        yield _standing_note(peer, f"pull {receipt.reason}")


def _strike(worker: Rounds, receipts: list[Receipt], on_mixing: tuple[LayerRefused, ...]) -> Story:
    """Every layer that was thrown away counts against its sender."""
    for receipt in receipts:
        peer = worker.peers[receipt.peer]
        for refusal in (*receipt.refusals, *receipt.own(on_mixing)):
            if peer.strike(receipt.ended_s):
                yield _standing_note(peer, f"{refusal.layer}: {refusal.reason}")


def _standing_note(peer: Peer, why: str) -> Note:
    peer.noted = peer.standing
    return Note("peer", {"peer": peer.name, "standing": peer.standing, "why": why})


def _sources(plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    return [(peer, layers) for peer, layers in plan.assignment.items() if layers]


def _beliefs(view: View) -> dict[str, object]:
    return {
        "bandwidth_Bps": {peer.name: peer.bandwidth_Bps for peer in view.peers},
        "progress": {peer.name: peer.progress for peer in view.peers},
    }


def _report(number: int, receipts: list[Receipt], taken: UpdateTaken | None) -> dict[str, object]:
    """Conservation: planned = applied + refused by reason + timed out + cancelled."""
    ends: dict[str, int] = {}
    for receipt in receipts:
        for end in receipt.ends(taken).values():
            ends[end] = ends.get(end, 0) + 1
    planned = sum(len(receipt.wanted) for receipt in receipts)
    assert sum(ends.values()) == planned
    return {"round": number, "planned": planned, "ends": ends}
