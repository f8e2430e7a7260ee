"""What one worker believes of the others, and what follows from it for its next plan and pulls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from mpls.core.bandwidth import BandwidthEstimator, Stretch
from mpls.core.gate import Gate
from mpls.core.peers import Peer
from mpls.core.plan import View
from mpls.core.settings import LONGEST_BACKOFF_S
from mpls.core.spec import WorkerSpec
from mpls.core.streams import Stream

LINGER_S = 10.0
"""A finished worker waits this long for a peer that fell silent to be heard again."""
LINGER_PROGRESS_S = 600.0
"""... and this long for one that answers but never finishes a round."""
Recorded = Callable[[str], bool]
"""Whether anybody keeps notes of this kind."""


def everything(_: str) -> bool:
    """All notes are kept."""
    return True


class Beliefs:
    """Shared by all stories of a worker."""

    def __init__(self, spec: WorkerSpec, recorded: Recorded = everything) -> None:
        self.spec = spec
        self.recorded = recorded
        self.stall_s = spec.pull.stall_s
        self.layer_bytes = {layer.name: layer.bytes for layer in spec.layers}
        self.jitter = Stream(spec.seed, "jitter", spec.name)
        prior_Bps = spec.pull.prior_bandwidth_Bps
        self.peers = {name: Peer(name, BandwidthEstimator(prior_Bps)) for name in spec.peers}
        self.downlink = BandwidthEstimator(prior_Bps)
        self.came: list[Stretch] = []
        """From all peers since the last round ended."""
        self.gate = Gate()
        self.began_s = 0.0
        self._pauses = Stream(spec.seed, "pauses", spec.name)

    def memory(self, now: float) -> dict[str, Any]:
        """What `restore` takes, as JSON knows it: what a checkpoint keeps of this worker's mind."""
        return {
            "peers": {name: peer.memory(now) for name, peer in self.peers.items()},
            "downlink": self.downlink.memory(),
            "gate": self.gate.memory(),
            "jitter": self.jitter.state(),
            "pauses": self._pauses.state(),
        }

    def restore(self, memory: Mapping[str, Any], now: float = 0.0) -> None:
        """Before the opening stories begin, at `now`: go on with the beliefs of a life that ended.
        Of peers that are no longer, or not yet, nothing is known."""
        for name, peer in self.peers.items():
            if name in memory["peers"]:
                peer.restore(memory["peers"][name], now)
        self.downlink.restore(memory["downlink"], now)
        self.gate.restore(memory["gate"])
        self.gate.keep(self.peers)
        self.jitter.restore(memory["jitter"])
        self._pauses.restore(memory["pauses"])

    def replace_peers(self, names: tuple[str, ...]) -> tuple[list[Peer], list[Peer]]:
        """These are the peers now; returns those who joined and those who left. One who left and
        comes back is a stranger."""
        before, prior_Bps = self.peers, self.spec.pull.prior_bandwidth_Bps
        self.peers = {
            name: before.get(name) or Peer(name, BandwidthEstimator(prior_Bps)) for name in names
        }
        self.spec = replace(self.spec, peers=names)
        self.gate.keep(names)
        left = [peer for name, peer in before.items() if name not in self.peers]
        for peer in left:
            peer.removed = True
        return [peer for name, peer in self.peers.items() if name not in before], left

    def view(self) -> View:
        """What the next plan is made from: the peers that are ready."""
        ready = tuple(peer.view() for peer in self.ready())
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

    def ready(self) -> list[Peer]:
        """The peers that plans may use."""
        return [peer for peer in self.peers.values() if peer.standing == "ready"]

    def settle_downlink(self) -> None:
        """A round has ended: what came from all peers together is what the card took in."""
        if self.came:
            self.downlink.observe_all(self.came)
            self.came.clear()

    def pull_budget_s(self, peer: Peer, layers: Iterable[str]) -> float:
        """The deadline of a pull: what its bytes should take at a cautious bandwidth, times a
        factor, with a floor."""
        pull = self.spec.pull
        wanted_bytes = sum(self.layer_bytes[layer] for layer in layers)
        expected_s = peer.round_trip_s() + wanted_bytes / peer.bandwidth.cautious_Bps()
        return min(pull.round_s, max(pull.deadline_floor_s, pull.deadline_factor * expected_s))

    def pause_s(self, failures: int, longest_s: float = LONGEST_BACKOFF_S) -> float:
        """How long to wait after so many failures in a row: between half and all of a time that
        grows, so that those who lost the same peer do not all come back at once."""
        grown_s = min(longest_s, self.spec.pull.backoff_s * 2.0 ** min(failures - 1, 30))
        return grown_s * self.share()

    def share(self) -> float:
        """From half to one, at random."""
        return self._pauses.between(0.5, 1.0)

    def substitute(self, layer: str, asked: set[tuple[str, str]]) -> Peer | None:
        """Who else could send this layer: the fastest peer that is ready and was not `asked` for
        it, as (peer, layer); of equals the first by name."""
        others = [peer for peer in self.ready() if (peer.name, layer) not in asked]
        return min(others, key=lambda it: (-it.bandwidth.value_Bps, it.name), default=None)
