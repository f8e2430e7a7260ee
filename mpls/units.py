"""Bytes and bytes per second as people write them: the only place where "10-15MB" becomes a number.

MB is 10^6 bytes, MiB 2^20, Mbit 10^6 bits. Of a bandwidth "per second" is understood.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from mpls.errors import BadInput, shown

UNIT_BYTES = {
    "B": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "kbit": 1e3 / 8,
    "Mbit": 1e6 / 8,
    "Gbit": 1e9 / 8,
}
GOOD_BANDWIDTHS = "10MB, 10-15MB, 80Mbit, 1.5MiB (per second)"
GRID_LIMIT = 1000
GOOD_SIZES = "512B, 64KiB, 1.5MB"

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_UNIT = "|".join(UNIT_BYTES)
_BANDWIDTH = re.compile(rf"({_NUMBER})(?:-({_NUMBER}))? ?({_UNIT})(?:/s)?")
_GRID = re.compile(rf"({_NUMBER})\.\.({_NUMBER}) ?({_UNIT})(?:/s)?/({_NUMBER}) ?({_UNIT})(?:/s)?")
_SIZE = re.compile(rf"({_NUMBER}) ?({_UNIT})")


@dataclass(frozen=True)
class BandwidthRange:
    """From `low_Bps` to `high_Bps`, both above 0 and finite; one rate where they are equal.

    As text it is what `parse_bandwidth` reads back to the last bit: "10-15MB".
    """

    low_Bps: float
    high_Bps: float

    def __post_init__(self) -> None:
        assert 0.0 < self.low_Bps <= self.high_Bps < math.inf

    def __str__(self) -> str:
        ends_Bps = sorted({self.low_Bps, self.high_Bps})
        unit = next(unit for unit in ("GB", "MB", "kB", "B") if _is_exact(ends_Bps, unit))
        return "-".join(_digits(end_Bps / UNIT_BYTES[unit]) for end_Bps in ends_Bps) + unit


def parse_bandwidth(text: str) -> BandwidthRange:
    """The rates that `10MB`, `10-15MB`, `80Mbit` or `12.5MB/s` name. Anything else is BadInput."""
    match = _BANDWIDTH.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{shown(text)} is no bandwidth; good ones: {GOOD_BANDWIDTHS}")
    low, high, unit = match.groups()
    low_Bps = float(low) * UNIT_BYTES[unit]
    high_Bps = float(high or low) * UNIT_BYTES[unit]
    if not 0.0 < low_Bps <= high_Bps < math.inf:
        why = "runs backwards" if low_Bps > high_Bps else "must be above 0 and finite"
        raise BadInput(f"bandwidth {shown(text)} {why}; good ones: {GOOD_BANDWIDTHS}")
    return BandwidthRange(low_Bps, high_Bps)


def parse_bandwidths(text: str) -> list[BandwidthRange]:
    """Several of them: `5-10MB,10-15MB` one after the other, `5..25MB/5MB` from 5 to 25 by 5."""
    return [spec for part in text.split(",") for spec in _grid(part)]


def _grid(text: str) -> list[BandwidthRange]:
    match = _GRID.fullmatch(text.strip())
    if match is None:
        return [parse_bandwidth(text)]
    first, last, unit, step, step_unit = match.groups()
    start, stop, by = Decimal(first), Decimal(last), Decimal(step) * _ratio(step_unit, unit)
    if not 0 < start <= stop or by <= 0 or (stop - start) / by > GRID_LIMIT:
        raise BadInput(
            f"bandwidth grid {shown(text)} must rise by a step above 0, in at most {GRID_LIMIT} "
            "steps; a good one: 5..25MB/5MB"
        )
    count = int((stop - start) / by) + 1
    return [parse_bandwidth(f"{(start + by * i).normalize():f}{unit}") for i in range(count)]


def _ratio(unit: str, other: str) -> Decimal:
    return Decimal(UNIT_BYTES[unit]) / Decimal(UNIT_BYTES[other])


def parse_bytes(text: str) -> int:
    """The whole bytes that `64KiB` or `1.5MB` name. Anything else is BadInput."""
    match = _SIZE.fullmatch(text.strip())
    size_bytes = float(match[1]) * UNIT_BYTES[match[2]] if match else 0.0
    if not 0.0 < size_bytes < math.inf or not size_bytes.is_integer():
        raise BadInput(f"{shown(text)} is no number of bytes; good ones: {GOOD_SIZES}")
    return int(size_bytes)


def format_bytes(size_bytes: float) -> str:
    """For people, to three or four digits: `203.6 kB`."""
    for unit in ("GB", "MB", "kB"):
        # 999,950 bytes are 1.0 MB, because they would round to 1000.0 kB.
        if abs(size_bytes) >= 0.99995 * UNIT_BYTES[unit]:
            return f"{size_bytes / UNIT_BYTES[unit]:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def format_rate(rate_Bps: float) -> str:
    """For people: `12.5 MB/s`."""
    return f"{format_bytes(rate_Bps)}/s"


def _is_exact(rates_Bps: list[float], unit: str) -> bool:
    """Whether every rate, written in this unit, is at least 1 and reads back to the last bit."""
    scale = UNIT_BYTES[unit]
    return unit == "B" or all(
        rate >= scale and float(_digits(rate / scale)) * scale == rate for rate in rates_Bps
    )


def _digits(number: float) -> str:
    """All the digits that tell this float from its neighbours, without an exponent."""
    return f"{Decimal(repr(number)):f}".removesuffix(".0")
