"""Everything that one worker's decisions depend on, besides what it hears: the trace's header.

Two workers with the same spec and the same events issue the same commands; that is what replaying
a trace checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mpls.core.plan import Layer
from mpls.core.protocol import Vector
from mpls.core.settings import PaceSettings, PlanSettings, PullSettings


@dataclass(frozen=True)
class WorkerSpec:
    """Who a worker is and how it was told to decide."""

    name: str
    seed: int
    peers: tuple[str, ...]
    """Names of the workers it may talk to."""
    layers: tuple[Layer, ...]
    """Of the model, in module order."""
    model: str
    """Manifest hash: SHA-256 over layer names, tensor names, shapes and dtypes."""
    histogram: Vector
    """Share of each label in the local shard."""
    samples: int
    """Size of the local shard."""
    plan: PlanSettings = field(default_factory=PlanSettings)
    pull: PullSettings = field(default_factory=PullSettings)
    pace: PaceSettings = field(default_factory=PaceSettings)

    def as_plain(self) -> dict[str, Any]:
        """As numbers, strings, lists and dicts."""
        return {
            "name": self.name,
            "seed": self.seed,
            "peers": list(self.peers),
            "layers": [[layer.name, layer.bytes] for layer in self.layers],
            "model": self.model,
            "histogram": list(self.histogram),
            "samples": self.samples,
            "plan": dict(vars(self.plan)),
            "pull": dict(vars(self.pull)),
            "pace": dict(vars(self.pace)),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> WorkerSpec:
        """The inverse of `as_plain`; a KeyError or TypeError names what is wrong."""
        return cls(
            name=plain["name"],
            seed=plain["seed"],
            peers=tuple(plain["peers"]),
            layers=tuple(Layer(name, size) for name, size in plain["layers"]),
            model=plain["model"],
            histogram=tuple(plain["histogram"]),
            samples=plain["samples"],
            plan=PlanSettings(**plain["plan"]),
            pull=PullSettings(**plain["pull"]),
            pace=PaceSettings(**plain["pace"]),
        )
