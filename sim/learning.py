"""What virtual workers learn, and what it costs them in virtual time.

The driver lets virtual time pass and asks a Learning for everything that live workers get from
torch: local passes, snapshots, mixing, evaluation. `real` really trains, `model` has fitted numbers
in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from mpls.core.gate import Allowed, as_it_is
from mpls.core.plan import Layer
from mpls.core.protocol import Vector


@dataclass(frozen=True)
class Shard:
    """What a worker's decisions know of its data."""

    histogram: Vector
    samples: int
    pass_steps: int
    """Local steps in one pass over the shard."""


@dataclass(frozen=True)
class Scores:
    """A test of a model; see `mpls.model.training.Evaluation`."""

    accuracy: float
    loss: float
    class_accuracy: tuple[float | None, ...]


class Copy(NamedTuple):
    """A layer that arrived: of this snapshot."""

    layer: str
    snapshot: Any
    allowed: Allowed = as_it_is
    """How far from its own layer the puller lets a copy be that is so far."""


class Learning(Protocol):
    """One for all workers of a simulation; workers are numbers."""

    layers: tuple[Layer, ...]
    model: str
    """Manifest hash."""

    @property
    def shards(self) -> Sequence[Shard]:
        """What each worker's decisions know of its data."""

    def begin(self, worker: int, steps: int, surely_all: bool) -> float:
        """A stretch of local steps begins; returns its seconds of virtual time. With `surely_all`
        it will not end early, so that training may go on elsewhere in the meantime."""

    def end(self, worker: int, steps: int) -> float | None:
        """The stretch ended after so many steps; its mean loss, where one is known."""

    def snapshot(self, worker: int, version: int, round_number: int) -> Any:
        """The current weights, immutable: a `mpls.core.serving.Snapshot`."""

    def mix(self, worker: int, copies: Sequence[Copy], keep_own: bool = True) -> dict[int, str]:
        """Eq. 1 on the current weights, which without `keep_own` count for nothing; returns the
        indices of copies that were refused, with the reason."""

    def evaluate(self, worker: int) -> Scores | None:
        """Test the current weights; None where nothing is known."""

    def save(self, worker: int) -> Any:
        """What a checkpoint keeps of a worker that does not train at this moment."""

    def restore(self, worker: int, saved: Any) -> None:
        """Its process crashed and comes back with what `save` gave."""

    def close(self) -> None:
        """Give processes and memory back."""
