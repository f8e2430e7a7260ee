"""A calibration from a recorded run: what its steps, mixings, tests and messages took.

Not from the run that is judged with it: `sim.compare.cli` refuses that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import fsum
from statistics import median

from mpls.core.calibration import Affine, Measured, ModelCost, Network, Sample, StepCost
from mpls.core.links import link_rate_Bps
from mpls.errors import BadInput
from sim.calibration import Calibration
from sim.compare.course import Run
from sim.compare.pulls import Pull, are_met, live_pulls
from sim.compare.statistics import quantile
from sim.recorded import RecordedRun

TWENTIETHS = 20
LEAST_BYTES = 100_000
"""Transfers of fewer bytes say little about rates."""
SMALL = 4
"""A pull so many times smaller than usual is slowed down by waiting, not by its bytes."""
LEAST_PULLS = 5
"""Fewer pulls from a peer do not say how fast its link is."""
FASTEST = 0.1
"""This share of a link's pulls was not slowed down by anything."""
LEAST_S = 1e-6
MovingS = Callable[[Pull], float]
"""Seconds in which a transfer's bytes moved."""


def calibration_of(of: Run, otherwise: Calibration) -> Calibration:
    """What the run tells, and `otherwise` for the rest. Raises BadInput where it has no step."""
    run, measured = of.recorded, otherwise.measured
    name = run.config.model.name
    others = tuple(model for model in measured.models if model.name != name)
    known = next((model for model in measured.models if model.name == name), None)
    return Calibration(
        Measured(
            measured.stamp,
            (*others, _model(run, known)),
            _constant([s for w in run.workers for s in w.mix_s], measured.mix),
            _constant([s for w in run.workers for s in w.publish_s], measured.publish),
            _network(of, measured.network),
        ),
        run.place,
    )


def _model(run: RecordedRun, known: ModelCost | None) -> ModelCost:
    config, spec = run.config, run.workers[0].spec
    steps_s = [
        one.seconds / one.steps * config.workers[index].speed
        for index, worker in enumerate(run.workers)
        for one in worker.passes
    ]
    if not steps_s:
        raise BadInput(f"{run.place}: no local pass was recorded; nothing to calibrate with")
    tests_s = [test.seconds for worker in run.workers for test in worker.tests]
    sample = twentieths(steps_s)
    return ModelCost(
        config.model.name,
        config.data.dataset,
        sum(layer.bytes for layer in spec.layers),
        fsum(tests_s) / len(tests_s) if tests_s else (known.test_s if known else 0.0),
        (StepCost(config.training.batch_size, sample, sample),),
        known.progress if known else None,
    )


def _network(run: Run, otherwise: Network) -> Network:
    round_trips_s = [s for worker in run.recorded.workers for s in worker.round_trips_s]
    pulls = live_pulls(run)
    waits_s = [pull.wait_s for pull in pulls if pull.whole]
    trips = _alone(round_trips_s) if round_trips_s else otherwise.busy_round_trip_s
    moving_s = partial(_moving_s, one_way_s=median(trips) / 2)
    return replace(
        otherwise,
        busy_round_trip_s=trips,
        serve_s=median(waits_s) if waits_s else otherwise.serve_s,
        payload_share=_payload_share(run.recorded, pulls, moving_s, otherwise.payload_share),
        slowdown=_slowdown(pulls, moving_s, False) or otherwise.slowdown,
        met_slowdown=_slowdown(pulls, moving_s, True) or otherwise.met_slowdown,
    )


def _alone(round_trips_s: Sequence[float]) -> Sample:
    """The quickest quarter: the others waited behind a transfer. Of pulls that do, this is a
    slowdown."""
    ordered = sorted(round_trips_s)
    return twentieths(ordered[: max(1, len(ordered) // 4)])


def _moving_s(pull: Pull, one_way_s: float) -> float:
    return max(LEAST_S, pull.live_s - pull.wait_s - one_way_s)


def _slowdown(pulls: Sequence[Pull], moving_s: MovingS, met: bool) -> Sample:
    """Of those that were met by a transfer when they began, or were not: their times for each byte
    against that of the fastest of their link, which moved at its rate."""
    usual_bytes = median([pull.bytes for pull in pulls if _tells(pull)] or [0])
    of_links: dict[tuple[int, int], list[tuple[float, bool]]] = defaultdict(list)
    for pull, was_met in zip(pulls, are_met(pulls)):
        if _tells(pull) and pull.bytes >= usual_bytes / SMALL:
            of_links[pull.src, pull.dst].append((moving_s(pull) / pull.bytes, was_met))
    slower = list[float]()
    for paces in of_links.values():
        if len(paces) < LEAST_PULLS:
            continue
        fastest = quantile([pace for pace, _ in paces], FASTEST)
        slower += [max(1.0, pace / fastest) for pace, was_met in paces if was_met == met]
    return twentieths(slower) if slower else ()


def _payload_share(
    run: RecordedRun, pulls: Sequence[Pull], moving_s: MovingS, otherwise: float
) -> float:
    """What the fastest transfers got of their paced link, where links were paced."""
    rates = run.config.network.emulate
    if rates is None:
        return otherwise
    seed = run.config.cluster.seed
    shares = [
        pull.bytes / moving_s(pull) / link_rate_Bps(rates, (pull.src, pull.dst), seed)
        for pull in pulls
        if _tells(pull)
    ]
    return min(1.0, quantile(shares, 1 - FASTEST)) if shares else otherwise


def _tells(pull: Pull) -> bool:
    """Of a rate."""
    return pull.whole and pull.bytes >= LEAST_BYTES


def _constant(seconds: Sequence[float], otherwise: Affine) -> Affine:
    return Affine(fsum(seconds) / len(seconds), 0.0) if seconds else otherwise


def twentieths(values: Sequence[float]) -> Sample:
    """Means of the twentieths of all values, as `mpls calibrate` writes them; fewer for fewer."""
    ordered, parts = sorted(values), min(TWENTIETHS, len(values))
    bounds = [round(part * len(ordered) / parts) for part in range(parts + 1)]
    return tuple(fsum(ordered[a:b]) / (b - a) for a, b in pairwise(bounds))
