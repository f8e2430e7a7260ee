"""Whose checkpoint it is: one of another worker, model or way of learning is not gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpls.checkpoint.format import Checkpoint
from mpls.errors import BadInput, shown


@dataclass(frozen=True)
class Identity:
    """What must be the same in both lives."""

    worker: str
    model: str
    """The manifest's hash."""
    learning: Mapping[str, Any]
    """Settings of the cluster file, by table and key, as JSON knows them."""
    adopted: frozenset[str] = frozenset()
    """Keys of these that are what the checkpoint says, if there is one."""

    def check(self, checkpoint: Checkpoint, path: Path) -> None:
        """Raises BadInput, naming the file and what differs."""
        if checkpoint.worker != self.worker:
            _refuse(path, "of worker", checkpoint.worker, self.worker)
        for key in sorted({*checkpoint.learning, *self.learning} - self._known(checkpoint)):
            found, wanted = checkpoint.learning.get(key), self.learning.get(key)
            if found != wanted:
                _refuse(path, f"made with {key} =", found, wanted)
        if checkpoint.model != self.model:
            _refuse(path, "of model", checkpoint.model[:16], self.model[:16])

    def of_the_same_life(self, checkpoint: Checkpoint) -> Identity:
        """With what is adopted from a checkpoint that was checked."""
        taken = {key: checkpoint.learning[key] for key in self._known(checkpoint)}
        return replace(self, learning={**self.learning, **taken}, adopted=frozenset())

    def _known(self, checkpoint: Checkpoint) -> frozenset[str]:
        return self.adopted & checkpoint.learning.keys()


def _refuse(path: Path, what: str, found: object, wanted: object) -> None:
    raise BadInput(f"{path}: {what} {shown(found)}, not {shown(wanted)}; --fresh begins anew")
