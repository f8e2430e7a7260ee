"""`mpls worker`: one worker of a cluster, in this process."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpls.cli.options import calibration_option
from mpls.errors import INTERRUPTED

if TYPE_CHECKING:
    from mpls.config import ClusterConfig


@click.command("worker")
@click.argument("cluster", type=click.Path(path_type=Path))
@click.option("--id", "worker_id", type=int, required=True, help="Which [[workers]] table to run.")
@click.option("--out", type=str, help="Folder for runs, instead of the file's [cluster] out.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of its checkpoints.  [default: <cluster name>-<worker name>.state in --out]",
)
@click.option(
    "--resume/--fresh",
    default=True,
    show_default=True,
    help="Go on with the newest checkpoint, if there is one; or set all aside and begin anew.",
)
@calibration_option
def command(
    cluster: Path,
    worker_id: int,
    out: str | None,
    state: Path | None,
    resume: bool,
    calibration: Path | None,
) -> None:
    """Run one worker of CLUSTER here, until its rounds are done or it is told to stop.

    The same file serves on every machine, each with its own id. SIGTERM or Ctrl-C drains: the
    worker finishes its step, tells its peers, and exits with 0, or 130 after Ctrl-C; a second
    Ctrl-C kills. SIGHUP makes it read CLUSTER anew for workers that joined or left, and the public
    keys where links are encrypted.

    However it ended, the same command goes on where its newest checkpoint was made ([checkpoint]
    every_rounds).

    \b
    Example, in three terminals (give the workers fixed ports first):
      mpls worker cluster.toml --id 0
      mpls worker cluster.toml --id 1
      mpls worker cluster.toml --id 2
    """
    from mpls.config import dumps
    from mpls.preflight import prepare
    from mpls.runtime.folders import calibration_here, keep_calibration, new_folder
    from mpls.runtime.process import run_worker

    began_s = time.monotonic()
    prepared = prepare(cluster, out=out, worker_id=worker_id)
    config = prepared.config
    name = config.worker(worker_id).name
    state = state or Path(config.cluster.out) / f"{config.cluster.name}-{name}.state"
    measured, warning = calibration_here(calibration)
    if warning:
        click.echo(f"warning: {warning}", err=True)
    folder = new_folder(config.cluster.out, f"{config.cluster.name}-w{worker_id}")
    (folder / "cluster.toml").write_text(dumps(config), encoding="utf-8")
    keep_calibration(measured, folder)
    click.echo(f"worker {worker_id} of {cluster}: trace and weights in {folder}", err=True)
    code = run_worker(
        config,
        worker_id,
        folder,
        keys=prepared.keys,
        adapter=prepared.adapter,
        state=state,
        fresh=not resume,
        cluster=cluster,
    )
    _sum_up(config, worker_id, folder, code, time.monotonic() - began_s)
    sys.exit(code)


def _sum_up(config: ClusterConfig, worker_id: int, folder: Path, code: int, seconds: float) -> None:
    """Leave the summary that a run of all workers leaves, with this one in it."""
    from mpls.report.progress import TraceFollower, WorkerProgress
    from mpls.report.summary import summarise, write

    worker = WorkerProgress(config.worker(worker_id).name)
    for record in TraceFollower(folder / f"{worker.name}.trace.jsonl").new_records():
        worker.take(record)
    stopped = code == INTERRUPTED or (code == 0 and worker.round < config.training.rounds)
    status = "interrupted" if stopped else "failed" if code else "completed"
    summary = summarise(
        [worker],
        [code],
        folder,
        status=status,
        strategy=config.mpls.strategy,
        seconds=seconds,
        ids=[worker_id],
    )
    write(summary, folder)
