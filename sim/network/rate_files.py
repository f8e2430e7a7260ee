"""Files of rates, for the twin and for what shapes a live run.

CSV with the header `t_s,src,dst,rate_Bps`, or JSON, a list of objects with these four keys. A row
says what one worker can send another from its time on, until the next row of the same direction.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpls.core.links import Link
from mpls.errors import BadInput, shown
from sim.network.capacity import Steps

COLUMNS = ("t_s", "src", "dst", "rate_Bps")

Row = dict[str, Any]


def read_rates(path: Path) -> dict[Link, Steps]:
    """The steps of each direction (src, dst) that the file names. Raises BadInput, which names the
    line or entry."""
    steps: dict[Link, dict[float, float]] = {}
    for place, row in _rows(path):
        if set(row) != set(COLUMNS) or None in row.values():
            raise BadInput(f"{place}: must have exactly {', '.join(COLUMNS)}")
        at_s, rate_Bps = _number(place, row, "t_s"), _number(place, row, "rate_Bps")
        src, dst = _worker(place, row, "src"), _worker(place, row, "dst")
        rates = steps.setdefault((src, dst), {})
        if at_s < 0.0:
            raise BadInput(f"{place}: t_s = {shown(at_s)} must be 0 or more")
        if rate_Bps <= 0.0:
            raise BadInput(f"{place}: rate_Bps = {shown(rate_Bps)} must be above 0")
        if src == dst:
            raise BadInput(f"{place}: src and dst are both {src}; no worker sends to itself")
        if at_s in rates:
            raise BadInput(f"{place}: a second rate at t_s = {shown(at_s)} from {src} to {dst}")
        rates[at_s] = rate_Bps
    return {direction: Steps(sorted(rates.items())) for direction, rates in steps.items()}


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row with the place that an error names."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as a file of rates ({error})") from error
    return _json_rows(path, text) if path.suffix == ".json" else _csv_rows(path, text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(text.splitlines())
    try:
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise BadInput(f"{path}:1: the header must be {','.join(COLUMNS)}")
        for row in reader:
            yield f"{path}:{reader.line_num}", dict(row)
    except csv.Error as error:
        raise BadInput(f"{path}:{reader.line_num}: is no CSV ({error})") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{path}: is no JSON ({error})") from error
    if not isinstance(rows, list):
        raise BadInput(f"{path}: must be a list of objects with {', '.join(COLUMNS)}")
    for index, row in enumerate(rows):
        yield f"{path}: entry {index}", row if isinstance(row, dict) else {}


def _number(place: str, row: Row, column: str) -> float:
    value, number = row[column], math.nan
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise BadInput(f"{place}: {column} = {shown(value)} is no finite number")
    return number


def _worker(place: str, row: Row, column: str) -> int:
    number = _number(place, row, column)
    if number < 0.0 or not number.is_integer():
        raise BadInput(f"{place}: {column} = {shown(row[column])} is no worker's id")
    return int(number)
