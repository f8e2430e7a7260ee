"""`mpls generate`: a cluster file from a few words."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from mpls.cli.options import write_or_print
from mpls.config import ClusterConfig, builtin, changed, dumps
from mpls.config.tables import DATASETS, MODELS, PARTITIONS
from mpls.core.settings import STRATEGIES
from mpls.errors import BadInput
from mpls.topology import GAP_WORKERS, KINDS, spectral_gap

MODEL_WORDS = f"One of {', '.join(MODELS)}, or package.module:factory"
STRATEGY_WORDS = f"One of {', '.join(STRATEGIES)}, or package.module:Class"
WORKERS = 3
HOST = "127.0.0.1"
PORT = 5700
SUITS = {
    "digits": ("simple-mlp", 0.1),
    "mnist": ("simple-mlp", 0.1),
    "fashion-mnist": ("lenet5", 0.05),
    "cifar10": ("nin", 0.02),
    "cifar100": ("resnet18", 0.05),
}
"""A model and a learning rate that each data set begins well with."""
CLASSES = {"cifar100": 100}
"""Where they are not 10."""
KEYS = {
    "name": ("cluster", "name"),
    "topology": ("cluster", "topology"),
    "random_prob": ("cluster", "random_prob"),
    "degree": ("cluster", "degree"),
    "seed": ("cluster", "seed"),
    "dataset": ("data", "dataset"),
    "partition": ("data", "partition"),
    "alpha": ("data", "alpha"),
    "model": ("model", "name"),
    "strategy": ("mpls", "strategy"),
}
"""Table and key that a flag sets."""


@click.command("generate")
@click.option(
    "--topology",
    type=click.Choice(list(KINDS)),
    default="ring",
    show_default=True,
    help="Who may talk to whom.",
)
@click.option("--random-prob", type=float, help="Chance of a link (random, small-world).")
@click.option("--degree", type=int, help="Peers of each worker (k-regular, small-world).")
@click.option("--workers", type=click.IntRange(1, 100_000), help="How many.  [default: 3]")
@click.option("--addresses", help="host:port of each worker, with commas between.")
@click.option("--base-address", help=f"Host of all workers.  [default: {HOST}]")
@click.option("--base-port", type=int, help=f"Worker i listens on this plus i.  [default: {PORT}]")
@click.option(
    "--dataset",
    type=click.Choice(DATASETS),
    default="digits",
    show_default=True,
    help="What is learned; the digits need no files.",
)
@click.option("--model", help=f"{MODEL_WORDS}.  [default: suits the data set]")
@click.option(
    "--partition",
    type=click.Choice(PARTITIONS),
    default="dirichlet",
    show_default=True,
    help="How samples are dealt to workers.",
)
@click.option("--alpha", type=float, help="Skew of dirichlet; small is skewed.")
@click.option("--strategy", help=f"{STRATEGY_WORDS}.")
@click.option("--seed", type=int, help="Of everything that is drawn.")
@click.option("--name", default="cluster", show_default=True, help="Of the runs' folders.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File; without it, stdout.")
@click.option("--split", is_flag=True, help="One file for each worker, beside OUTPUT.")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def command(output: Path | None, split: bool, force: bool, **flags: Any) -> None:
    """Write a cluster file with every key, ready to be edited.

    \b
    Examples:
      mpls generate --workers 5 -o cluster.toml
      mpls generate --topology random --random-prob 0.3 --workers 10 --base-port 6000
      mpls generate --addresses 192.0.2.11:50051,192.0.2.12:50051 -o cluster.toml --split
    """
    if split and output is None:
        raise click.UsageError("--split needs --output, beside which the files are written")
    config = generate(**flags)
    files = _files(config, output, split)
    for path, _ in files:
        if path is not None and path.exists() and not force:
            raise BadInput(f"{path}: exists already; --force overwrites it")
    for path, text in files:
        write_or_print(path, text)
    _remark(config)


def generate(
    *,
    workers: int | None,
    addresses: str | None,
    base_address: str | None,
    base_port: int | None,
    **flags: Any,
) -> ClusterConfig:
    """The validated cluster that these flags describe; None takes the default. BadInput names the
    flag's table and key."""
    places = _places(workers, addresses, base_address, base_port)
    model, lr = SUITS[flags["dataset"]]
    tables: dict[str, Any] = {
        "workers": [{"id": worker, "address": place} for worker, place in enumerate(places)],
        "model": {"name": model},
        "training": {"lr": lr},
    }
    for flag, (table, key) in KEYS.items():
        if flags[flag] is not None:
            tables.setdefault(table, {})[key] = flags[flag]
    if flags["partition"] == "classes":
        tables["data"]["classes"] = _classes(len(places), CLASSES.get(flags["dataset"], 10))
    config = changed(builtin(), tables)
    # Real links have a pace of their own.
    return config if config.all_loopback() else changed(config, {"network": {"emulate": ""}})


def _places(
    workers: int | None, addresses: str | None, base_address: str | None, base_port: int | None
) -> list[str]:
    if addresses is None:
        host = base_address or HOST
        port = PORT if base_port is None else base_port
        # Port 0 is any free one, for each worker.
        return [f"{host}:{port and port + worker}" for worker in range(workers or WORKERS)]
    if base_address is not None or base_port is not None:
        raise click.UsageError("--addresses and --base-address or --base-port exclude each other")
    places = [place.strip() for place in addresses.split(",")]
    if workers not in (None, len(places)):
        raise click.UsageError(f"--workers {workers}, but --addresses names {len(places)}")
    return places


def _classes(workers: int, classes: int) -> list[list[int]]:
    """Even stretches of the class numbers; with more workers than classes, some share one."""
    cuts = [worker * classes // workers for worker in range(workers + 1)]
    return [list(range(low, max(low + 1, high))) for low, high in pairwise(cuts)]


def _files(
    config: ClusterConfig, output: Path | None, split: bool
) -> list[tuple[Path | None, str]]:
    text = dumps(config)
    if not split or output is None:
        return [(output, f"# Written by `mpls generate`.\n\n{text}")]
    files: list[tuple[Path | None, str]] = []
    for worker in config.workers:
        path = output.with_name(f"{output.stem}-{worker.name}{output.suffix}")
        command = f"mpls worker {path.name} --id {worker.id}"
        comment = f"# For worker {worker.id}, which listens at {worker.address}. Run there:"
        files.append((path, f"{comment}\n#   {command}\n\n{text}"))
    return files


def _remark(config: ClusterConfig) -> None:
    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)
    if len(config.workers) <= GAP_WORKERS:
        gap = spectral_gap(config.peers)
        kind = config.cluster.topology
        click.echo(f"{kind} of {len(config.workers)} workers: spectral gap {gap:.3f}", err=True)
