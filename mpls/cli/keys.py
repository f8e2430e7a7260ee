"""`mpls keys`: the key pairs with which the workers of a cluster know each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpls.config import load
from mpls.errors import BadInput

if TYPE_CHECKING:
    from mpls.runtime.keys import KeyFiles


@click.command("keys")
@click.argument("cluster", type=click.Path(path_type=Path))
@click.option("--rotate", metavar="NAME", help="Give this worker a new key pair.")
def command(cluster: Path, rotate: str | None) -> None:
    """Make a key pair for each worker of CLUSTER.toml that has none.

    Public keys go into CLUSTER.keys.toml, each secret key into a file of its own,
    CLUSTER.keys/NAME.secret, that only you can read. Keys that exist are never overwritten.

    Every server needs CLUSTER.toml, CLUSTER.keys.toml and the secret of its own worker, nothing
    else. Running workers read the public keys anew when they are sent SIGHUP; a worker with a new
    key is started anew.

    \b
    Examples:
      mpls keys configs/three-servers.toml
      mpls keys cluster.toml --rotate w1
    """
    from mpls.runtime.keys import KeyFiles

    names = [worker.name for worker in load(cluster).present]
    if rotate not in (None, *names):
        raise BadInput(f"{cluster}: there is no worker {rotate}; its workers: {', '.join(names)}")
    files = KeyFiles(cluster)
    became = files.make(names, rotate)
    _print(files, became)
    for stranger in files.ring(names).strangers:
        click.echo(f"warning: {files.public}: {stranger} is no worker of {cluster}", err=True)


def _print(files: KeyFiles, became: dict[str, str]) -> None:
    keys = files.read_public()
    rows = [("worker", "public key", "secret key", "")]
    rows += [(name, keys[name], str(files.secret(name)), what) for name, what in became.items()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
    click.echo(f"public keys: {files.public}")
