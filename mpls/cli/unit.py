"""`mpls unit`: what a worker's systemd unit needs besides the template."""

from __future__ import annotations

from pathlib import Path

import click

from mpls.cli.options import write_bytes, write_or_print


@click.command("unit")
@click.argument("cluster", type=click.Path(path_type=Path), required=False)
@click.option("--id", "worker_id", type=int, help="Which [[workers]] table it is for.")
@click.option(
    "--template",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the units that are the same on every server into DIR instead.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File to write instead of stdout.",
)
def command(
    cluster: Path | None, worker_id: int | None, template: Path | None, output: Path | None
) -> None:
    """Write the drop-in of one worker's systemd unit.

    The unit mpls-worker@.service is the same on every server, and lets a worker talk to its own
    machine only. The drop-in allows the addresses of this worker's peers, and says what else the
    cluster file decides: threads, keys, devices. The names of peers are resolved on this machine.

    \b
    Example, on the server of worker 0:
      mpls unit --template /etc/systemd/system
      mkdir -p /etc/systemd/system/mpls-worker@0.service.d
      mpls unit cluster.toml --id 0 -o /etc/systemd/system/mpls-worker@0.service.d/cluster.conf
      systemctl daemon-reload
      systemctl enable --now mpls-worker@0
    """
    from mpls.config import load
    from mpls.deploy.unit import drop_in
    from mpls.preflight import check_worker, named

    if template is not None:
        if cluster is not None or worker_id is not None or output is not None:
            raise click.UsageError("--template goes without CLUSTER, --id and --output")
        _write_units(template)
        return
    if cluster is None or worker_id is None:
        raise click.UsageError("CLUSTER and --id are needed, or --template DIR")
    config = load(cluster)
    with named(cluster):
        check_worker(config, worker_id)
        text = drop_in(config, worker_id)
    write_or_print(output, text)


def _write_units(folder: Path) -> None:
    from mpls.deploy.unit import unit_files

    for name, text in unit_files().items():
        write_bytes(folder / name, text.encode())
