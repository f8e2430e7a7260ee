"""What one pull has brought so far, and what to ask for next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpls.core.effects import Outcome
from mpls.core.messages import LayerReceived, LayerRefused, Source, UpdateTaken
from mpls.core.protocol import Pull, Vector

LAYERS_PER_PULL = 256
"""A plan that needs more of one peer is split into several requests."""
WINDOW_BYTES = 2 * 2**20
FAST_WINDOW_BYTES = 4 * 2**20
LEAST_WINDOW_BYTES = 256 * 2**10
FAST_Bps = 100e6


def window_bytes(bandwidth_Bps: float) -> int:
    """How much of a pull may be in flight: a second's worth on slow links, so that a chunk (a
    quarter of it) takes at most 0.25 s, and no more than keeps a fast link busy."""
    if bandwidth_Bps > FAST_Bps:
        return FAST_WINDOW_BYTES
    return int(min(WINDOW_BYTES, max(LEAST_WINDOW_BYTES, bandwidth_Bps)))


class Receipt:
    """The layers wanted of one peer, which of them came, and where to resume."""

    def __init__(self, peer: str, wanted: tuple[str, ...], layer_bytes: Mapping[str, int]) -> None:
        self.peer = peer
        self.wanted = wanted
        self.layer_bytes = layer_bytes
        self.arrived: dict[str, LayerReceived] = {}
        self.arrived_s: dict[str, float] = {}
        self.refusals: list[LayerRefused] = []
        self.progress: Vector | None = None
        """What came with the last layer of the latest attempt that went well."""
        self.reason = ""
        """Why the last attempt ended; empty when all that it asked for came."""
        self.started_s: float | None = None
        self.ended_s = 0.0
        self._broken_off: tuple[str, int, int] | None = None
        """The layer that is here in part, of which version, and how many bytes of it."""

    def missing(self) -> tuple[str, ...]:
        """The layers still wanted, in the order of the plan."""
        arrived = self.arrived
        if len(arrived) == len(self.wanted):
            return ()
        return tuple([layer for layer in self.wanted if layer not in arrived])

    def spoilt(self) -> tuple[str, ...]:
        """The layers that came to their end and were thrown away, and are still wanted."""
        refused = {refusal.layer for refusal in self.refusals}
        return tuple(layer for layer in self.missing() if layer in refused)

    def seconds(self) -> float:
        """From the first attempt to the end of the last."""
        return 0.0 if self.started_s is None else self.ended_s - self.started_s

    def next_pull(self, credit: int) -> Pull:
        """What to ask for now: first the rest of the layer that broke off, then the others."""
        partial, version, offset = self._broken_off or ("", 0, 0)
        layers = sorted(self.missing(), key=lambda layer: layer != partial)
        return Pull(0, tuple(layers[:LAYERS_PER_PULL]), version, offset, credit)

    def take(self, ask: Pull, outcome: Outcome) -> int:
        """Book one attempt; returns the bytes that it moved."""
        if self.started_s is None:
            self.started_s = outcome.start_s
        self.reason, self.ended_s = outcome.reason, outcome.now
        for layer, arrived_s in zip(outcome.layers, outcome.arrivals_s):
            self.arrived[layer.layer] = layer
            self.arrived_s[layer.layer] = arrived_s
        self.refusals += outcome.refused
        if not outcome.reason:
            self.progress = outcome.layers[-1].progress
        resumed_bytes = ask.offset if outcome.version in (0, ask.version) else 0
        ended = {got.layer for got in outcome.layers} | {bad.layer for bad in outcome.refused}
        whole_bytes = sum(self.layer_bytes[layer] for layer in ended)
        position_bytes = max(outcome.received_bytes, whole_bytes)
        if outcome.reason == "gone":
            self._broken_off = None
        elif ended or outcome.version:  # else nothing came, and what was there before still is
            rest = [layer for layer in ask.layers if layer not in ended]
            self._break_off(rest, outcome.version, position_bytes - whole_bytes)
        return max(0, position_bytes - resumed_bytes)

    def sources(self) -> tuple[Source, ...]:
        """What arrived, in the order of the plan."""
        arrived = self.arrived
        return tuple(
            [
                Source(self.peer, layer, got.request_id, got.version, got.round)
                for layer in self.wanted
                if (got := arrived.get(layer)) is not None
            ]
        )

    def own(self, refusals: Sequence[LayerRefused]) -> list[LayerRefused]:
        """Those of the refusals that are about layers which came with this pull."""
        if not refusals:
            return []
        mine = {(got.request_id, got.layer) for got in self.arrived.values()}
        return [refusal for refusal in refusals if (refusal.request_id, refusal.layer) in mine]

    def ends(self, taken: UpdateTaken | None) -> dict[str, str]:
        """How each wanted layer ended: applied, cancelled, timed-out, or why it was refused.
        `taken` is None when the worker was told to stop before the update was mixed in."""
        ends = dict.fromkeys(self.wanted, self.reason or "timed-out")
        ends.update({refusal.layer: refusal.reason for refusal in self.refusals})
        ends.update(dict.fromkeys(self.arrived, "applied" if taken else "cancelled"))
        late = self.own(taken.refused) if taken else []
        ends.update({refusal.layer: refusal.reason for refusal in late})
        return ends

    def pull_records(self, number: int, taken: UpdateTaken | None) -> list[dict[str, object]]:
        """Each layer wanted of this peer as the trace keeps it."""
        return [
            {
                "round": number,
                "peer": self.peer,
                "layer": layer,
                "bytes": self.layer_bytes[layer],
                "start_s": self.started_s,
                "end_s": self.arrived_s.get(layer, self.ended_s),
                "version": self.arrived[layer].version if layer in self.arrived else 0,
                "peer_round": self.arrived[layer].round if layer in self.arrived else 0,
                "outcome": end,
            }
            for layer, end in self.ends(taken).items()
        ]

    def attempt_record(self, ask: Pull, outcome: Outcome, moved_bytes: int) -> dict[str, object]:
        """The attempt as the trace keeps it."""
        return {
            "peer": self.peer,
            "request": outcome.request_id,
            "layers": list(ask.layers),
            "arrived": [layer.layer for layer in outcome.layers],
            "version": outcome.version,
            "bytes": moved_bytes,
            "start_s": outcome.start_s,
            "seconds": outcome.seconds,
            "outcome": outcome.reason or "ok",
        }

    def _break_off(self, rest: list[str], version: int, offset: int) -> None:
        """The attempt ended `offset` bytes into the first of the layers that had not ended. One
        whose bytes all came, but not the word that it is whole, begins anew."""
        inside = bool(rest) and 0 < offset < self.layer_bytes[rest[0]]
        self._broken_off = (rest[0], version, offset) if inside else None
