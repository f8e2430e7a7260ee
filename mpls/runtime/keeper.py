"""The checkpoint thread: it puts together what the trainer and the aggregation hand in, and writes
it, while both go on. A checkpoint that cannot be written is told of loudly and tried again when the
next one is due; training goes on."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Union

from mpls.checkpoint import Checkpoint, CheckpointFolder, Identity, Tensors
from mpls.runtime.journal import Clock, Journal

log = logging.getLogger("mpls")


@dataclass(frozen=True)
class ModelPart:
    """Of the training thread, between two local steps."""

    round: int
    begun: int
    tensors: Tensors
    learner: Mapping[str, Any]
    ledger: Mapping[str, Any]


@dataclass(frozen=True)
class CorePart:
    """Of the aggregation thread, after it heard that this round's update was taken."""

    round: int
    state: Mapping[str, Any]


class Keeper:
    """Made with every `every_rounds` > 0; 0 writes only the last one."""

    def __init__(
        self,
        folder: CheckpointFolder,
        identity: Identity,
        every_rounds: int,
        served: Callable[[], Mapping[str, Any]],
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._every_rounds = every_rounds
        self._served = served
        self._journal = journal
        self._clock = clock
        self._parts: SimpleQueue[Union[ModelPart, CorePart, None]] = SimpleQueue()
        self._spare: deque[Tensors] = deque(maxlen=1)
        self.saved_round = -1
        """Of the last checkpoint that is safe."""
        self.trouble = ""
        """Why the last one is not; empty if it is."""

    def due(self, round_number: int) -> bool:
        """Whether a checkpoint is to be made after this round."""
        return self._every_rounds > 0 and round_number > 0 == round_number % self._every_rounds

    def spare(self) -> Tensors:
        """Arrays of a checkpoint that is written, for `Learner.state` to write over; none if there
        are none. Fresh memory would cost the training thread many times more than the copy."""
        try:
            return self._spare.pop()
        except IndexError:
            return {}

    def put(self, part: ModelPart | CorePart) -> None:
        """Hand in one part; the checkpoint is written when both are here. From any thread."""
        self._parts.put(part)

    def close(self) -> None:
        """Write what is complete, and end."""
        self._parts.put(None)

    def run(self) -> None:
        """Until closed."""
        model: ModelPart | None = None
        core: CorePart | None = None
        while (part := self._parts.get()) is not None:
            if isinstance(part, ModelPart):
                model = part
            else:
                core = part
            if model is not None and core is not None and core.round >= model.round:
                self.write(model, core)
                self._spare.append(model.tensors)
                model = None

    def write(self, model: ModelPart, core: CorePart) -> None:
        """Here and now."""
        began_s = self._clock.now()
        try:
            path = self._folder.save(self._checkpoint(model, core))
        except OSError as error:
            self.trouble = f"{self._folder.folder}: {error.strerror or error}"
            log.error(
                "no checkpoint of round %d: %s; the one of round %d is as it was",
                model.round,
                self.trouble,
                self.saved_round,
            )
            self._note(model, began_s, failed=self.trouble)
            return
        self.trouble, self.saved_round = "", model.round
        log.info("checkpoint of round %d saved: %s", model.round, path)
        self._note(model, began_s, file=path.name, bytes=path.stat().st_size)

    def _note(self, model: ModelPart, began_s: float, **how: Any) -> None:
        now, steps = self._clock.now(), model.learner["steps"]
        about = {"round": model.round, "steps": steps, "seconds": now - began_s}
        self._journal.note("checkpoint", now, **about, **how)

    def _checkpoint(self, model: ModelPart, core: CorePart) -> Checkpoint:
        return Checkpoint(
            worker=self._identity.worker,
            model=self._identity.model,
            learning=self._identity.learning,
            round=model.round,
            steps=model.learner["steps"],
            begun=model.begun,
            tensors=model.tensors,
            learner=model.learner,
            core=core.state,
            served=self._served(),
            ledger=model.ledger,
            saved_unix_s=time.time(),
        )
