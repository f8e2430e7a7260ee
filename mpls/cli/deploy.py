"""`mpls deploy`: a cluster onto its servers, and what is done with it there."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpls.errors import BadInput

if TYPE_CHECKING:
    from mpls.deploy.inventory import Server
    from mpls.deploy.session import Remote

DEFAULT = "up"
WHEELHOUSE = Path("wheelhouse")
LOG_LINES = 50


class DeployGroup(click.Group):
    """`mpls deploy CLUSTER.toml` is short for `mpls deploy up CLUSTER.toml`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Whatever is no verb belongs to the default one."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are needed."""
        return list(self.commands)


cluster_argument = click.argument("cluster", type=click.Path(path_type=Path))
ssh_option = click.option(
    "--ssh-config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Instead of ~/.ssh/config.",
)
wheelhouse_option = click.option(
    "--wheelhouse",
    type=click.Path(path_type=Path, file_okay=False),
    default=WHEELHOUSE,
    show_default=True,
    metavar="DIR",
    help="What `mpls deploy build` made.",
)


@click.group(
    "deploy",
    cls=DeployGroup,
    subcommand_metavar="[CLUSTER | VERB CLUSTER]",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command() -> None:
    """Put a cluster onto its servers by ssh, and look after it there.

    Each [[workers]] table says where: ssh = "user@host". Servers need systemd, Python with venv,
    and a user that is root or may sudo without a password; no package index. Who cannot be reached,
    or is not fit, is found before anything is changed anywhere; the second time nothing is changed.

    \b
    From nothing to a running federation:
      mpls keys cluster.toml
      mpls deploy build
      mpls deploy cluster.toml --dry-run
      mpls deploy cluster.toml
      mpls deploy status cluster.toml

    Exit codes: 0 done, 1 failed, 2 bad input, 3 a server is not fit, 130 interrupted.
    """


@command.command(DEFAULT)
@cluster_argument
@wheelhouse_option
@ssh_option
@click.option("--dry-run", is_flag=True, help="Say every change, and make none.")
@click.option("--rollback", is_flag=True, help="Go back to the release before this one.")
@click.option("--fresh", is_flag=True, help="Begin anew; checkpoints there are set aside.")
def up(
    cluster: Path,
    wheelhouse: Path,
    ssh_config: Path | None,
    dry_run: bool,
    rollback: bool,
    fresh: bool,
) -> None:
    """Deploy: the verb where none is given.

    All servers are examined, then everything is brought to all of them beside what runs there, then
    one after the other is switched. One that fails goes back to what it had, and is the last; the
    same command goes on from there. --rollback leaves cluster file and keys as they are there.

    \b
    Examples:
      mpls deploy cluster.toml --dry-run
      mpls deploy cluster.toml
      mpls deploy cluster.toml --rollback
    """
    if rollback and fresh:
        raise click.UsageError("--rollback goes without --fresh")
    _demand_pyinfra()
    from mpls.deploy import wheelhouse as wheelhouses
    from mpls.deploy.material import take

    material = take(cluster)
    wheels = None if rollback else wheelhouses.read(wheelhouse)
    from mpls.deploy.deployment import deploy, roll_back

    if wheels is None:
        sys.exit(roll_back(material, ssh_config, dry_run))
    sys.exit(deploy(material, wheels, ssh_config, dry_run, fresh))


@command.command("build")
@wheelhouse_option
@click.option("--python", help="The servers' version, as 3.11.  [default: this one]")
@click.option(
    "--torch-index",
    metavar="URL",
    help='Where torch comes from, besides the default index.  [default: its wheels for CPUs; ""'
    " is the default index alone]",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A checkout of this project.  [default: where this one runs from]",
)
def build(
    wheelhouse: Path, python: str | None, torch_index: str | None, source: Path | None
) -> None:
    """Make a wheelhouse: all that servers need, at the versions of constraints.txt.

    The same sources make the same release. Wheels that are there already are not fetched again.

    \b
    Example:
      mpls deploy build --python 3.11
    """
    _demand_pyinfra()
    from mpls.deploy import build as building
    from mpls.deploy.wheelhouse import check_python

    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = building.build(
        wheelhouse,
        source or Path(__file__).parents[2],
        check_python(python or here),
        building.CPU_INDEX if torch_index is None else torch_index,
        lambda what: click.echo(f"{what} ...", err=True),
    )
    size = f"{len(made.wheels)} wheels, {made.total_bytes / 1e6:.0f} MB"
    click.echo(f"{wheelhouse}: {made.release}, {size}, for Python {made.python} on {made.machine}")


@command.command("status")
@cluster_argument
@ssh_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def status(cluster: Path, ssh_config: Path | None, as_json: bool) -> None:
    """Say how the workers are, and what runs.  Exit 1 if one does not, or cannot be asked."""
    from mpls.deploy import care

    session, remotes, lost = care.reached(_servers(cluster), ssh_config, _say)
    rows = [row for it in session.each(care.states, remotes).values() for row in _good(it)]
    session.close()
    if as_json:
        click.echo(json.dumps(rows))
    else:
        _print_states(rows)
    for name, why in lost.items():
        click.echo(f"error: {why}" if name in why else f"error: {name}: {why}", err=True)
    sys.exit(0 if not lost and all(row["healthy"] for row in rows) else 1)


@command.command("logs")
@cluster_argument
@ssh_option
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0), default=LOG_LINES, show_default=True)
def logs(cluster: Path, ssh_config: Path | None, follow: bool, lines: int) -> None:
    """Print what the workers' journals say, all of them interleaved."""
    from mpls.deploy import care

    session = care.connected(_servers(cluster), ssh_config, _say)
    if follow:
        care.follow(session.remotes, lines)
    else:
        for line in care.logs(session.remotes, lines):
            click.echo(line)
    session.close()


