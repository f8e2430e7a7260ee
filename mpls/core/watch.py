"""The story of keeping watch over a peer: hello, status, and a probe when its link is forgotten."""

from __future__ import annotations

from mpls.core import protocol
from mpls.core.beliefs import Beliefs
from mpls.core.effects import Note, Outcome, Request, Sleep, Story
from mpls.core.measuring import measure_probe
from mpls.core.peers import Peer

NEVER_S = float("inf")
IDLE_WATCH_S = 5.0
"""With `status_s` 0, how often it is looked whether a peer was left out and is to be asked."""
REMIND_S = 60.0
"""Of a peer that stays out the trace and the log have a line this often, and no more."""
STALE_S = 30.0
"""A peer not measured for this long (jittered by up to half) is probed."""
PROBE_LEAST_BYTES = 65_536
"""The first probe of a link, whatever was believed of it: on one that has become slow, a larger
would hold up all else for seconds, heartbeats included, since it is one message."""
PROBE_SECONDS = 0.5
"""Further probes last about as long, until they fill a window of the estimate."""
PROBES = 3
ENDED_REASONS = ("cancelled", "removed")
"""The worker drains, or the peer is none any more: that says nothing about it."""


def watch(worker: Beliefs, peer: Peer) -> Story:
    """Say hello, then ask for the status again and again; probe the link when its bandwidth has
    not been measured for long. With `status_s` 0 only a peer that is not ready is asked."""
    failures, asked = 0, False
    longest_s = worker.spec.pull.status_s or IDLE_WATCH_S
    while not peer.removed:
        if failures or worker.spec.pull.status_s or peer.standing != "ready":
            outcome: Outcome = yield from (ask_status if asked else greet)(worker, peer)
            asked = not outcome.reason
            failures = 0 if asked else failures + 1
            if outcome.reason not in ENDED_REASONS and _is_news(peer, outcome.now):
                yield standing_note(peer, outcome.reason, outcome.now)
            if asked and peer.standing == "ready":
                yield from _probe_if_stale(worker, peer, outcome.now)
        pause_s = worker.pause_s(failures, longest_s) if failures else longest_s
        if (yield Sleep(pause_s)):
            return


def greet(worker: Beliefs, peer: Peer, patience_s: float = NEVER_S) -> Story:
    """Say hello; returns the Outcome."""
    spec = worker.spec
    hello = protocol.Hello(0, spec.name, spec.model, spec.histogram, spec.samples)
    timeout_s = max(0.0, min(patience_s, spec.pull.stall_s))
    outcome: Outcome = yield Request(peer.name, hello, timeout_s)
    welcome = outcome.reply
    if isinstance(welcome, protocol.Welcome) and _fits(welcome, hello, peer):
        peer.progress = None
        peer.time_round_trip(outcome)
        if peer.standing == "incompatible":
            peer.standing = "away"
        peer.answered(outcome.now)
        if not peer.believe_welcome(welcome, len(spec.histogram)):
            yield from strike(peer, "a label histogram that is none", outcome.now)
    elif isinstance(welcome, protocol.Welcome) or outcome.reason in ("unsupported", "refused"):
        peer.standing = "incompatible"
    else:
        yield from _miss(peer, outcome)
    return outcome


def ask_status(worker: Beliefs, peer: Peer) -> Story:
    """Ask how far it is; returns the Outcome."""
    outcome: Outcome = yield Request(
        peer.name, protocol.Status(0), timeout_s=worker.spec.pull.stall_s
    )
    if isinstance(outcome.reply, protocol.StatusOk):
        peer.time_round_trip(outcome)
        peer.answered(outcome.now)
        if not peer.believe_status(outcome.reply, len(worker.spec.layers), outcome.now):
            yield from strike(peer, "a status that is none", outcome.now)
    else:
        yield from _miss(peer, outcome)
    return outcome


def strike(peer: Peer, why: str, now: float) -> Story:
    """It sent something unusable."""
    if peer.strike(now):
        yield standing_note(peer, why, now)


def standing_note(peer: Peer, why: str, now: float) -> Note:
    """For the trace: where the peer stands now. A quarantine says until when."""
    peer.noted, peer.noted_s = peer.standing, now
    until = {"until_s": peer.out_until_s} if peer.standing == "quarantined" else {}
    return Note("peer", {"peer": peer.name, "standing": peer.standing, "why": why, **until})


def _miss(peer: Peer, outcome: Outcome) -> Story:
    peer.missed()
    if outcome.reason.startswith("protocol"):
        yield from strike(peer, outcome.reason, outcome.now)


def _is_news(peer: Peer, now: float) -> bool:
    left_out = peer.standing != "ready" and now - peer.noted_s >= REMIND_S
    return left_out or peer.standing != peer.noted


def _fits(welcome: protocol.Welcome, hello: protocol.Hello, peer: Peer) -> bool:
    """Whether it is who we think at this address, and trains what we train."""
    theirs = (welcome.v, welcome.model, welcome.name)
    return theirs == (hello.v, hello.model, peer.name)


def _probe_if_stale(worker: Beliefs, peer: Peer, now: float) -> Story:
    """Else a peer that is never chosen would never be measured again."""
    patience_s = STALE_S * worker.jitter.between(1.0, 1.5)
    measured_s = peer.bandwidth.measured_s
    since_s = max(worker.began_s if measured_s is None else measured_s, peer.probed_s)
    if now - since_s < patience_s:
        return
    peer.probed_s = now
    probe_bytes = PROBE_LEAST_BYTES
    for _ in range(PROBES):
        probe = protocol.Probe(0, probe_bytes)
        outcome: Outcome = yield Request(peer.name, probe, timeout_s=worker.spec.pull.round_s)
        rate_Bps = measure_probe(worker, peer, outcome)
        if outcome.reason or peer.bandwidth.measured_s != measured_s:
            return
        half_second_bytes = int(rate_Bps * PROBE_SECONDS)
        probe_bytes = min(protocol.PROBE_LIMIT_BYTES, max(PROBE_LEAST_BYTES, half_second_bytes))
