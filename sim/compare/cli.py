"""`python -m sim compare RUN...`: what live runs did, beside what the twin says they would do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mpls.errors import BadInput

COLUMNS = 100
OUTSIDE = 1
"""Exit code when a metric is outside its goal."""
JSON_FILE, PAGE_FILE = "compare.json", "report.html"
FOLDER = click.Path(path_type=Path)


@click.command("compare", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True, type=FOLDER, metavar="RUN...")
@click.option(
    "--calibration",
    type=FOLDER,
    help="File of `mpls calibrate`, or another run's folder.  [default: calibration.json of the "
    "first run, else the shipped one]",
)
@click.option("--bw", help="What the links really had, where [network] emulate did not pace them.")
@click.option("--vary", help="What is known to have changed on the links, as for `python -m sim`.")
@click.option("--exact", is_flag=True, help="Only metrics 1 and 2: decisions and bytes, no times.")
@click.option("--jobs", type=click.IntRange(1), help="Processes that train.  [default: all cores]")
@click.option("--out", type=FOLDER, help="Folder of what is written.  [default: the first run]")
@click.option("--json", "as_json", is_flag=True, help="Print compare.json and nothing else.")
def command(
    runs: tuple[Path, ...],
    calibration: Path | None,
    bw: str | None,
    vary: str | None,
    exact: bool,
    jobs: int | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Simulate what live runs did, and say how far off that is.

    RUN is the folder of a finished `mpls run`; several are repeats (seeds of their own) or other
    strategies of the same cluster. Metrics 1 and 2 replay every decision and count every byte
    again; the others compare times, accuracy, ranking and staleness. What a metric needs and the
    runs have not is n/a. compare.json and report.html are left beside the first run; --exact takes
    a moment and leaves only the former.

    Exit codes: 0 all goals are met, 1 some are not, 2 bad input.
    """
    say = _silent if as_json else _said
    from sim.compare.exact import exactly
    from sim.compare.work import Comparison
    from sim.variation import NONE, parse_variation

    varied = parse_variation(vary) if vary else NONE
    of, folder = _read(runs, bw), out or runs[0]
    if exact:
        metrics, page = exactly(of), None
    else:
        _demand_whole(of)
        found = Comparison(of, _calibrated(calibration, runs, say), varied, jobs, say)
        metrics, page = found.metrics(), found.write_page
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([one.plain() for one in metrics], indent=1, allow_nan=False)
    (folder / JSON_FILE).write_text(f"{text}\n", encoding="utf-8")
    if page:
        page(folder / PAGE_FILE)
    if as_json:
        click.echo(text)
    else:
        _show(metrics)
        click.echo(f"\n{folder}: {f'{JSON_FILE}, {PAGE_FILE}' if page else JSON_FILE}")
    return OUTSIDE if any(one.met is False for one in metrics) else 0


def _read(folders: Sequence[Path], bw: str | None) -> list[Any]:
    from mpls.config import changed
    from mpls.units import parse_bandwidth
    from sim.compare.course import read_course, with_config

    runs = [read_course(folder) for folder in folders]
    for folder, run in zip(folders, runs):
        if run.recorded.config.speaks("grpc"):
            raise BadInput(
                f"{folder}: layers travelled by gRPC; the twin knows ZeroMQ's bytes only"
            )
    if len({run.recorded.sha256 for run in runs}) < len(runs):
        raise BadInput("compare: one run is named twice")
    if bw is None:
        return runs
    table = {"network": {"emulate": str(parse_bandwidth(bw))}}
    return [with_config(run, changed(run.recorded.config, table)) for run in runs]


def _demand_whole(runs: Sequence[Any]) -> None:
    """A twin begins at the beginning."""
    for run in runs:
        for name, records in run.records.items():
            if any(it["kind"] == "header" and it.get("resumed") is not None for it in records):
                raise BadInput(
                    f"{run.recorded.place}: {name} began with a checkpoint, where no twin can;"
                    " --exact judges its decisions and bytes"
                )


def _calibrated(given: Path | None, runs: Sequence[Path], say: Callable[[str], None]) -> Any:
    """From a file, or from a run that is not judged."""
    from sim import calibration
    from sim.compare.calibrate import calibration_of
    from sim.compare.course import read_course
    from sim.recorded import read_run

    if given is not None and given.is_dir():
        run = read_course(given)
        if any(run.recorded.sha256 == read_run(folder).sha256 for folder in runs):
            raise BadInput(
                f"--calibration {given}: this run is judged, too; calibrate with another one"
            )
        return calibration_of(run, calibration.load())
    beside = runs[0] / "calibration.json"
    if given is None and not beside.is_file():
        say("note: the shipped calibration is of another machine; --calibration has a better one")
        return calibration.load()
    return calibration.load(given or beside)


def _show(metrics: Sequence[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "metric", "goal", "value", "off by", "verdict"):
        table.add_column(name, justify="right" if name in ("goal", "value", "off by") else "left")
    for one in metrics:
        signed = "" if one.signed_error is None else f"{one.signed_error:+.1%}"
        cells = (str(one.number), one.name, one.goal, one.shown, signed, one.verdict)
        table.add_row(*cells)
    Console(width=COLUMNS, highlight=False).print(table)
    for one in metrics:
        if one.note and one.met is not True:
            click.echo(f"{one.number} {one.verdict}: {one.note}")


def _said(text: str) -> None:
    click.echo(text, err=True)


def _silent(_: str) -> None:
    return
