"""The command line of the twin: what a sweep is asked for. Heavy imports wait until it is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mpls import __version__
from mpls.core.settings import SCHEDULERS, STRATEGIES
from mpls.errors import BadInput, MplsError, shown
from mpls.units import parse_bandwidths

INTERRUPTED = 130
NETS = ("links", "fluid", "fluid-fast", "wifi", "lv08")
GOOD_UNTILS = "accuracy=0.9, seconds=100"
BANDWIDTH_WORDS = "10MB, 10-15MB (drawn for each link), 80Mbit, 1.5MiB; 5..25MB/5MB is a grid"
RESUMED_WITH = ("resume", "jobs", "backend", "scheduler_address", "as_json")
"""What may be said beside --resume; all else is as it was."""

Callback = Callable[[click.Context, click.Parameter, Any], Any]


def _bandwidths(_: click.Context, option: click.Parameter, text: str | None) -> list[str] | None:
    try:
        return None if text is None else [str(rate) for rate in parse_bandwidths(text)]
    except BadInput as error:
        raise BadInput(f"{option.opts[0]}: {error}") from None


def _words(_: click.Context, option: click.Parameter, text: str | None) -> list[str] | None:
    words = None if text is None else [word.strip() for word in text.split(",")]
    if words is not None and not all(words):
        raise BadInput(f"{option.opts[0]} = {shown(text)}: an entry is empty; good: a or a,b")
    return words


def _counts(_: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    words = _words(_, option, text)
    if words is None:
        return None
    if not all(re.fullmatch("[1-9][0-9]{0,5}", word) for word in words):
        raise BadInput(f"{option.opts[0]} = {shown(text)}: must be counts from 1, such as 3,30")
    return [int(word) for word in words]


def _until(_: click.Context, option: click.Parameter, text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    what, __, digits = text.partition("=")
    try:
        number = float(digits)
    except ValueError:
        number = -1.0
    limits = {"accuracy": 1.0, "seconds": 1e9}
    if not 0.0 < number <= limits.get(what, 0.0):
        raise BadInput(f"--until = {shown(text)}: must be like one of {GOOD_UNTILS}")
    return {what: number}


def _option(*names: str, listed: Callback | None = None, **about: Any) -> Callable[[Any], Any]:
    return click.option(*names, callback=listed, **about)


@click.command("sim", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sim")
@_option("--bw", listed=_bandwidths, help=f"Links, a second: {BANDWIDTH_WORDS}.")
@_option("--nic", listed=_bandwidths, help="Each worker's card, uplink and downlink each.")
@_option("--strategy", listed=_words, help=f"Of {', '.join(STRATEGIES)}, or package.module:Class.")
@_option("--scheduler", listed=_words, help=f"Of {', '.join(SCHEDULERS)}.")
@_option("--workers", listed=_counts, help="How many.  [default: as in the cluster, 3]")
@_option("--topology", listed=_words, help="ring, full, star, random, k-regular, small-world, ...")
@_option("--dataset", help="digits (embedded), mnist, fashion-mnist, cifar10, cifar100.")
@_option(
    "--model", listed=_words, help="simple-mlp, lenet5, nin, resnet18 or package.module:factory."
)
@_option("--partition", listed=_words, help="iid, dirichlet, main-label, shards.")
@_option(
    "--rounds",
    type=click.IntRange(1),
    help="Of each worker.  [default: 60, or the file's; with --until 1000]",
)
@_option("--until", listed=_until, help=f"Stop before that: {GOOD_UNTILS}.")
@_option("--seeds", type=click.IntRange(1, 10_000), help="Seeds 1 to this.  [default: 3]")
@_option("--seed", type=click.IntRange(0), help="This seed alone.")
@_option("--config", type=click.Path(), help="Cluster file, instead of the built-in cluster.")
@_option(
    "--calibration", type=click.Path(), help="Of `mpls calibrate`, instead of the shipped one."
)
@_option(
    "--train",
    type=click.Choice(["real", "model"]),
    default="real",
    show_default=True,
    help="Really train, or take seconds and progress from the calibration, without accuracy.",
)
@_option(
    "--net",
    type=click.Choice(NETS),
    default="fluid",
    show_default=True,
    help="Who shares what with whom; `links` is the paper's Eq. 7, where nobody does.",
)
@_option(
    "--overhead",
    type=click.Choice(["full", "none"]),
    default="full",
    show_default=True,
    help="Round trip, headers, token bucket and slow start.",
)
@_option(
    "--trace",
    type=click.Choice(["full", "summary"]),
    default="summary",
    show_default=True,
    help="Keep every record of every worker, or evaluations and mixings alone.",
)
@_option("--out", type=click.Path(path_type=Path), help="New folder.  [default: runs/sim-STAMP]")
@_option("--resume", type=click.Path(path_type=Path), help="Go on with the sweep in this folder.")
@_option("--jobs", type=click.IntRange(1), help="Points at a time.  [default: all cores]")
@_option(
    "--backend",
    type=click.Choice(["loky", "dask"]),
    default="loky",
    show_default=True,
    help="Processes here, or a Dask cluster.",
)
@_option("--scheduler-address", help="Of Dask, such as tcp://192.0.2.1:8786.")
@_option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def command(context: click.Context, /, **flags: Any) -> int:
    """Simulate a federation: the scheduling code that runs live, in virtual time.

    Lists with commas make a grid. Without flags: mpls, appg, netmax and local on the built-in
    cluster of three workers, three seeds, 60 rounds each. A ranking is printed, with 95 % bootstrap
    intervals over the seeds; points.jsonl, points.csv, ranking.png and report.html are left in the
    folder. Ctrl-C keeps the finished points, and --resume goes on.

    \b
    Examples:
      python -m sim --bw 10-15MB
      python -m sim --bw 5..25MB/5MB --strategy mpls,appg --seeds 5
      python -m sim --workers 30,300 --topology k-regular --train model
      python -m sim --config my-cluster.toml --until accuracy=0.9
      python -m sim --resume runs/latest-sim

    Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
    """
    from sim.session import conduct

    given = [name for name in flags if _is_given(context, name)]
    _check(flags, given)
    return conduct(flags)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _check(flags: dict[str, Any], given: list[str]) -> None:
    others = [name for name in given if name not in RESUMED_WITH]
    if flags["resume"] and others:
        raise BadInput(f"--resume goes on with the flags of that sweep; leave out --{others[0]}")
    if flags["seed"] is not None and flags["seeds"] is not None:
        raise BadInput("--seed is one seed, --seeds a count: give one of them")
    if flags["train"] == "model" and "accuracy" in (flags["until"] or {}):
        raise BadInput("--until accuracy: not known with --train model; use --train real")
    if flags["scheduler_address"] and flags["backend"] != "dask":
        raise BadInput("--scheduler-address: only with --backend dask")


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code. The only place where errors become messages."""
    try:
        result = command.main(args, prog_name="python -m sim", standalone_mode=False)
    except MplsError as error:
        click.echo(f"error: {' '.join(str(error).splitlines())}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return result if isinstance(result, int) else 0
