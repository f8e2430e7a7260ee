"""The command line of the twin: what a sweep is asked for. Heavy imports wait until it is known."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mpls import __version__
from mpls.core.settings import SCHEDULERS, STRATEGIES
from mpls.endings import ended
from mpls.errors import BadInput, shown
from mpls.units import parse_bandwidths

NETS = ("links", "fluid", "fluid-fast", "wifi", "lv08", "trace")
TRAINS = ("real", "model", "replay")
OF_THE_RECORDED = ("workers", "dataset", "model", "partition")
"""What a replay has from its run."""
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
    type=click.Choice(TRAINS),
    default="real",
    show_default=True,
    help="Really train; `model` takes seconds and progress from the calibration, without accuracy; "
    "`replay` takes them from a recorded run.",
)
@_option(
    "--net",
    type=click.Choice(NETS),
    default="fluid",
    show_default=True,
    help="Who shares what with whom; `links` is the paper's Eq. 7, where nobody does; with `trace` "
    "transfers last as in a recorded run.",
)
@_option(
    "--of",
    type=click.Path(path_type=Path),
    help="Recorded run for `replay` and `trace`: a folder of `mpls run`, or of --trace full.",
)
@_option(
    "--vary",
    multiple=True,
    help="Links in time: step:10=0.5,30=1, sine:swing=.3,period=60, ar1:sd=.2,correlation=.9, or "
    "file:rates.csv instead of --bw. Several times for a grid.",
)
@_option("--faults", help="A file of [[fault]] tables, or `seeded`, or seed=N: drawn ones.")
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
    type=click.Choice(["loky", "dask", "ray"]),
    default="loky",
    show_default=True,
    help="Processes here, or a cluster of Dask or Ray.",
)
@_option("--scheduler-address", help="Of the cluster, such as tcp://192.0.2.1:8786.")
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
      python -m sim --vary step:10=0.5,30=1 --faults seeded
      python -m sim --of runs/latest --train replay --net trace
      python -m sim --resume runs/latest-sim
      python -m sim compare runs/latest           (see compare --help)
      python -m sim whatif runs/latest --bw 5MB   (see whatif --help)

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
    if flags["scheduler_address"] and flags["backend"] == "loky":
        raise BadInput("--scheduler-address: only with --backend dask or ray")
    _check_links(flags)
    if not flags["resume"]:
        _check_recorded(flags)


def _check_links(flags: dict[str, Any]) -> None:
    if flags["vary"] and flags["net"] in ("wifi", "trace"):
        raise BadInput(f"--vary: --net {flags['net']} has no links to vary; use --net fluid")
    if flags["bw"] and any(text.strip().startswith("file:") for text in flags["vary"]):
        raise BadInput("--vary file: has the rates of all links; leave out --bw")
    for name in ("bw", "nic"):
        if flags[name] and flags["net"] == "trace":
            raise BadInput(f"--{name}: with --net trace transfers last as recorded; leave it out")


def _check_recorded(flags: dict[str, Any]) -> None:
    """A recorded run is given where it is needed, and only there."""
    replayed = flags["train"] == "replay"
    if replayed and not flags["of"]:
        raise BadInput("--train replay: of which run? --of runs/latest, a folder of `mpls run`")
    if flags["net"] == "trace" and not flags["of"]:
        raise BadInput("--net trace: of which run? --of runs/latest, a folder of `mpls run`")
    if not flags["of"]:
        return
    if not replayed and flags["net"] != "trace":
        raise BadInput("--of: is for --train replay and --net trace; add one of them")
    if flags["config"]:
        raise BadInput("--of: has a cluster file of its own; leave out --config")
    for name in OF_THE_RECORDED if replayed else ():
        if flags[name]:
            raise BadInput(f"--{name}: a replay has that of the recorded run; leave it out")


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = sys.argv[1:] if args is None else args
    if given[:1] == ["compare"]:
        from sim.compare.cli import command as compare

        return ended(compare, given[1:], "python -m sim compare")
    if given[:1] == ["whatif"]:
        from sim.compare.whatif import command as whatif

        return ended(whatif, given[1:], "python -m sim whatif")
    return ended(command, given, "python -m sim")
