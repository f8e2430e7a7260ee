"""Learning replayed: the seconds, the progress and the accuracies of a recorded run.

A worker's n-th stretch of local steps takes as long as its n-th recorded one, a step of it as long
as a step of that. Tests give what was recorded for their round, and nothing where none was.

Of progress (g, Eq. 5) a run records what servers told: how far their layers moved between two
versions. Where a simulation asks for such a pair it gets that very answer. For other pairs the
recorded movements are laid end to end: each version's step is the mean of the shortest recorded
spans that contain it, spread evenly over the span; before the first and after the last one, and in
between where nothing was recorded, the nearest earlier step is taken, or else the nearest later.
A worker that told nobody anything is taken to move as the mean of the others.

Only sums and products of recorded numbers, rounded alike everywhere: the same run and seed give the
same trace on any machine and Python (docs/decisions/006).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from mpls.config import ClusterConfig
from mpls.core.protocol import Vector
from mpls.errors import BadInput
from sim.learning import Copy, Scores, Shard
from sim.recorded import Movement, Pass, RecordedRun, RecordedWorker

Span = tuple[int, int]
"""Two versions, the earlier first."""
Steps = dict[int, Vector]
"""Version -> how far each layer moved from it to the next."""


@dataclass(frozen=True)
class ReplayedSnapshot:
    """A version without weights: how far each layer has come."""

    version: int
    round: int
    path: Vector
    told: Mapping[Span, Vector]
    """What was recorded of this worker."""

    def squared_distance(self, older: ReplayedSnapshot) -> Vector:
        """Eq. 5, as recorded, or as the difference of paths."""
        told = self.told.get((older.version, self.version))
        if told is not None:
            return told
        return tuple(new - old for new, old in zip(self.path, older.path))


class Replaying:
    """A `sim.learning.Learning` of a recorded run."""

    def __init__(self, run: RecordedRun, config: ClusterConfig) -> None:
        """`config` may differ from the run's in what does not change a local pass. Raises BadInput
        where the run has not what it needs; see `demand_replayable`."""
        demand_replayable(run, config)
        spec = run.workers[0].spec
        self.layers = spec.layers
        self.model = spec.model
        self.shards = [_shard(worker, config) for worker in run.workers]
        told = _told(run)
        steps = [_steps(told[worker.spec.name]) for worker in run.workers]
        others = _mean_steps([one for one in steps if one], len(self.layers))
        self._workers = [
            _Worker(worker, told[worker.spec.name], _Path(own or others, len(self.layers)))
            for worker, own in zip(run.workers, steps)
        ]

    def begin(self, worker: int, steps: int, surely_all: bool) -> float:
        """See `sim.learning.Learning`."""
        own = self._workers[worker]
        recorded = own.begin()
        if steps == recorded.steps:
            return recorded.seconds
        return recorded.seconds / recorded.steps * steps

    def end(self, worker: int, steps: int) -> float | None:
        """The recorded loss."""
        return self._workers[worker].under_way.loss

    def snapshot(self, worker: int, version: int, round_number: int) -> ReplayedSnapshot:
        """See `sim.learning.Learning`."""
        own = self._workers[worker]
        own.round = round_number
        return ReplayedSnapshot(version, round_number, own.path.to(version), own.told)

    def mix(self, worker: int, copies: Sequence[Copy], keep_own: bool = True) -> dict[int, str]:
        """Every copy is accepted."""
        self._workers[worker].mixed = True
        return {}

    def evaluate(self, worker: int) -> Scores | None:
        """What was recorded for this round, where something was."""
        own = self._workers[worker]
        test = (own.round, "mixed") if own.mixed else (own.round + 1, "local")
        return own.scores.get(test)

    def save(self, worker: int) -> int:
        """Its round. Of the recorded passes each is used once, whatever is done again."""
        return self._workers[worker].round

    def restore(self, worker: int, saved: int) -> None:
        """See `sim.learning.Learning`."""
        own = self._workers[worker]
        own.round, own.mixed = saved, False

    def close(self) -> None:
        """Nothing to give back."""


def demand_replayable(run: RecordedRun, config: ClusterConfig) -> None:
    """Raises BadInput, one line that names the run, where it cannot be replayed in this cluster."""
    if len(config.workers) != len(run.workers):
        raise BadInput(
            f"{run.place}: recorded {len(run.workers)} workers, {len(config.workers)} are asked "
            "for; a replay has the recorded ones"
        )
    wanted = config.training.rounds
    for worker in run.workers:
        name = worker.spec.name
        if not worker.passes:
            raise BadInput(f"{run.place}: {name} recorded no local pass; a replay needs them")
        done = max(one.round for one in worker.passes)
        if config.training.pace != "free" and done < wanted:
            raise BadInput(
                f"{run.place}: {name} recorded {done} rounds, {wanted} are asked for; "
                f"--rounds {done} replays them"
            )
    pulls = config.mpls.strategy != "local" and wanted > 1
    if pulls and not any(worker.movements for worker in run.workers):
        raise BadInput(
            f"{run.place}: no progress of layers (g) was recorded, since nobody pulled from a peer "
            "twice; --strategy local can be replayed"
        )


class _Worker:
    """A recorded worker, and how far a simulation has come with it."""

    def __init__(self, recorded: RecordedWorker, told: Mapping[Span, Vector], path: _Path) -> None:
        self.told = told
        self.path = path
        self.scores = {(test.round, test.which): test.scores for test in recorded.tests}
        self.round = 0
        """Of the latest snapshot."""
        self.mixed = False
        """Whether no local step was done since the last mixing."""
        self._passes = recorded.passes
        self._begun = 0

    @property
    def under_way(self) -> Pass:
        """The recorded stretch that began last."""
        return self._passes[(self._begun - 1) % len(self._passes)]

    def begin(self) -> Pass:
        """The next recorded stretch. With pace `free`, or after faults, more may be asked for than
        were recorded: then they begin anew."""
        self._begun += 1
        self.mixed = False
        return self.under_way


class _Path:
    """How far layers have come by each version; version 1 is the beginning."""

    def __init__(self, steps: Steps, layers: int) -> None:
        self._steps = steps
        self._paths: list[Vector] = [(0.0,) * layers] * 2
        self._step = steps[min(steps)] if steps else (0.0,) * layers

    def to(self, version: int) -> Vector:
        """The path's length at this version, for each layer."""
        while len(self._paths) <= version:
            self._step = self._steps.get(len(self._paths) - 1, self._step)
            self._paths.append(tuple(a + b for a, b in zip(self._paths[-1], self._step)))
        return self._paths[version]


