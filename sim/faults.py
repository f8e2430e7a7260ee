"""What can go wrong in a simulation: faults from a file, or drawn from a seed.

A fault file is TOML with a table `[[fault]]` for each: `at_s`, `kind`, and what KINDS asks for. A
worker is its id in the cluster file, `for_s` is how long the fault lasts. `sim.fault_effects`
says what each does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpls.config import ClusterConfig
from mpls.core.links import Link
from mpls.core.streams import Stream
from mpls.errors import BadInput, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LONGEST_S = 1e9
JUMP_S = 3600.0
FAULTS_PER_RUN = 11
BURST_SHARE = 0.25
"""So many of the drawn faults begin together with the one before."""
DURATIONS_S = (0.3, 1.5, 4.0, 10.0)
"""Drawn faults last about as long as one of these: heartbeats notice some and not others."""


@dataclass(frozen=True)
class Kind:
    """What a kind of fault is told."""

    targets: tuple[str, ...]
    """One of these says what it befalls."""
    lasts: bool = True
    factor: tuple[float, float, float] | None = None
    """Default, least and greatest."""
    jumps: bool = False
    """Whether it says how far a clock jumps."""


EITHER = ("worker", "link")
KINDS = {
    "crash": Kind(("worker",), lasts=False),
    "restart": Kind(("worker",)),
    "freeze": Kind(("worker",)),
    "slow-worker": Kind(("worker",), factor=(4.0, 1.0, 1e6)),
    "cut": Kind(EITHER),
    "cut-one-way": Kind(("link",)),
    "slow-link": Kind(EITHER, factor=(0.1, 1e-6, 1.0)),
    "flapping": Kind(EITHER),
    "partition": Kind(("groups",)),
    "loss": Kind(EITHER, factor=(0.3, 0.0, 1.0)),
    "duplicate": Kind(EITHER),
    "late": Kind(EITHER),
    "swizzle": Kind(("groups",)),
    "disk": Kind(("worker",)),
    "torn": Kind(("worker",), lasts=False),
    "clock": Kind(("worker",), lasts=False, jumps=True),
    "join": Kind(("worker",), lasts=False),
    "leave": Kind(("worker",), lasts=False),
}


@dataclass(frozen=True)
class Fault:
    """One fault. A fault that befalls a worker's links is given the worker."""

    at_s: float
    kind: str
    worker: int | None = None
    link: Link | None = None
    """With `cut-one-way` nothing comes through from the first to the second."""
    groups: tuple[tuple[int, ...], ...] = ()
    """With `partition` those who still reach each other; the workers in none are one more. With
    `swizzle` one: those who are cut off, in this order."""
    for_s: float = 0.0
    factor: float = 1.0
    """Of `slow-worker` on the time of a pass, of `slow-link` on the bandwidth; of `loss` the share
    of small messages."""
    jump_s: float = 0.0
    """Of `clock`: how far the wall clock goes ahead at once, or back."""


