"""`python -m sim whatif RUN`: a finished run priced anew under other links or another strategy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from mpls.errors import BadInput

if TYPE_CHECKING:
    from sim.compare.course import Run

CHANGES = {
    "bw": ("network", "emulate"),
    "nic": ("network", "nic"),
    "strategy": ("mpls", "strategy"),
    "scheduler": ("mpls", "scheduler"),
}
"""Flags, and the keys of the cluster file that they stand for."""


@click.command("whatif", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--bw", help="Other links, such as 5MB or 5-10MB.")
@click.option("--nic", help="Other cards, such as 12.5MB.")
@click.option("--strategy", help="Another strategy, such as netmax.")
@click.option("--scheduler", help="list or eft.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: Path, as_json: bool, **flags: str | None) -> int:
    """Say what a finished run would have taken under other links or with another strategy.

    RUN is the folder of a finished `mpls run`. The times of its computing and the progress of its
    layers are replayed, its transfers simulated. How accuracy would have changed a replay cannot
    know: `python -m sim --config RUN/cluster.toml` trains anew.

    \b
    Example:
      python -m sim whatif runs/latest --bw 5MB --strategy netmax

    Exit codes: 0 done, 2 bad input.
    """
    asked = {name: value for name, value in flags.items() if value is not None}
    if not asked:
        raise BadInput(f"whatif: nothing is changed; give one of --{', --'.join(CHANGES)}")
    priced = _priced(run, asked)
    if as_json:
        click.echo(json.dumps({name: price.plain() for name, price in priced.items()}))
    else:
        _show(priced, asked)
    return 0


@dataclass(frozen=True)
class Price:
    """What a run took."""

    seconds: float
    """Until the last worker had mixed its last round."""
    round_s: float
    """Mean over all rounds of all workers but their first."""
    pulled_bytes: int

    def plain(self) -> dict[str, Any]:
        """For --json."""
        return dict(vars(self))


def _priced(folder: Path, asked: Mapping[str, str]) -> dict[str, Price]:
    from mpls.config import changed
    from sim.compare.course import read_course

    live = read_course(folder)
    tables: dict[str, dict[str, str]] = {}
    for name, value in asked.items():
        table, key = CHANGES[name]
        tables.setdefault(table, {})[key] = value
    config = changed(live.recorded.config, tables)
    return {
        "live": price(live),
        "replayed": price(_replayed(live, live.recorded.config)),
        "what if": price(_replayed(live, config)),
    }


def _replayed(live: Run, config: Any) -> Run:
    from sim import calibration
    from sim.compare.course import read_course
    from sim.point import Point, simulate

    point = Point(config, calibration.load(), "replay", of=live.recorded, full_trace=True)
    with TemporaryDirectory() as folder:
        simulate(point, Path(folder))
        return read_course(Path(folder))


def price(run: Run) -> Price:
    """Of a run, live or simulated. BadInput where no worker did two rounds."""
    rounds_s = [seconds for one in run.courses for seconds in one.round_s]
    if not rounds_s:
        raise BadInput(f"{run.recorded.place}: no worker did two rounds; nothing to price")
    pulled = sum(one.bytes for worker in run.recorded.workers for one in worker.transfers)
    ended_s = max(one.ends_s[-1] for one in run.courses if one.ends_s)
    began_s = min(one.ends_s[0] for one in run.courses if one.ends_s)
    return Price(ended_s - began_s, mean(rounds_s), pulled)


def _show(priced: Mapping[str, Price], asked: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "after round 1, s", "mean round, s", "pulled, MB", "against replayed"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    base = priced["replayed"]
    names = {"live": "live", "replayed": "replayed as it was"}
    for key, one in priced.items():
        name = names.get(key) or " ".join(f"--{flag} {value}" for flag, value in asked.items())
        change = f"{one.seconds / base.seconds - 1:+.1%}"
        cells = (f"{one.seconds:.2f}", f"{one.round_s:.4f}", f"{one.pulled_bytes / 1e6:.1f}")
        table.add_row(name, *cells, "" if key == "replayed" else change)
    Console(width=100, highlight=False).print(table)
