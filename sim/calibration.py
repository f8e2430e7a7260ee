"""A calibration file, as the twin uses it.

`mpls calibrate` writes such files; `default-calibration.json` was measured where this project is
developed, and stands in where no file is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import fsum, sqrt
from pathlib import Path
from statistics import median

from mpls.core.calibration import Measured, ModelCost, Sample, StepCost, loads
from mpls.errors import BadInput, shown
from sim.fitted import Fit
from sim.network.overhead import Overhead
from sim.timing import Timing

DEFAULT_FILE = Path(__file__).with_name("default-calibration.json")
LIMIT_BYTES = 2**24


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a local step: equally likely values, rising."""

    values_s: Sample

    def at(self, share: float) -> float:
        """The value that this share of steps, in [0, 1), stays below."""
        last = len(self.values_s) - 1
        return self.values_s[min(last, int(share * len(self.values_s)))]

    @property
    def mean_s(self) -> float:
        """Of all."""
        return fsum(self.values_s) / len(self.values_s)

    @property
    def deviation_s(self) -> float:
        """Standard deviation."""
        squares = fsum((value - self.mean_s) ** 2 for value in self.values_s)
        return sqrt(squares / len(self.values_s))

    def scaled(self, factor: float) -> StepTimes:
        """Each value times this."""
        return StepTimes(tuple(value * factor for value in self.values_s))


@dataclass(frozen=True)
class Calibration:
    """What the twin asks a calibration. A model that was not measured is BadInput."""

    measured: Measured
    source: str = field(repr=False, compare=False)
    """Where it came from, for errors."""

    def timing(self, model: str) -> Timing:
        """What everything but training and transfers costs a worker with this model."""
        cost, measured = self._model(model), self.measured
        return replace(
            self.delays(),
            mix_s=measured.mix.seconds(cost.model_bytes),
            publish_s=measured.publish.seconds(cost.model_bytes),
            evaluate_s=cost.test_s,
        )

    def delays(self) -> Timing:
        """What messages and serving cost, whatever the model."""
        network = self.measured.network
        return Timing(
            one_way_s=median(network.busy_round_trip_s) / 2,
            serve_s=network.serve_s,
            slowdown=network.slowdown,
            met_slowdown=network.met_slowdown,
            deliver_s=network.deliver_s,
        )

    def steps(self, model: str, batch_size: int, busy: bool) -> StepTimes:
        """Seconds of a local step of this model; `busy` with transfers going on, or alone. A batch
        size that was not measured is taken from the nearest one, and from how the time grows."""
        costs = self._model(model).steps
        near = min(costs, key=lambda cost: (abs(cost.batch_size - batch_size), cost.batch_size))
        times = StepTimes(near.busy_s if busy else near.alone_s)
        return times.scaled(_growth(costs, near.batch_size, batch_size))

    def fit(self, model: str, batch_size: int = 32) -> Fit:
        """For training without weights."""
        times = self.steps(model, batch_size, busy=True)
        spread = min(1.0, sqrt(3.0) * times.deviation_s / times.mean_s)
        progress = self._model(model).progress
        if progress is None:
            return Fit(step_s=times.mean_s, step_spread=spread)
        return Fit(times.mean_s, spread, progress.scale, progress.knee, progress.spread)

    def without_chance(self) -> Calibration:
        """With transfers that all take what the median of them does: the best guess for each."""
        network = self.measured.network
        median_only = replace(
            network,
            slowdown=(median(network.slowdown),),
            met_slowdown=(median(network.met_slowdown),),
        )
        return replace(self, measured=replace(self.measured, network=median_only))

    def overhead(self) -> Overhead:
        """What links take off their rates and add to their times."""
        network = self.measured.network
        return Overhead(
            payload_share=network.payload_share,
            burst_bytes=network.burst_bytes,
            round_trip_s=median(network.round_trip_s),
        )

    def _model(self, name: str) -> ModelCost:
        for model in self.measured.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.measured.models)
        raise BadInput(
            f"{self.source}: model {shown(name)} was not measured, only {known}; measure it with "
            f"`mpls calibrate --model {name} --out FILE` and give --calibration FILE"
        )


def load(path: str | Path | None = None) -> Calibration:
    """The calibration in a file, by default the shipped one. Raises BadInput, one line that names
    the file, for whatever is wrong with it."""
    source = str(path or "the shipped calibration")
    try:
        with open(path or DEFAULT_FILE, "rb") as file:
            content = file.read(LIMIT_BYTES + 1)
        if len(content) > LIMIT_BYTES:
            raise BadInput(f"{source}: larger than {LIMIT_BYTES} bytes; is this a calibration?")
        return Calibration(loads(content.decode(), source), source)
    except OSError as error:
        raise BadInput(f"{source}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{source}: not a text file; a calibration is JSON in UTF-8") from None


def _growth(costs: Sequence[StepCost], from_size: int, to_size: int) -> float:
    """How many times longer a step is: on the line through the least and the largest batch that
    were measured; by the number of images where only one was, or where the line makes no sense."""
    if from_size == to_size:
        return 1.0
    least, most = (pick(costs, key=lambda cost: cost.batch_size) for pick in (min, max))
    sizes = most.batch_size - least.batch_size
    image_s = (median(most.alone_s) - median(least.alone_s)) / sizes if sizes else 0.0
    once_s = median(least.alone_s) - image_s * least.batch_size
    if image_s <= 0.0 or once_s < 0.0:
        return to_size / from_size
    return (once_s + image_s * to_size) / (once_s + image_s * from_size)
