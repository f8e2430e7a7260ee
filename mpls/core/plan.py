"""What a plan is made from (View) and what a plan is (Plan).

A plan names, for every peer of the view, the layers to pull from it, in order, and carries the
scores that led to it, so that any decision in a trace can be explained. Sizes are in bytes,
bandwidths in bytes per second, loads in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpls.core.protocol import Vector
from mpls.errors import BadInput


@dataclass(frozen=True)
class Layer:
    """A named group of tensors that is pulled as one unit; 0 bytes is an empty layer."""

    name: str
    bytes: int


@dataclass(frozen=True)
class PeerView:
    """What is believed of one peer when a plan is made; None is unknown.

    `histogram` has the share of each class, `progress` has g (Eq. 5) of each layer.
    """

    name: str
    bandwidth_Bps: float
    histogram: Vector | None = None
    progress: Vector | None = None


@dataclass(frozen=True)
class View:
    """All that a plan may depend on. Dead and quarantined peers never get here; a peer whose
    bandwidth is 0 can, and is given nothing. `downlink_Bps` is what this worker's own card takes
    in, where that was measured."""

    layers: tuple[Layer, ...]
    own_histogram: Vector | None
    peers: tuple[PeerView, ...]
    downlink_Bps: float | None = None

    def __post_init__(self) -> None:
        assert len({layer.name for layer in self.layers}) == len(self.layers)
        assert len({peer.name for peer in self.peers}) == len(self.peers)
        for peer in self.peers:
            assert 0 <= peer.bandwidth_Bps < float("inf")
            assert peer.progress is None or len(peer.progress) == len(self.layers)

    def usable_peers(self) -> list[PeerView]:
        """Those that could send the whole model in finite time, by name: S counts them."""
        model_bytes = sum(layer.bytes for layer in self.layers)
        return sorted(
            (p for p in self.peers if _seconds(model_bytes, p.bandwidth_Bps) < float("inf")),
            key=lambda peer: peer.name,
        )


@dataclass(frozen=True)
class Plan:
    """Which layers are pulled from which peer, and why. Every dict has all peers of the view.

    `peer_score` is p (Eq. 4), `layer_score` q (Eq. 6), `floor` theta, `efficiency` E (Eq. 9); a
    masked pair has efficiency 0. `copies` are the layers of a peer that Algorithm 1's step 3 added.
    `unserved` are the layers with bytes that nobody brings: they stay as they are.
    """

    assignment: dict[str, tuple[str, ...]]
    load_s: dict[str, float]
    makespan_s: float
    unserved: tuple[str, ...]
    peer_score: dict[str, float]
    layer_score: dict[str, Vector]
    floor: Vector
    efficiency: dict[str, Vector]
    copies: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, view: View, assignment: Mapping[str, Sequence[str]], **scores: Any) -> Plan:
        """The plan that pulls these layers from these peers, with loads by Eq. 7, and these scores
        of some of the peers; all others are 0.

        Raises BadInput for a peer or layer that is not in the view, a layer named twice for one
        peer, and a peer without bandwidth.
        """
        _demand_sound(view, assignment)
        chosen = {peer.name: tuple(assignment.get(peer.name, ())) for peer in view.peers}
        size = {layer.name: layer.bytes for layer in view.layers}
        load_s = {
            peer.name: _seconds(sum(size[layer] for layer in chosen[peer.name]), peer.bandwidth_Bps)
            for peer in view.peers
            if chosen[peer.name]
        }
        served = {layer for layers in chosen.values() for layer in layers}
        zeros = (0.0,) * len(view.layers)

        def of_all(score: str, otherwise: Any) -> dict[str, Any]:
            return {**dict.fromkeys(chosen, otherwise), **scores.get(score, {})}

        return cls(
            assignment=chosen,
            load_s={name: load_s.get(name, 0.0) for name in chosen},
            makespan_s=max(load_s.values(), default=0.0),
            unserved=tuple(x.name for x in view.layers if x.bytes and x.name not in served),
            peer_score=of_all("peer_score", 0.0),
            layer_score=of_all("layer_score", zeros),
            floor=scores.get("floor", zeros),
            efficiency=of_all("efficiency", zeros),
            copies=of_all("copies", ()),
        )

    def as_record(self) -> dict[str, Any]:
        """The output contract of `mpls plan --json`, also kept in traces."""
        return {
            "peer_score": dict(self.peer_score),
            "layer_score": {name: list(row) for name, row in self.layer_score.items()},
            "floor": list(self.floor),
            "efficiency": {name: list(row) for name, row in self.efficiency.items()},
            "assignment": {name: list(layers) for name, layers in self.assignment.items()},
            "load_s": dict(self.load_s),
            "makespan_s": self.makespan_s,
            "unserved": list(self.unserved),
        }


def _seconds(size_bytes: int, bandwidth_Bps: float) -> float:
    return size_bytes / bandwidth_Bps if bandwidth_Bps > 0 else float("inf")


def _demand_sound(view: View, assignment: Mapping[str, Sequence[str]]) -> None:
    """The plan may come from a user's own strategy: name what is wrong with it."""
    known_layers = {layer.name for layer in view.layers}
    usable = {peer.name for peer in view.usable_peers()}
    for peer, layers in assignment.items():
        if layers and peer not in usable:
            raise BadInput(f"plan: peer {peer!r} is not in the view, or has no bandwidth")
        if not known_layers.issuperset(layers):
            unknown = next(layer for layer in layers if layer not in known_layers)
            raise BadInput(f"plan: peer {peer!r} has no layer {unknown!r}")
        if len(set(layers)) < len(layers):
            raise BadInput(f"plan: peer {peer!r} is asked for a layer twice: {', '.join(layers)}")
