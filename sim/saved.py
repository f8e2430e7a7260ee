"""A virtual worker's folder of checkpoints: the rules of `mpls.checkpoint.folder`, without a disk.

Two generations are kept. A worker that starts takes the newest whole one; a damaged one is set
aside and never counts again. Where none is whole it begins anew. Saving takes no time here, so that
a crash finds it done or not begun: what it finds halfway is for `tests/checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sim.clock import HostClocks

KEEP = 2


@dataclass(frozen=True)
class Saved:
    """A checkpoint in virtual time."""

    round: int
    core: dict[str, Any] | None
    """`Rounds.memory`; None before the first round."""
    served: Mapping[str, Any]
    learned: Any
    saved_unix_s: float = 0.0
    """By the worker's wall clock, which may jump: nothing may be chosen by it."""
    whole: bool = True


class Generations:
    """The checkpoints of one worker: they outlive its process."""

    def __init__(self, first: Saved) -> None:
        """`first` is what it begins anew from."""
        self._first = first
        self._kept: list[Saved] = []
        self.failing = 0
        """Reasons why nothing can be written now."""

    def save(self, saved: Saved) -> bool:
        """False if the disk fails: then what was there is there still."""
        if self.failing:
            return False
        kept = [one for one in self._kept if one.round != saved.round]
        self._kept = sorted([*kept, saved], key=lambda one: one.round)[-KEEP:]
        return True

    def damage(self) -> bool:
        """A bit of the newest flips; False if there is none yet that this can befall."""
        if not self._kept or not self._kept[-1].whole:
            return False
        self._kept[-1] = replace(self._kept[-1], whole=False)
        return True

    def load(self) -> Saved:
        """The newest whole one."""
        while self._kept and not self._kept[-1].whole:
            self._kept.pop()
        return self._kept[-1] if self._kept else self._first


@dataclass(frozen=True)
class Past:
    """What a worker that is started again goes on from."""

    saved: Saved
    generations: Generations
    versions: int
    """So many were published in all lives before."""
    clocks: HostClocks
