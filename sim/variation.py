"""How links vary in time: what `--vary` says, as the capacities of a network.

    none                                  each link keeps its drawn rate
    step:10=0.5,30=1                      half of it from second 10 on, all of it from 30 on
    sine:swing=.3,period=60               up and down by 30 %, each link in its own phase
    ar1:sd=.2,correlation=.9              wanders, with a standard deviation of 20 %
    file:rates.csv                        the rates of a file, whatever was drawn

`sine` and `ar1` change in steps of `step` seconds, 1 where it is left out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mpls.config import ClusterConfig
from mpls.core.links import Link
from mpls.errors import BadInput, shown
from mpls.units import BandwidthRange
from sim.network import (
    Links,
    autoregressive_links,
    drawn_links,
    read_rates,
    require_links,
    sine_links,
    stepping_links,
)
from sim.network.capacity import Steps

GOOD = "step:10=0.5,30=1, sine:swing=.3,period=60, ar1:sd=.2,correlation=.9, file:rates.csv, none"
LONGEST_S = 1e9
SHORTEST_S = 1e-3
"""A shorter step, or two steps nearer to each other, would cost more than it shows."""


class Variation(Protocol):
    """One of the classes below. Equal ones have equal `identity`."""

    @property
    def text(self) -> str:
        """As it was asked for, for labels; empty for none."""

    @property
    def identity(self) -> str:
        """All that decides what it does."""

    def links(self, config: ClusterConfig) -> Links:
        """The links of a cluster. BadInput where they cannot be had."""


@dataclass(frozen=True)
class Drawn:
    """Each link varies about the rate that was drawn for it, as `make` says."""

    text: str
    make: _Make

    @property
    def identity(self) -> str:
        """See Variation."""
        return repr(self.make)

    def links(self, config: ClusterConfig) -> Links:
        """See Variation."""
        rates = config.network.emulate or config.network.prior_bw
        return self.make.links(rates, config.cluster.seed)


@dataclass(frozen=True)
class Listed:
    """The rates of a file."""

    text: str
    place: str
    rates: Mapping[Link, Steps]
    sha256: str
    """Of the file."""

    @property
    def identity(self) -> str:
        """See Variation."""
        return self.sha256

    def links(self, config: ClusterConfig) -> Links:
        """See Variation."""
        require_links(self.place, self.rates, config.links())
        return lambda src, dst: self.rates[src, dst]


class _Make(Protocol):
    def links(self, rates: BandwidthRange, seed: int) -> Links: ...


@dataclass(frozen=True)
class Still:
    """No variation."""

    def links(self, rates: BandwidthRange, seed: int) -> Links:
        """Constant."""
        return drawn_links(rates, seed)


@dataclass(frozen=True)
class Step:
    """From each second on, a factor on the drawn rate."""

    factors: tuple[tuple[float, float], ...]

    def links(self, rates: BandwidthRange, seed: int) -> Links:
        """See `stepping_links`."""
        return stepping_links(rates, seed, dict(self.factors))


@dataclass(frozen=True)
class Sine:
    """`swing` as a share of the drawn rate."""

    swing: float
    period_s: float
    step_s: float

    def links(self, rates: BandwidthRange, seed: int) -> Links:
        """See `sine_links`."""
        return sine_links(rates, seed, self.swing, self.period_s, self.step_s)


@dataclass(frozen=True)
class Wandering:
    """AR(1), `sd` as a share of the drawn rate."""

    sd: float
    correlation: float
    step_s: float

    def links(self, rates: BandwidthRange, seed: int) -> Links:
        """See `autoregressive_links`."""
        return autoregressive_links(rates, seed, self.sd, self.correlation, self.step_s)


NONE = Drawn("", Still())


def parse_variation(text: str, found_at: Callable[[str], Path] = Path) -> Variation:
    """What `text` asks for; `found_at` says where a file that it names is. Raises BadInput, one
    line that shows good ones."""
    kind, _, rest = text.strip().partition(":")
    if kind == "none" and not rest:
        return NONE
    if kind == "file" and rest:
        return _listed(rest, found_at(rest))
    if kind not in _MAKES:
        raise _bad(text, "no such variation")
    return Drawn(text.strip(), _MAKES[kind](text, _pairs(text, rest)))


def _listed(name: str, path: Path) -> Listed:
    rates = read_rates(path)
    return Listed(f"file:{name}", name, rates, hashlib.sha256(path.read_bytes()).hexdigest())


def _pairs(text: str, rest: str) -> dict[str, float]:
    """`a=1,b=2`, in this order."""
    pairs: dict[str, float] = {}
    for word in rest.split(","):
        name, _, digits = (part.strip() for part in word.partition("="))
        try:
            number = float(digits)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number) or name in pairs:
            raise _bad(text, f"{shown(word)} must be one name=number")
        pairs[name] = number
    return pairs


def _step(text: str, pairs: dict[str, float]) -> Step:
    factors: list[tuple[float, float]] = []
    for name, factor in pairs.items():
        try:
            at_s = float(name)
        except ValueError:
            at_s = math.nan
        before_s = factors[-1][0] if factors else -SHORTEST_S
        if not before_s + SHORTEST_S <= at_s <= LONGEST_S:
            raise _bad(text, f"{shown(name)} must be seconds that rise")
        if not 1e-6 <= factor <= 1e6:
            raise _bad(text, f"{factor:g} must be a factor above 0")
        factors.append((at_s, factor))
    return Step(tuple(factors))


def _sine(text: str, pairs: dict[str, float]) -> Sine:
    _demand(text, pairs, ("swing", "period"), ("step",))
    return Sine(
        _within(text, pairs, "swing", 0.0, 1.0),
        _within(text, pairs, "period", SHORTEST_S, LONGEST_S),
        _within(text, {"step": 1.0, **pairs}, "step", SHORTEST_S, LONGEST_S),
    )


def _wandering(text: str, pairs: dict[str, float]) -> Wandering:
    _demand(text, pairs, ("sd",), ("correlation", "step"))
    every = {"correlation": 0.9, "step": 1.0, **pairs}
    return Wandering(
        _within(text, every, "sd", 0.0, 1.0),
        _within(text, every, "correlation", 0.0, 0.999_999),
        _within(text, every, "step", SHORTEST_S, LONGEST_S),
    )


_MAKES: dict[str, Callable[[str, dict[str, float]], _Make]] = {
    "step": _step,
    "sine": _sine,
    "ar1": _wandering,
}


def _demand(
    text: str, pairs: dict[str, float], needed: tuple[str, ...], possible: tuple[str, ...]
) -> None:
    for name in pairs:
        if name not in needed + possible:
            raise _bad(text, f"{shown(name)} must be one of {', '.join(needed + possible)}")
    for name in needed:
        if name not in pairs:
            raise _bad(text, f"{name} is missing")


def _within(text: str, pairs: dict[str, float], name: str, least: float, most: float) -> float:
    number = pairs[name]
    if not least <= number <= most:
        raise _bad(text, f"{name} = {number:g} must be from {least:g} to {most:g}")
    return number


def _bad(text: str, why: str) -> BadInput:
    return BadInput(f"--vary {shown(text)}: {why}; good ones: {GOOD}")
