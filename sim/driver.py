"""One virtual worker: the clock drives the same Conductor, serving and pacing that run live.

No scheduling is decided here. The driver hands messages to the fabric, lets passes take their
virtual time, and writes the records that a live worker writes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from mpls.core.conductor import NEVER_S, Conductor
from mpls.core.messages import (
    CancelRequest,
    Command,
    Drained,
    Event,
    LayerRefused,
    PeersChanged,
    PublishUpdate,
    RecordNote,
    RoundDue,
    SendRequest,
    Ticked,
    UpdateTaken,
)
from mpls.core.pacing import AskRound, AwaitUpdate, Evaluate, Mix, PublishSnapshot, Train, training
from mpls.core.round import Rounds
from mpls.core.serving import Condition, Serving
from mpls.core.spec import WorkerSpec
from mpls.core.trace import Record, command_kind, command_record, event_record, header
from sim.carrier import Carrier
from sim.clock import Clock, HostClocks, Timer
from sim.learning import Copy, Learning
from sim.record import WorkerRecorder
from sim.saved import Generations, Past, Saved
from sim.stretch import Stretch
from sim.timing import Timing


def _nothing(_: str) -> bool:
    return False


class VirtualWorker:
    """Worker `index` of a simulation."""

    def __init__(
        self,
        index: int,
        spec: WorkerSpec,
        clock: Clock,
        fabric: Carrier,
        learning: Learning,
        timing: Timing,
        records: WorkerRecorder | None,
        finished: Callable[[], None],
        past: Past | None = None,
    ) -> None:
        """After a restart it goes on from its `past`."""
        saved = past.saved if past is not None else None
        self.clocks = past.clocks if past is not None else HostClocks()
        self._clock = clock
        self.index = index
        self.spec = spec
        self.name = spec.name
        self.serving = Serving(spec)
        self._records = records
        self._recorded = records.wants if records is not None else _nothing
        self.rounds = Rounds(spec, recorded=self._recorded)
        self._past_core = saved.core if saved is not None else None
        if saved is not None and saved.core is not None:
            self.rounds.restore(saved.core, self.now)
            self.serving.restore(saved.served)
        done = saved.round if saved is not None else 0
        self.conductor = Conductor(self.rounds)
        self.condition = Condition("ready", 0, 0.0)
        self.snapshot: Any = None
        self.alive = True
        self.finished = False
        self.frozen = False
        self.slowness = 1.0
        """Its passes take this many times as long."""
        self._tell_finished = finished
        self.round = done
        self.versions = past.versions if past is not None else 0
        """Snapshots published so far."""
        self.local_steps = 0
        self._fabric = fabric
        self._learning = learning
        self._timing = timing
        self._events_recorded = self._recorded("event")
        self._story = training(spec.pace, learning.shards[index].pass_steps, done)
        self._frozen_s = 0.0
        self._held: list[Callable[[], None]] = []
        """What came to pass while it was frozen."""
        self._update: PublishUpdate | None = None
        self._awaited: AwaitUpdate | None = None
        self._stretch: Stretch | None = None
        self._interruptible = False
        self._step_s = 0.0
        self.generations = past.generations if past is not None else None
        """Its checkpoints, if it keeps any."""
        self.moved_bytes: dict[int, int] | None = None
        """Request -> bytes that its pull moved over the network, once it has ended, if wanted."""
        self._every_rounds = 0
        self._tick: Timer | None = None
        self._tick_s = NEVER_S

    @property
    def now(self) -> float:
        """By its own monotonic clock, in seconds: all that the core ever hears of time."""
        return self._clock.now - self.clocks.zero_s

    def start(self) -> None:
        """Begin to train and to talk."""
        now = self.now
        if self._recorded("header"):
            self._write(header(self.spec, now, self._past_core))
        self._note("start")
        self._carry_out(self.conductor.start(now))
        self._turn(None)

    def keep_checkpoints(self, every_rounds: int) -> None:
        """From now on, so that it can be restarted; 0 keeps only how it is now."""
        self._every_rounds = every_rounds
        if self.generations is None:
            first = Saved(self.round, None, {}, self._learning.save(self.index))
            self.generations = Generations(first)

    def handle(self, event: Event) -> None:
        """Something reached the core."""
        if not self.alive:
            return
        if self.frozen:
            self._held.append(lambda: self.handle(event))
            return
        now = self.now
        if self._events_recorded:
            self._write(event_record(event, now))
        commands = self.conductor.handle(event, now)
        if commands:
            self._carry_out(commands)
        else:
            self._arm()

    def change_peers(self, names: tuple[str, ...]) -> None:
        """These are its peers from now on, or from when it is awake."""
        self.when_awake(lambda: self._take_up(names))

    def _take_up(self, names: tuple[str, ...]) -> None:
        self.serving.change_peers(names)
        self.handle(PeersChanged(names))

    def drain(self) -> None:
        """End every story."""
        if not self.alive:
            return
        self.frozen = False
        self.handle(Drained())
        self._note("state", state="stopped")

    # --- faults ---

    def crash(self) -> None:
        """The process is gone."""
        self.alive = False
        self._held.clear()

    def freeze(self) -> None:
        """The process is stopped where it is: it sees, answers and trains nothing."""
        self.frozen, self._frozen_s = True, self._clock.now
        if self._stretch is not None:
            self._stretch.timer.cancel()

    def thaw(self) -> None:
        """It goes on, and finds what has come meanwhile, its own timers among it."""
        self.frozen = False
        if self._stretch is not None:
            ends_s = self._stretch.rest(self._clock.now - self._frozen_s)
            self._stretch.timer = self._clock.at(max(ends_s, self._clock.now), self._end_stretch)
        held, self._held = self._held, []
        for call in held:
            call()

    def when_awake(self, call: Callable[[], None]) -> None:
        """Now, or when it is thawed."""
        if self.frozen:
            self._held.append(call)
        else:
            call()

    # --- commands of the core ---

    def _carry_out(self, commands: list[Command]) -> None:
        """Whatever makes events of its own comes after all else, as live: the trainer may mix at
        once, and what the core makes of that must not get among these commands."""
        failures: list[Event] = []
        update: PublishUpdate | None = None
        for command in commands:
            if isinstance(command, RecordNote):
                if self._records is not None:
                    self._records.note(command, self.now)
                continue
            if self._recorded(command_kind(command)):
                self._write(command_record(command, self.now))
            if isinstance(command, SendRequest):
                failures += self._fabric.send(self, command)
            elif isinstance(command, CancelRequest):
                self._fabric.cancel(self, command)
            elif isinstance(command, PublishUpdate):
                update = command
        for failure in failures:
            self.handle(failure)
        if update is not None:
            self._deliver(update)
        self._arm()

    def _arm(self) -> None:
        """Have the core ticked at its deadline."""
        deadline_s = self.conductor.deadline()
        if deadline_s < self._tick_s:
            if self._tick is not None:
                self._tick.cancel()
            self._tick_s = deadline_s
            due_s = max(self.clocks.virtual_s(deadline_s), self._clock.now)
            self._tick = self._clock.at(due_s, lambda: self.when_awake(self._ticked))

    def _ticked(self) -> None:
        self._tick, self._tick_s = None, NEVER_S
        if self.conductor.deadline() > self.now:
            self._arm()
        else:
            self._fabric.settle(self)
            self.handle(Ticked())

    # --- turns of the trainer ---

    def _turn(self, result: Any) -> None:
        """Do what pacing says until something takes time."""
        while self.alive:
            try:
                turn = self._story.send(result)
            except StopIteration:
                self.finished = True
                self.condition = Condition("draining", self.round, self.condition.step_s)
                self._note("state", state="draining")
                self._tell_finished()
                return
            if not self._at_once(turn):
                return
            result = self._taken() if isinstance(turn, AwaitUpdate) else None

    def _at_once(self, turn: Any) -> bool:
        """Begin a turn; False if it goes on later by itself."""
        if isinstance(turn, Train):
            return self._train(turn)
        if isinstance(turn, AskRound):
            self.handle(RoundDue(turn.round))
            return True
        if isinstance(turn, AwaitUpdate):
            self._awaited = turn if turn.wait and self._update is None else None
            return self._awaited is None
        if isinstance(turn, Mix):
            return self._after(self._timing.mix_s, lambda: self._mix(turn))
        if isinstance(turn, PublishSnapshot):
            # A worker can be reached once it has its first version, and so begins with it.
            publish_s = self._timing.publish_s if self.snapshot is not None else 0.0
            return self._after(publish_s, lambda: self._publish(turn.round))
        return self._after(self._timing.evaluate_s, lambda: self._evaluate(turn))

    def _after(self, seconds: float, do: Any) -> bool:
        if seconds <= 0:
            do()
            return True
        due_s = self._clock.now + seconds
        self._clock.at(due_s, lambda: self.when_awake(lambda: self._resume(do)))
        return False

    def _resume(self, do: Any) -> None:
        if self.alive:
            do()
            self._turn(None)

    def _train(self, turn: Train) -> bool:
        begun_s = self._clock.now
        seconds = self._learning.begin(self.index, turn.steps, not turn.until_update)
        seconds *= self.slowness
        self._stretch = Stretch(turn.steps, begun_s, seconds)
        self._stretch.timer = self._clock.at(begun_s + seconds, self._end_stretch)
        self._interruptible = turn.until_update
        if turn.until_update and self._update is not None:
            self._interrupt()
        return False

    def _end_stretch(self) -> None:
        stretch, self._stretch = self._stretch, None
        if not self.alive or stretch is None:
            return
        loss = self._learning.end(self.index, stretch.steps)
        seconds = self._clock.now - stretch.begun_s
        self.local_steps += stretch.steps
        self._step_s = seconds / stretch.steps
        self._note("pass", round=self.round + 1, steps=stretch.steps, seconds=seconds, loss=loss)
        self._turn(None)

    def _deliver(self, command: PublishUpdate) -> None:
        """The core's update is ready for the trainer."""
        assert self._update is None, "the update before was not taken"
        self._update = command
        if self._awaited is not None:
            self._awaited = None
            self._turn(self._taken())
        elif self._stretch is not None and self._interruptible:
            self._interrupt()

    def _interrupt(self) -> None:
        """Let the stretch end at the next step boundary."""
        assert self._stretch is not None
        self._stretch.timer.cancel()
        ends_s = self._stretch.shorten(self._clock.now)
        self._stretch.timer = self._clock.at(ends_s, self._end_stretch)

    def _taken(self) -> PublishUpdate | None:
        update, self._update = self._update, None
        return update

    def _mix(self, turn: Mix) -> None:
        update: PublishUpdate = turn.update
        allowed = self.rounds.gate.allowed
        copies = [
            Copy(s.layer, self._fabric.copy(self, s), partial(allowed, s.peer, s.layer))
            for s in update.sources
        ]
        self._fabric.forget(self)
        refused = tuple(
            LayerRefused(update.sources[index].request_id, update.sources[index].layer, reason)
            for index, reason in self._learning.mix(self.index, copies, turn.round > 0).items()
        )
        self.round = turn.round
        lags = Counter(turn.round - source.round for source in update.sources)
        self._note(
            "mix",
            round=turn.round,
            layers=len({source.layer for source in update.sources}),
            copies=len(copies) - len(refused),
            seconds=self._timing.mix_s,
            staleness={str(lag): number for lag, number in sorted(lags.items())},
        )
        self.handle(UpdateTaken(turn.round, refused))
        if self._every_rounds and turn.round > 0 == turn.round % self._every_rounds:
            self._save()

    def _save(self) -> None:
        """As live: what is kept of the core is what JSON makes of it, and training goes on whether
        the disk takes it or not. It takes no time."""
        assert self.generations is not None
        core = json.loads(json.dumps(self.rounds.memory(self.now)))
        served = self.serving.memory(self.snapshot)
        learned = self._learning.save(self.index)
        unix_s = self._clock.now + self.clocks.wall_off_s
        whole = self.generations.save(Saved(self.round, core, served, learned, unix_s))
        self._note("checkpoint", round=self.round, **({} if whole else {"failed": "disk"}))

    def _publish(self, round_number: int) -> None:
        self.versions += 1
        self.snapshot = self._learning.snapshot(self.index, self.versions, round_number)
        self.condition = Condition("running", round_number, self._step_s)
        self._note("snapshot", version=self.versions, round=round_number)

    def _evaluate(self, turn: Evaluate) -> None:
        scores = self._learning.evaluate(self.index)
        if scores is not None:
            self._note(
                "eval",
                round=turn.round,
                which=turn.which,
                accuracy=scores.accuracy,
                loss=scores.loss,
                class_accuracy=list(scores.class_accuracy),
                seconds=self._timing.evaluate_s,
            )

    # --- records ---

    def _note(self, kind: str, **fields: Any) -> None:
        if self._recorded(kind):
            self._write({"t": self.now, "kind": kind, **fields})

    def _write(self, record: Record) -> None:
        assert self._records is not None
        self._records.write(record)
