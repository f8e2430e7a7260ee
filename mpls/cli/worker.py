"""`mpls worker`: one worker of a cluster, in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("worker")
@click.argument("cluster", type=click.Path(path_type=Path))
@click.option("--id", "worker_id", type=int, required=True, help="Which [[workers]] table to run.")
@click.option("--out", type=str, help="Folder for runs, instead of the file's [cluster] out.")
def command(cluster: Path, worker_id: int, out: str | None) -> None:
    """Run one worker of CLUSTER here, until its rounds are done or it is told to stop.

    The same file serves on every machine, each with its own id. SIGTERM or Ctrl-C drains: the
    worker finishes its step, tells its peers, and exits with 0.

    \b
    Example, in three terminals (give the workers fixed ports first):
      mpls worker cluster.toml --id 0
      mpls worker cluster.toml --id 1
      mpls worker cluster.toml --id 2
    """
    from mpls.preflight import prepare
    from mpls.runtime.folders import new_folder
    from mpls.runtime.process import run_worker

    config = prepare(cluster, out=out, worker_id=worker_id).config
    folder = new_folder(config.cluster.out, f"{config.cluster.name}-w{worker_id}")
    click.echo(f"worker {worker_id} of {cluster}: trace and weights in {folder}", err=True)
    sys.exit(run_worker(config, worker_id, folder))
