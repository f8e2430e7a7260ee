"""The hand-written scenario of `mpls plan`: one JSON object, read strictly.

The format is a contract with third parties (docs: `mpls plan`). Every key but `layers` and `peers`
may be left out, and of a peer all but its name: settings take the configuration's defaults, a
bandwidth the prior; histograms and progress are then unknown. Whatever is not exactly as described
is BadInput: one line that names the field.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import fsum
from typing import Any, TypeVar

from mpls.core.plan import Layer, PeerView, View
from mpls.core.protocol import Vector
from mpls.core.settings import FILLS, SCHEDULERS, TIES, PlanSettings, PullSettings
from mpls.errors import BadInput, shown

TOLERANCE = 1e-6
"""How far tau1 + tau2, or a histogram, may be from summing to 1."""
NAME_LIMIT = 128
"""Characters of a name, as on the wire."""
BYTES_LIMIT = 10**12
"""Of one layer: beyond any model, and all sums of such sizes are exact in floats."""
SEED_LIMIT = 2**63 - 1
LARGEST = sys.float_info.max

TOP_KEYS = (
    *("strategy", "tau1", "tau2", "scheduler", "tie", "fill", "seed", "downlink_Bps"),
    *("own_histogram", "layers", "peers"),
)
PEER_KEYS = ("name", "bandwidth_Bps", "histogram", "progress")

D = TypeVar("D")


@dataclass(frozen=True)
class Scenario:
    """One decision to be taken. That the strategy exists is for `make_strategy` to find out."""

    settings: PlanSettings
    view: View
    seed: int


def parse_scenario(text: str) -> Scenario:
    """The scenario that a JSON text describes. Raises BadInput."""
    top = _Fields("", _decoded(text), known=TOP_KEYS, required=("layers", "peers"))
    settings = _settings(top)
    layers = tuple(
        map(_layer, top.objects("layers", ("name", "bytes"), required=("name", "bytes")))
    )
    if not layers:
        raise BadInput("layers: a model has at least one layer")
    peers = tuple(_peer(item, layers) for item in top.objects("peers", PEER_KEYS, ("name",)))
    _demand_unique("layers", [layer.name for layer in layers])
    _demand_unique("peers", [peer.name for peer in peers])
    own_histogram = _histogram(top, "own_histogram")
    _demand_same_classes(own_histogram, peers)
    downlink_Bps = top.number("downlink_Bps", None, least=1.0)
    if settings.fill == "downlink" and downlink_Bps is None:
        raise BadInput('downlink_Bps: must be given with fill = "downlink"')
    view = View(layers, own_histogram, peers, downlink_Bps)
    return Scenario(settings, view, top.whole("seed", 0, most=SEED_LIMIT))


def _settings(top: _Fields) -> PlanSettings:
    default = PlanSettings()
    tau1 = top.number("tau1", default.tau1, most=1.0)
    tau2 = top.number("tau2", default.tau2, most=1.0)
    if abs(tau1 + tau2 - 1) > TOLERANCE:
        raise BadInput(f"tau1 = {tau1}, tau2 = {tau2}: must sum to 1 (each is 0.5 if left out)")
    return PlanSettings(
        strategy=top.text("strategy", default.strategy),
        scheduler=top.choice("scheduler", default.scheduler, SCHEDULERS),
        tau1=tau1,
        tau2=tau2,
        tie=top.choice("tie", default.tie, TIES),
        fill=top.choice("fill", default.fill, FILLS),
    )


def _layer(fields: _Fields) -> Layer:
    return Layer(fields.text("name"), fields.whole("bytes", 0, most=BYTES_LIMIT))


def _peer(fields: _Fields, layers: tuple[Layer, ...]) -> PeerView:
    progress = fields.vector("progress")
    if progress is not None and len(progress) != len(layers):
        raise fields.bad("progress", f"must have one number for each of the {len(layers)} layers")
    return PeerView(
        name=fields.text("name"),
        bandwidth_Bps=fields.number("bandwidth_Bps", PullSettings().prior_bandwidth_Bps),
        histogram=_histogram(fields, "histogram"),
        progress=progress,
    )


def _histogram(fields: _Fields, key: str) -> Vector | None:
    histogram = fields.vector(key)
    if histogram is not None and abs(fsum(histogram) - 1) > TOLERANCE:
        raise fields.bad(key, f"must sum to 1, not {fsum(histogram):.6g}")
    return histogram


def _demand_unique(key: str, names: list[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise BadInput(f"{key}: name = {shown(name)} is used {times} times")


def _demand_same_classes(own: Vector | None, peers: Iterable[PeerView]) -> None:
    given = [("own_histogram", own)]
    given += [(f"peers[{i}].histogram", peer.histogram) for i, peer in enumerate(peers)]
    known = [(place, histogram) for place, histogram in given if histogram is not None]
    for place, histogram in known:
        if len(histogram) != len(known[0][1]):
            raise BadInput(
                f"{place}: has {len(histogram)} classes, but {known[0][0]} {len(known[0][1])}"
            )


class _Fields:
    """One JSON object of the scenario, at `place`, whose values are taken out by key and type."""

    def __init__(
        self, place: str, value: object, known: Collection[str], required: Collection[str]
    ) -> None:
        self._place = place
        if not isinstance(value, dict):
            raise BadInput(f"{place or 'scenario'} = {shown(value)}: must be a JSON object")
        self._values: dict[str, Any] = value
        for key in value:
            if key not in known:
                raise BadInput(
                    f"{self._path('')}{shown(key)}: unknown key; known are {', '.join(known)}"
                )
        for key in required:
            if key not in value:
                raise BadInput(f"{self._path(key)}: missing")

    def bad(self, key: str, rule: str) -> BadInput:
        """The error that this field breaks this rule."""
        return BadInput(f"{self._path(key)} = {shown(self._values[key])}: {rule}")

    def text(self, key: str, default: str = "") -> str:
        """A printable name."""
        value = self._values.get(key, default)
        if not (isinstance(value, str) and 0 < len(value) <= NAME_LIMIT and value.isprintable()):
            raise self.bad(key, f"must be a text of 1 to {NAME_LIMIT} printable characters")
        return value

    def choice(self, key: str, default: str, allowed: Collection[str]) -> str:
        """One of the allowed texts."""
        value = self._values.get(key, default)
        if value not in allowed:
            raise self.bad(key, f"must be one of {', '.join(allowed)}")
        return str(value)

    def number(self, key: str, default: D, least: float = 0.0, most: float = LARGEST) -> float | D:
        """A finite number within these limits."""
        if key not in self._values:
            return default
        if not _is_number(self._values[key], least, most):
            limits = f"from {least:g} to {most:g}" if most < LARGEST else f"not below {least:g}"
            raise self.bad(key, f"must be a number {limits}")
        return float(self._values[key])

    def whole(self, key: str, default: int, most: int) -> int:
        """A whole number from 0 to `most`."""
        value = self._values.get(key, default)
        if not (isinstance(value, int) and _is_number(value, 0, most)):
            raise self.bad(key, f"must be a whole number from 0 to {most}")
        return value

    def vector(self, key: str) -> Vector | None:
        """A list of finite numbers that are not below 0; None if left out."""
        if key not in self._values:
            return None
        values = self._list(key)
        if not values or not all(_is_number(value) for value in values):
            raise self.bad(key, "must be a list of numbers, none below 0")
        return tuple(map(float, values))

    def objects(self, key: str, known: Collection[str], required: Collection[str]) -> list[_Fields]:
        """A list of objects with these keys."""
        path = self._path(key)
        return [
            _Fields(f"{path}[{i}]", item, known, required) for i, item in enumerate(self._list(key))
        ]

    def _list(self, key: str) -> list[Any]:
        value = self._values[key]
        if not isinstance(value, list):
            raise self.bad(key, "must be a list")
        return value

    def _path(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key


def _is_number(value: object, least: float = 0.0, most: float = LARGEST) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    )


def _decoded(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {' '.join(str(error).split())}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise BadInput(f"{shown(key)}: given {times} times in one object")
    return dict(pairs)