def read_faults(path: Path) -> tuple[Fault, ...]:
    """The faults of a file. Raises BadInput, one line that names file, fault and key."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as a fault file ({error})") from error
    listed = tables.pop("fault", [])
    if tables or not isinstance(listed, list):
        key = next(iter(tables), "fault")
        raise BadInput(f"{path}: {shown(key)}: a fault file has tables [[fault]] only")
    return tuple(
        _fault(f"{path}: [[fault]] number {number}", table)
        for number, table in enumerate(listed, 1)
    )


def _fault(place: str, table: Any) -> Fault:
    if not isinstance(table, dict):
        raise BadInput(f"{place}: must be a table")
    name = table.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise BadInput(f"{place}: kind = {shown(name)}: must be one of {', '.join(KINDS)}")
    kind = KINDS[name]
    _demand_known(place, name, kind, table)
    default, least, greatest = kind.factor or (1.0, 1.0, 1.0)
    return Fault(
        at_s=_number(place, table, "at_s", None, 0.0, LONGEST_S),
        kind=name,
        worker=_worker(place, "worker", table["worker"]) if "worker" in table else None,
        link=_link(place, table["link"]) if "link" in table else None,
        groups=_groups(place, table["groups"]) if "groups" in table else (),
        for_s=_number(place, table, "for_s", None, 1e-6, LONGEST_S) if kind.lasts else 0.0,
        factor=_number(place, table, "factor", default, least, greatest),
        jump_s=_number(place, table, "jump_s", JUMP_S, -1e6, 1e6) if kind.jumps else 0.0,
    )


def _demand_known(place: str, name: str, kind: Kind, table: dict[str, Any]) -> None:
    known = ["at_s", "kind", *kind.targets]
    known += ["for_s"] if kind.lasts else []
    known += ["factor"] if kind.factor else []
    known += ["jump_s"] if kind.jumps else []
    for key in table:
        if key not in known:
            raise BadInput(f"{place}: {shown(key)}: a {name} has {', '.join(known)}")
    if sum(target in table for target in kind.targets) != 1:
        raise BadInput(f"{place}: a {name} needs {' or '.join(kind.targets)}")
    if name == "swizzle" and len(_groups(place, table["groups"])) != 1:
        raise BadInput(f"{place}: a swizzle has one group: groups = [[2, 0, 5]]")


def _number(
    place: str, table: dict[str, Any], key: str, default: float | None, least: float, most: float
) -> float:
    value = table.get(key, default)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most:
        return float(value)
    raise BadInput(f"{place}: {key} = {shown(value)}: must be from {least:g} to {most:g}")


def _worker(place: str, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadInput(f"{place}: {key} = {shown(value)}: must be a worker's id")
    return value


def _link(place: str, value: Any) -> Link:
    if not isinstance(value, list) or len(value) != 2 or value[0] == value[1]:
        raise BadInput(f"{place}: link = {shown(value)}: must be two workers' ids, such as [0, 1]")
    return _worker(place, "link", value[0]), _worker(place, "link", value[1])


def _groups(place: str, value: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
        raise BadInput(f"{place}: groups = {shown(value)}: must be like [[0, 1], [2, 3]]")
    groups = tuple(tuple(_worker(place, "groups", one) for one in group) for group in value)
    members = [one for group in groups for one in group]
    if not members or len(set(members)) < len(members):
        raise BadInput(f"{place}: groups = {shown(value)}: must name each worker once at most")
    return groups


def demand_known(faults: Sequence[Fault], config: ClusterConfig, place: str = "") -> None:
    """Raises BadInput, one line that begins with `place`, for the first fault of a worker or a link
    that the cluster has not."""
    workers, links = len(config.workers), set(config.links())
    for number, fault in enumerate(faults, 1):
        named = [one for group in fault.groups for one in group]
        named += [] if fault.worker is None else [fault.worker]
        for worker in named:
            if worker >= workers:
                raise BadInput(
                    f"{place}[[fault]] number {number}: {worker}: must be a worker's id in the "
                    f"cluster, 0 to {workers - 1}"
                )
        if fault.link is not None and (min(fault.link), max(fault.link)) not in links:
            raise BadInput(
                f"{place}[[fault]] number {number}: link = {shown(list(fault.link))}: is no link "
                "of the cluster"
            )


def random_faults(
    seed: int, workers: int, links: Sequence[Link], horizon_s: float
) -> tuple[Fault, ...]:
    """About FAULTS_PER_RUN of all kinds, at irregular times up to the horizon; they overlap."""
    draws = Stream(seed, "faults")
    mean_gap_s = horizon_s / FAULTS_PER_RUN / (1 - BURST_SHARE)
    faults: list[Fault] = []
    at_s = draws.between(0.0, mean_gap_s)
    while at_s < horizon_s:
        faults.append(_drawn(draws, round(at_s, 3), workers, links))
        if draws.uniform() >= BURST_SHARE:
            at_s += draws.between(0.0, 2 * mean_gap_s)
    return tuple(faults)


def _drawn(draws: Stream, at_s: float, workers: int, links: Sequence[Link]) -> Fault:
    name = draws.pick(tuple(KINDS))
    kind = KINDS[name]
    target = draws.pick(kind.targets)
    link = draws.pick(links)
    order = draws.permutation(workers).tolist()
    low = 1 + draws.below(workers - 1)
    seconds = draws.pick(DURATIONS_S) * draws.between(0.5, 1.5)
    return Fault(
        at_s,
        name,
        worker=draws.below(workers) if target == "worker" else None,
        link=draws.pick((link, (link[1], link[0]))) if target == "link" else None,
        groups=_drawn_groups(name, order, low) if target == "groups" else (),
        for_s=round(seconds, 3) if kind.lasts else 0.0,
        factor=_drawn_factor(draws, kind),
        jump_s=round(JUMP_S * draws.between(-1.5, 1.5), 3) if kind.jumps else 0.0,
    )


def _drawn_groups(name: str, order: list[int], low: int) -> tuple[tuple[int, ...], ...]:
    """All workers on two sides; or some, one after the other."""
    return (tuple(order[:low]),) if name == "swizzle" else (tuple(order[:low]), tuple(order[low:]))


def _drawn_factor(draws: Stream, kind: Kind) -> float:
    """From half the default to half as much again."""
    default, least, greatest = kind.factor or (1.0, 1.0, 1.0)
    return round(min(greatest, max(least, default * draws.between(0.5, 1.5))), 3)
