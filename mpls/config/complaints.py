"""pydantic's findings as one line: `FILE: [training] lr = -1: must be greater than 0`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from mpls.config.cluster import ClusterConfig
from mpls.config.tables import WorkerTable
from mpls.errors import BadInput, shown

Place = tuple[str | int, ...]


def bad_input(source: str, error: ValidationError, raw: dict[str, Any]) -> BadInput:
    """The first finding in full, and how many more there are. `raw` is what was validated."""
    first, *others = _lines(error, raw)
    more = f" (and {len(others)} more)" if others else ""
    return BadInput(f"{source}: {first}{more}")


def _lines(error: ValidationError, raw: dict[str, Any]) -> Iterator[str]:
    # A misspelt key is also a missing one, and says more.
    findings = sorted(error.errors(include_url=False), key=lambda found: found["type"] == "missing")
    for finding in findings:
        if finding["type"] == "misfits":
            yield from finding["ctx"]["misfits"]
        else:
            yield _line(finding["type"], finding["loc"], finding, raw)


def _line(kind: str, loc: Place, finding: Any, raw: dict[str, Any]) -> str:
    table, key = _place(kind, loc, raw)
    if kind == "missing":
        return f"{table} {key} is missing"
    allowed, value = _allowed(kind, loc, finding), shown(finding["input"])
    if not key:
        return f"{table} {allowed}"
    names_it = isinstance(finding["input"], str) and value in allowed
    return f"{table} {key}{'' if names_it else f' = {value}'}: {allowed}".lstrip()


def _place(kind: str, loc: Place, raw: dict[str, Any]) -> tuple[str, str]:
    """The table, as its header or with a worker's id, and the key in it; either may be empty."""
    if loc[0] == "workers" and len(loc) > 1:
        worker = raw["workers"][loc[1]]
        known = isinstance(worker, dict) and type(worker.get("id")) is int
        which = f"id {worker['id']}" if known else f"number {int(loc[1]) + 1}"
        return f"[[workers]] {which}:", _keys(loc[2:])
    if len(loc) > 1 or kind == "value_error":
        return f"[{loc[0]}]", _keys(loc[1:])
    return "", _keys(loc)


def _keys(loc: Place) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else str(key) for key in loc)


def _allowed(kind: str, loc: Place, finding: Any) -> str:
    if kind == "value_error":
        return str(finding["ctx"]["error"])
    if kind == "extra_forbidden":
        what = "table" if len(loc) == 1 and isinstance(finding["input"], dict) else "key"
        return f"unknown {what}; allowed: {', '.join(_known_keys(loc))}"
    if loc == ("workers",):
        return "must be written [[workers]], one for each worker"
    if kind == "model_type":
        return "must be a table"
    if kind == "tuple_type":
        return "must be a list"
    return str(finding["msg"]).replace("Input should", "must")


def _known_keys(loc: Place) -> list[str]:
    if len(loc) == 1:
        return [f"[{table}]" for table in ClusterConfig.model_fields]
    if loc[0] == "workers":
        return list(WorkerTable.model_fields)
    table = ClusterConfig.model_fields[str(loc[0])].annotation
    assert table is not None
    return list(table.model_fields)
