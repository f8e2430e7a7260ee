"""What a machine was measured to cost: the file that `mpls calibrate` writes and the twin reads.

A sample stands for a distribution: equally likely values, rising. `mpls calibrate` writes the means
of the twentieths of all that it measured. Everything is in seconds and bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from math import isfinite
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mpls.errors import BadInput, shown

FORMAT = "mpls-calibration-1"
Sample = tuple[float, ...]


@dataclass(frozen=True)
class Stamp:
    """Where and when it was measured."""

    date: str
    """Of the end, UTC, ISO 8601."""
    host: str
    kernel: str
    cpu: str
    cores: int
    congestion_control: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class StepCost:
    """Seconds of a local step, as the mean of a stretch of some 20 ms."""

    batch_size: int
    alone_s: Sample
    """Nothing else happens."""
    busy_s: Sample
    """While the worker serves a peer and pulls from it, at the rate of `Network.paced_Bps`."""


@dataclass(frozen=True)
class Progress:
    """How far a round moves a model: squared distance `scale / (1 + round / knee)`."""

    scale: float
    knee: float
    spread: float
    """A round's distance is up to this share more or less."""


@dataclass(frozen=True)
class ModelCost:
    """What training a model takes, one torch thread."""

    name: str
    dataset: str
    model_bytes: int
    test_s: float
    """One test, with all the test images of the data set."""
    steps: tuple[StepCost, ...]
    progress: Progress | None
    """Of three workers that mix everything; None where it was not measured."""


@dataclass(frozen=True)
class Affine:
    """Seconds by bytes: a part for each time and a part for each byte."""

    once_s: float
    byte_s: float

    def seconds(self, size_bytes: float) -> float:
        """For so many bytes."""
        return self.once_s + self.byte_s * size_bytes


@dataclass(frozen=True)
class Network:
    """The way from one process to another."""

    link: str
    """What was measured, in words."""
    round_trip_s: Sample
    """A status request and its answer, between idle processes."""
    busy_round_trip_s: Sample
    """The same while both train."""
    serve_s: float
    """From a pull's arrival to its first byte."""
    deliver_s: float
    """From a layer's last byte to the core hearing of it."""
    bandwidth_Bps: float
    """As fast as it goes."""
    paced_Bps: float
    """Nominal rate of the link that the next three are about."""
    payload_share: float
    """Of the nominal rate, what layers get."""
    duplex_ratio: float
    """Rate with both directions in use over that of one alone: 1 full duplex, .5 half."""
    burst_bytes: float
    """What passes at once after idleness."""
    slowdown: Sample = (1.0,)
    """How many times longer than at the link's rate a pull takes, with all that gets in its way.
    Only a live run knows this and the next; a file may leave them out."""
    met_slowdown: Sample = (1.0,)
    """The same of a pull that begins while another goes the other way, in whose queues its request
    waits."""


@dataclass(frozen=True)
class Measured:
    """All of it."""

    stamp: Stamp
    models: tuple[ModelCost, ...]
    mix: Affine
    """Eq. 1 with two copies of every layer, by the model's bytes."""
    publish: Affine
    """Copying a snapshot, by the model's bytes."""
    network: Network

    def dumps(self) -> str:
        """As JSON, a list of numbers on one line; `loads` reads an equal one back."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False)
        return re.sub(r"\[[^][{}]*\]", lambda found: json.dumps(json.loads(found[0])), text) + "\n"


def loads(text: str, source: str) -> Measured:
    """The measurements in a text that `Measured.dumps` or a person wrote. Raises BadInput, one line
    that names `source` and the value, for whatever is wrong with it."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{source}: not JSON: {error}") from None
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise BadInput(f'{source}: no calibration; its "format" must be {shown(FORMAT)}')
    measured: Measured = _read(Measured, plain, source)
    _demand_sound(measured, source)
    return measured


# --- reading ---


def _read(kind: Any, plain: Any, place: str) -> Any:
    """A value of this type, made of what JSON has."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if plain is None else _read(inner[0], plain, place)
    if is_dataclass(kind):
        return _read_fields(kind, plain, place)
    if origin is tuple and isinstance(plain, list):
        return tuple(_read(inner[0], item, f"{place}[{i}]") for i, item in enumerate(plain))
    if origin is not None and issubclass(origin, Mapping) and isinstance(plain, dict):
        return {key: _read(inner[1], item, f"{place}.{key}") for key, item in plain.items()}
    if kind is str and isinstance(plain, str):
        return plain
    if kind in (int, float) and isinstance(plain, (kind, int)) and not isinstance(plain, bool):
        if isfinite(plain) and plain >= 0:
            return kind(plain)
        raise BadInput(f"{place}: {shown(plain)} must be finite and not below 0")
    wanted = {int: "a whole number", float: "a number", str: "a text", tuple: "a list"}
    raise BadInput(f"{place}: {shown(plain)} must be {wanted.get(origin or kind, 'an object')}")


def _read_fields(kind: Any, plain: Any, place: str) -> Any:
    if not isinstance(plain, dict):
        raise BadInput(f"{place}: {shown(plain)} must be an object")
    types = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in plain:
        if name not in names:
            raise BadInput(f"{place}: unknown key {shown(name)}; known are {', '.join(names)}")
    for field in fields(kind):
        if field.name not in plain and field.default is MISSING:
            raise BadInput(f"{place}: {field.name} is missing")
    return kind(**{name: _read(types[name], plain[name], f"{place}: {name}") for name in plain})


def _demand_sound(measured: Measured, source: str) -> None:
    network = measured.network
    _demand_sample(network.round_trip_s, f"{source}: network: round_trip_s")
    _demand_sample(network.busy_round_trip_s, f"{source}: network: busy_round_trip_s")
    _demand_sample(network.slowdown, f"{source}: network: slowdown")
    _demand_sample(network.met_slowdown, f"{source}: network: met_slowdown")
    for name in ("bandwidth_Bps", "paced_Bps", "payload_share", "duplex_ratio"):
        if getattr(network, name) == 0:
            raise BadInput(f"{source}: network: {name}: 0 must be above 0")
    if network.payload_share > 1:
        share = network.payload_share
        raise BadInput(f"{source}: network: payload_share: {share} must be at most 1")
    names = [model.name for model in measured.models]
    if len(set(names)) < len(names):
        raise BadInput(f"{source}: models: a name is there twice: {', '.join(names)}")
    for model in measured.models:
        place = f"{source}: model {shown(model.name)}"
        if not model.steps:
            raise BadInput(f"{place}: steps must not be empty")
        for step in model.steps:
            if step.batch_size == 0:
                raise BadInput(f"{place}: batch_size: 0 must be above 0")
            _demand_sample(step.alone_s, f"{place}: alone_s")
            _demand_sample(step.busy_s, f"{place}: busy_s")


def _demand_sample(values: Sample, place: str) -> None:
    if not values or values[0] <= 0 or list(values) != sorted(values):
        raise BadInput(f"{place}: {shown(values)} must be values above 0, each at least the last")
