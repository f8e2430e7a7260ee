"""The story of a pull: ask one peer for layers, wait for it where it is cut off, resume, give up.

How a failed attempt is taken:
- the connection is lost or the peer busy: the pull waits, with pauses that grow up to a second,
  and goes on where it broke off. That uses up no retry, but its deadline goes on running;
- the version is gone: the pull begins anew at once;
- a layer was unusable and another peer may have it: the pull ends (`round.py` asks that one);
- any other reason uses up a retry, and the FINAL_REASONS end the pull.
"""

from __future__ import annotations

from mpls.core.beliefs import Beliefs
from mpls.core.effects import Note, Outcome, Request, Sleep, Story
from mpls.core.measuring import measure_pull
from mpls.core.peers import Peer
from mpls.core.receipt import Receipt, window_bytes
from mpls.core.watch import greet, standing_note, strike

FINAL_REASONS = frozenset(
    {"cancelled", "removed", "timed-out", "bad-request", "unsupported", "unknown-layer"}
)
"""An attempt that ended so is not repeated within the same pull."""
LOST_REASONS = frozenset({"disconnected", "unreachable", "refused"})
"""After these the next attempt finds a new connection, if any, which wants a hello first."""
WAITING_REASONS = frozenset({"disconnected", "unreachable", "busy"})
"""The peer may serve the rest later."""
LEAST_LEFT_S = 0.1
"""With less than this left, nothing is tried again."""
OUT = ("incompatible", "quarantined")


def pull(
    worker: Beliefs,
    peer: Peer,
    layers: tuple[str, ...],
    budget_s: float,
    spare: bool = False,
    patient: bool = True,
) -> Story:
    """Ask until all came, `budget_s` is over or retries ran out; returns the Receipt.

    What arrived whole is kept; a further attempt asks only for the missing rest, and resumes in
    the middle of a layer. With `spare` another peer will be asked for what this one spoils; unless
    `patient`, one that is busy is not waited for."""
    receipt = Receipt(peer.name, layers, worker.layer_bytes)
    left_s, retries, failures = budget_s, worker.spec.pull.retries, 0
    while receipt.missing() and retries >= 0 and not (peer.removed or peer.standing in OUT):
        if failures and left_s < LEAST_LEFT_S:
            break
        pause_s = min(worker.pause_s(failures), left_s / 2) if failures else 0.0
        yield Sleep(pause_s)
        if peer.removed:
            break
        left_s -= pause_s
        if receipt.reason in LOST_REASONS and peer.standing != "ready":
            greeting = yield from _greet_again(worker, peer, left_s)
            left_s -= greeting.seconds
            if greeting.reason and greeting.request_id:
                receipt.ended_s = greeting.now
                failures += 1
                continue
        ask = receipt.next_pull(window_bytes(peer.bandwidth.value_Bps))
        outcome: Outcome = yield Request(peer.name, ask, timeout_s=max(0.0, left_s))
        left_s -= outcome.seconds
        moved_bytes = receipt.take(ask, outcome)
        measure_pull(worker, peer, ask, outcome)
        if outcome.request_id and worker.recorded("attempt"):
            yield Note("attempt", receipt.attempt_record(ask, outcome, moved_bytes))
        yield from _learn(worker, peer, outcome)
        if outcome.reason in FINAL_REASONS or (spare and outcome.refused):
            break
        if outcome.reason == "busy" and not patient:
            break
        anew = not outcome.reason or (outcome.reason == "gone" and ask.version > 0)
        failures = 0 if anew else 1 if moved_bytes else failures + 1
        retries -= not anew and outcome.reason not in WAITING_REASONS
    yield from _judge(worker, peer, receipt)
    return receipt


def _greet_again(worker: Beliefs, peer: Peer, patience_s: float) -> Story:
    """On a new connection, if there is one."""
    greeting: Outcome = yield from greet(worker, peer, patience_s)
    if greeting.request_id and peer.standing != peer.noted:
        yield standing_note(peer, greeting.reason, greeting.now)
    return greeting


def _learn(worker: Beliefs, peer: Peer, outcome: Outcome) -> Story:
    """A lost connection takes the peer out of plans at once; a broken protocol is a strike."""
    if outcome.reason in LOST_REASONS:
        peer.missed()
        if peer.standing != peer.noted:
            yield standing_note(peer, f"pull {outcome.reason}", outcome.now)
    elif outcome.reason.startswith("protocol"):
        yield from strike(peer, outcome.reason, outcome.now)


def _judge(worker: Beliefs, peer: Peer, receipt: Receipt) -> Story:
    """What the pull says about the peer, if it is one still."""
    if peer.removed:
        receipt.reason = "removed"
        return
    if not receipt.missing():
        peer.delivered(receipt.ended_s)
        if not peer.believe_progress(receipt.progress, len(worker.spec.layers)):
            yield from strike(peer, "progress that is none", receipt.ended_s)
    elif receipt.reason != "cancelled":
        peer.failed_pull(receipt.ended_s, worker.share())
        if peer.standing != "quarantined":
            yield standing_note(peer, f"pull {receipt.reason}", receipt.ended_s)
