"""The training thread, sole owner of the model: it does what the pacing story says, turn by turn.

Updates are mixed into the *current* weights between two local steps, so no local step is ever lost
or overwritten; everybody else sees only the snapshots that it publishes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from mpls.core.messages import Event, RoundDue, UpdateTaken
from mpls.core.pacing import (
    AskRound,
    AwaitUpdate,
    Evaluate,
    Mix,
    PublishSnapshot,
    Train,
    Turn,
    training,
)
from mpls.core.serving import Condition
from mpls.core.settings import PaceSettings
from mpls.model.data import Dataset
from mpls.model.training import Diverged, Learner
from mpls.runtime.health import Pulse
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.keeper import Keeper, ModelPart
from mpls.runtime.mailbox import Handover, Slot
from mpls.runtime.snapshots import SnapshotStore
from mpls.runtime.updates import LayerUpdate, mix
from mpls.wire import Buffer


class Stopped(Exception):
    """Training was told to stop; raised between two local steps or batches of an evaluation."""


class Trainer:
    """Runs in one thread; `stop` may be called from any."""

    def __init__(
        self,
        learner: Learner,
        dataset: Dataset,
        pace: PaceSettings,
        store: SnapshotStore,
        update: Handover[LayerUpdate],
        condition: Slot[Condition],
        tell: Callable[[Event], None],
        recycle: Callable[[Buffer], None],
        journal: Journal,
        clock: Clock,
        keep_path: bool,
        keeper: Keeper | None = None,
        pulse: Pulse | None = None,
        done: int = 0,
        begun: int = 0,
        ledger: Mapping[str, Any] | None = None,
    ) -> None:
        """After a restart `done` rounds are behind it, and `begun` local steps of the next."""
        self.learner = learner
        self._dataset = dataset
        self._pace = pace
        self._store = store
        self._update = update
        self._condition = condition
        self._tell = tell
        self._recycle = recycle
        self._journal = journal
        self._clock = clock
        self._keep_path = keep_path
        self._layers = {layer.name: layer for layer in learner.model.manifest.layers}
        self._stopping = False
        self._keeper = keeper
        self._pulse = pulse or Pulse(clock)
        self.round = done
        """Rounds that are mixed in."""
        self._begun = begun
        self._ledger = {peer: dict(layers) for peer, layers in (ledger or {}).items()}
        self._step_s = 0.0
        self.accuracy = -1.0
        """Of the last evaluation; below 0 before the first."""

    def stop(self) -> None:
        """End before the next local step or batch of an evaluation."""
        self._stopping = True
        self._update.close()

    def run(self) -> None:
        """Train all rounds. Raises Diverged, or Stopped when `stop` came first."""
        story = training(self._pace, self.learner.pass_steps, self.round, self._begun)
        result: Any = None
        try:
            while True:
                try:
                    turn = story.send(result)
                except StopIteration:
                    return
                result = self._do(turn)
        finally:
            self._pulse.end("training")

    def _do(self, turn: Turn) -> Any:
        if isinstance(turn, Train):
            return self._train(turn)
        if isinstance(turn, AskRound):
            return self._tell(RoundDue(turn.round))
        if isinstance(turn, AwaitUpdate):
            return self._await(turn)
        if isinstance(turn, Mix):
            return self._mix(turn)
        if isinstance(turn, PublishSnapshot):
            return self._publish(turn.round)
        return self._evaluate(turn)

    def _train(self, turn: Train) -> None:
        start_s, first_step = self._clock.now(), self.learner.steps
        self._pulse.beat("training")
        try:
            for done in range(turn.steps):
                self._look_whether_to_stop()
                if turn.until_update and done and self._update.waiting():
                    break
                self.learner.step()
                self._pulse.beat("training")
        finally:
            done_steps = self.learner.steps - first_step
            self._begun += done_steps
            self._note_pass(start_s, done_steps)

    def _note_pass(self, start_s: float, steps: int) -> None:
        """The steps that were done count, however the pass ended."""
        end_s = self._clock.now()
        if steps == 0:
            return
        self._step_s = (end_s - start_s) / steps
        self._journal.note(
            "pass",
            end_s,
            round=self.round + 1,
            steps=steps,
            seconds=end_s - start_s,
            cpu_s=time.thread_time(),
            loss=self.learner.take_loss(),
        )

    def _await(self, turn: AwaitUpdate) -> LayerUpdate | None:
        self._pulse.end("training")  # whoever waits is not stuck
        update = self._update.take(turn.wait)
        self._pulse.beat("training")
        self._look_whether_to_stop()
        return update

    def _before_batch(self) -> None:
        self._pulse.beat("training")
        self._look_whether_to_stop()

    def _look_whether_to_stop(self) -> None:
        if self._stopping:
            raise Stopped

    def _mix(self, turn: Mix) -> None:
        update: LayerUpdate = turn.update
        self.learner.model.fetch()
        start_s = self._clock.now()
        mixed = mix(update, self._own_layer)
        end_s = self._clock.now()
        self.learner.model.push()
        for buffer in update.buffers:
            self._recycle(buffer)
        self.round, self._begun = turn.round, 0
        for source in update.applied:
            applied = self._ledger.setdefault(source.peer, {})
            applied[source.layer] = [source.version, source.round]
        staleness = Counter(turn.round - source.round for source in update.applied)
        self._journal.note(
            "mix",
            end_s,
            round=turn.round,
            layers=mixed,
            copies=len(update.buffers) - len(update.refused),
            seconds=end_s - start_s,
            staleness={str(rounds): number for rounds, number in sorted(staleness.items())},
        )
        self._tell(UpdateTaken(turn.round, update.refused))
        if self._keeper is not None and self._keeper.due(turn.round):
            self._keeper.put(self.state())

    def state(self) -> ModelPart:
        """What the steps to come depend on; for the training thread, or once that has ended."""
        tensors, plain = self.learner.state(self._keeper.spare() if self._keeper else {})
        ledger = {peer: dict(layers) for peer, layers in self._ledger.items()}
        return ModelPart(self.round, self._begun, tensors, plain, ledger)

    def _own_layer(self, name: str) -> Any:
        return self._layers[name].values_in(self.learner.model.host)

    def _publish(self, round_number: int) -> None:
        model = self.learner.model
        model.fetch()
        snapshot = self._store.publish(model.host, round_number, self._keep_path)
        self._condition.put(Condition("running", round_number, self._step_s))
        self._journal.note(
            "snapshot", self._clock.now(), version=snapshot.version, round=round_number
        )

    def _evaluate(self, turn: Evaluate) -> None:
        start_s = self._clock.now()
        result = self.learner.evaluate(
            self._dataset.test_images, self._dataset.test_labels, self._before_batch
        )
        if not isfinite(result.loss):
            raise Diverged(
                f"the test loss was {result.loss} in round {turn.round}; try a smaller lr"
            )
        self.accuracy = result.accuracy
        self._journal.note(
            "eval",
            self._clock.now(),
            round=turn.round,
            which=turn.which,
            accuracy=result.accuracy,
            loss=result.loss,
            class_accuracy=list(result.class_accuracy),
            seconds=self._clock.now() - start_s,
        )
