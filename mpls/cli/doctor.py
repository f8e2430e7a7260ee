"""`mpls doctor`: what would keep a cluster from running, seen from one of its machines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mpls.doctor import Finding

PIPED_COLUMNS = 10_000


@click.command("doctor")
@click.argument("cluster", type=click.Path(path_type=Path))
@click.option(
    "--id",
    "worker_id",
    type=int,
    help="Which worker is to run here.  [default: all whose address this machine has]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(cluster: Path, worker_id: int | None, as_json: bool) -> None:
    """Say all that can be known of CLUSTER.toml on this machine before it starts.

    Versions, the file, addresses, keys, ports, data, model, room for it all, and each link from
    the workers that live here: a real hello to whoever listens already, the models compared, the
    round trip and the rate measured. Who does not listen yet is a warning. Nothing is changed; a
    worker that runs is not disturbed.

    Exit 1 if anything fails, 2 for a file or id that cannot be used.

    \b
    Examples:
      mpls doctor cluster.toml
      mpls doctor cluster.toml --id 1
      mpls doctor cluster.toml --json | jq '.findings[] | select(.level == "FAIL")'
    """
    from mpls.doctor import Doctor

    doctor = Doctor(cluster, worker_id, lambda what: click.echo(f"{what} ...", err=True))
    doctor.examine()
    plain = doctor.as_plain()
    if as_json:
        click.echo(json.dumps(plain, allow_nan=False))
    else:
        _print(doctor.findings)
        good = len(doctor.findings) - plain["failures"] - plain["warnings"]
        click.echo(f"{plain['failures']} fail, {plain['warnings']} to look at, {good} are well")
    sys.exit(1 if plain["failures"] else 0)


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Whoever reads a pipe wants a line for each finding, however long.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    styles = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
    for it in findings:
        then = f"{it.value}  -> {it.remedy}" if it.remedy else it.value
        table.add_row(Text(it.level, styles[it.level]), Text(it.what), Text(then))
    console.print(table)