@command.command("start")
@cluster_argument
@ssh_option
def start(cluster: Path, ssh_config: Path | None) -> None:
    """Start the workers that do not run, and wait until they are ready."""
    from mpls.deploy import care

    _everywhere(cluster, ssh_config, care.start, "started")


@command.command("stop")
@cluster_argument
@ssh_option
def stop(cluster: Path, ssh_config: Path | None) -> None:
    """Let all workers drain and save themselves. They go on with `start`, or after a reboot."""
    from mpls.deploy import care

    _everywhere(cluster, ssh_config, care.stop, "stopped")


@command.command("restart")
@cluster_argument
@ssh_option
def restart(cluster: Path, ssh_config: Path | None) -> None:
    """Stop and start all workers, all servers at once."""
    from mpls.deploy import care

    _everywhere(cluster, ssh_config, care.restart, "restarted")


@command.command("rollback")
@cluster_argument
@ssh_option
@click.option("--dry-run", is_flag=True, help="Say every change, and make none.")
def rollback(cluster: Path, ssh_config: Path | None, dry_run: bool) -> None:
    """Go back to the release before this one: `mpls deploy CLUSTER --rollback`."""
    _demand_pyinfra()
    from mpls.deploy.deployment import roll_back
    from mpls.deploy.material import take

    sys.exit(roll_back(take(cluster), ssh_config, dry_run))


@command.command("fetch")
@cluster_argument
@ssh_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="A new folder, which becomes a run's.",
)
@click.option("--with-state", is_flag=True, help="Weights and checkpoints, too.")
def fetch(cluster: Path, ssh_config: Path | None, output: Path, with_state: bool) -> None:
    """Bring the present run's traces, logs and summaries here, for `python -m sim compare DIR`.

    A worker that was killed has lives before its latest: w0.trace.1.jsonl is the first of w0.
    """
    servers = _servers(cluster)
    from mpls.deploy import care
    from mpls.deploy import fetch as fetching

    folder = fetching.new_folder(output)
    session = care.connected(servers, ssh_config, _say)
    found = session.each(lambda remote: fetching.fetch(remote, folder, with_state))
    session.close()
    traces = [name for it in found.values() for name in _good(it)]
    click.echo(f"{folder}: {len(traces)} traces: {' '.join(sorted(traces))}")


@command.command("uninstall")
@cluster_argument
@ssh_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--purge", is_flag=True, help="Checkpoints, traces and logs of the workers, too.")
def uninstall(cluster: Path, ssh_config: Path | None, yes: bool, purge: bool) -> None:
    """Take everything from the servers, but for what the workers have written."""
    servers = _servers(cluster)
    what = "and all that the workers have written " if purge else ""
    if not yes:
        names = ", ".join(server.name for server in servers)
        click.confirm(f"remove releases, keys, units {what}from {names}?", abort=True)
    from mpls.deploy import care

    _everywhere(cluster, ssh_config, lambda remote: care.uninstall(remote, purge), "removed")


def _everywhere(
    cluster: Path, ssh_config: Path | None, do: Callable[[Remote], None], done: str
) -> None:
    """On all servers at once; RunFailed, when all are through, if it failed on any."""
    servers = _servers(cluster)
    from mpls.deploy import care

    session = care.connected(servers, ssh_config, _say)
    results = session.each(do)
    session.close()
    for remote, result in results.items():
        _say(remote.server, f"failed: {result}" if isinstance(result, Exception) else done)
    for result in results.values():
        _good(result)


def _servers(cluster: Path) -> list[Server]:
    _demand_pyinfra()
    from mpls.config import load
    from mpls.deploy.inventory import servers

    return servers(load(cluster))


def _good(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return [] if result is None else result


def _say(server: Server, what: str) -> None:
    click.echo(f"{server.name}  {what}")


def _print_states(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = ("worker", "server", "release", "state", "restarts", "says")
    for column in columns:
        table.add_column(column)
    for row in rows:
        style = "" if row["healthy"] else "bold red"
        table.add_row(*(str(row[column]) for column in columns), style=style)
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def _demand_pyinfra() -> None:
    """Raises BadInput where the extra is not installed."""
    if importlib.util.find_spec("pyinfra") is None:
        raise BadInput("mpls deploy needs pyinfra: pip install 'mpls-dfl[deploy]'")