def _shard(worker: RecordedWorker, config: ClusterConfig) -> Shard:
    """As `mpls.runtime.worker` told it to the core. With pace `free` rounds end anywhere, otherwise
    the first one shows how long a pass is."""
    spec = worker.spec
    pass_steps = spec.samples // min(config.training.batch_size, spec.samples)
    if spec.pace.pace != "free" and not spec.pace.local_steps:
        first = worker.passes[0].round
        pass_steps = sum(one.steps for one in worker.passes if one.round == first)
    return Shard(spec.histogram, spec.samples, pass_steps)


def _told(run: RecordedRun) -> dict[str, dict[Span, Vector]]:
    """Worker -> what it told anybody; of two answers for the same span the first."""
    told: defaultdict[str, dict[Span, Vector]] = defaultdict(dict)
    for worker in run.workers:
        for movement in worker.movements:
            told[movement.server].setdefault(_span(movement), movement.progress)
    return told


def _span(movement: Movement) -> Span:
    return movement.since, movement.until


def _steps(told: Mapping[Span, Vector]) -> Steps:
    """Of each version that some span contains."""
    shortest: dict[int, list[Span]] = {}
    for since, until in sorted(told):
        for version in range(since, until):
            known = shortest.setdefault(version, [])
            if known and until - since < known[0][1] - known[0][0]:
                known.clear()
            if not known or until - since == known[0][1] - known[0][0]:
                known.append((since, until))
    return {version: _mean_step(told, spans) for version, spans in sorted(shortest.items())}


def _mean_step(told: Mapping[Span, Vector], spans: Sequence[Span]) -> Vector:
    length = len(spans) * (spans[0][1] - spans[0][0])
    return tuple(fsum(moved) / length for moved in zip(*(told[span] for span in spans)))


def _mean_steps(of_all: Sequence[Steps], layers: int) -> Steps:
    """Of the workers that told something."""
    versions = sorted({version for steps in of_all for version in steps})
    known = {v: [steps[v] for steps in of_all if v in steps] for v in versions}
    return {
        version: tuple(fsum(moved) / len(those) for moved in zip(*those))
        for version, those in known.items()
    }
