"""`mpls calibrate`: measure this machine for the twin."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from mpls.core.calibration import Measured


@click.command("calibrate")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("calibration.json"),
    show_default=True,
    help="The file to write.",
)
@click.option("--model", "models", multiple=True, help="Measure this model; may be repeated.")
@click.option("--quick", is_flag=True, help="About 10 s instead of a minute, and less exact.")
def command(out: Path, models: tuple[str, ...], quick: bool) -> None:
    """Measure what training and transfers cost on this machine, for `python -m sim`.

    Local steps alone and with transfers going on, mixing, publishing and tests; requests and pulls
    between two processes over loopback. Let the machine do nothing else meanwhile. Without --model:
    simple-mlp and lenet5 (with --quick only the first).

    \b
    Examples:
      mpls calibrate
      mpls calibrate --model resnet18 --out servers.json
      python -m sim --bw 10-15MB --calibration calibration.json
    """
    from mpls.errors import BadInput
    from mpls.runtime.calibrate import FULL, QUICK, calibrate
    from mpls.runtime.federation import warm_up

    if not out.parent.is_dir():
        raise BadInput(f"--out {out}: there is no folder {out.parent}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's own model lies
    warm_up()
    measured = calibrate(models, QUICK if quick else FULL, lambda what: click.echo(what, err=True))
    out.write_text(measured.dumps(), encoding="utf-8")
    _print(measured)
    click.echo(f"\nwritten to {out}")


def _print(measured: Measured) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    stamp = measured.stamp
    console.print(f"{stamp.host}: {stamp.cpu}, {stamp.cores} cores, kernel {stamp.kernel}")
    console.print(_step_table(measured))
    console.print(_rest_table(measured))


def _step_table(measured: Measured) -> Table:
    from rich.table import Table

    table = Table(title="a local step, ms", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("model")
    for heading in ("batch", "median", "fastest", "slowest", "with transfers", "test, ms"):
        table.add_column(heading, justify="right")
    for model in measured.models:
        for step in model.steps:
            values = (median(s := step.alone_s), s[0], s[-1], median(step.busy_s), model.test_s)
            table.add_row(model.name, str(step.batch_size), *(f"{1e3 * s:.3f}" for s in values))
    return table


def _rest_table(measured: Measured) -> Table:
    from rich.table import Table

    from mpls.units import format_rate

    network = measured.network
    table = Table(title=network.link, title_justify="left", box=None, padding=(0, 2, 0, 0))
    rows = {
        "round trip": f"{1e3 * median(network.round_trip_s):.3f} ms",
        "while both train": f"{1e3 * median(network.busy_round_trip_s):.3f} ms",
        "server's wait, delivery": f"{1e3 * network.serve_s:.3f}, {1e3 * network.deliver_s:.3f} ms",
        "as fast as it goes": format_rate(network.bandwidth_Bps),
        "share of the paced rate": f"{network.payload_share:.4f}",
        "both directions at once": f"{network.duplex_ratio:.3f} of one alone",
        "burst": f"{network.burst_bytes:.0f} bytes",
        "mixing two copies of 1 MB": f"{1e3 * measured.mix.seconds(1e6):.3f} ms",
        "publishing 1 MB": f"{1e3 * measured.publish.seconds(1e6):.3f} ms",
    }
    for what, value in rows.items():
        table.add_row(what, value)
    return table
