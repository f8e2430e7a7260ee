"""`mpls convert`: the earlier implementation's YAML files become one cluster file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from mpls.cli.old_files import TOPOLOGIES, OldFederation, read_federation
from mpls.cli.options import write_or_print
from mpls.config import ClusterConfig, builtin, changed, dumps
from mpls.errors import BadInput, shown

DATASETS = {
    "mnist": "mnist",
    "fashionmnist": "fashion-mnist",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
}
MODELS = {"simplemlp": "simple-mlp", "lenet5": "lenet5", "nin": "nin", "resnet18": "resnet18"}
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error"}
"""Their word, without dashes and in small letters -> ours."""


class Fate(NamedTuple):
    """What became of one key: where it is now, or why it is nowhere."""

    old: str
    value: Any
    became: str


@click.command("convert")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File; without it, stdout.")
@click.option(
    "--transport",
    type=click.Choice(["grpc", "zmq"]),
    default="grpc",
    show_default=True,
    help="How workers are reached: gRPC while some are still of the old kind.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def command(files: tuple[Path, ...], output: Path | None, transport: str, force: bool) -> None:
    """Make one cluster file of an earlier implementation's YAML FILES.

    Give the files of all workers, or a topology file, or all of them. What became of each key is
    printed; files that contradict each other are refused. See docs/migrating.md.

    \b
    Examples:
      mpls convert worker_0.yaml worker_1.yaml worker_2.yaml -o cluster.toml
      mpls convert topology.yaml -o cluster.toml --transport zmq
    """
    if output is not None and output.exists() and not force:
        raise BadInput(f"{output}: exists already; --force overwrites it")
    config, fates = convert(read_federation(files), transport, str(files[0]))
    write_or_print(output, f"# Written by `mpls convert`.\n\n{dumps(config)}")
    width = max(len(fate.old) for fate in fates)
    for fate in fates:
        click.echo(f"{fate.old:<{width}}  {shown(fate.value)}  {fate.became}", err=True)
    for warning in [*config.warnings, *_remarks(config)]:
        click.echo(f"warning: {warning}", err=True)


def convert(old: OldFederation, transport: str, source: str) -> tuple[ClusterConfig, list[Fate]]:
    """The cluster, and what became of each key. BadInput names the place of what cannot be."""
    fates = list(_fates(old))
    tables: dict[str, Any] = {
        "cluster": {"name": "migrated"},
        "workers": _workers(old),
        # Real links have a pace of their own.
        "network": {"transport": transport, "emulate": ""},
    }
    for table, key, value in _settings(old):
        tables.setdefault(table, {})[key] = value
    return changed(builtin(), tables, source), fates


def _workers(old: OldFederation) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = []
    for number, address in enumerate(old.addresses):
        table: dict[str, Any] = {"id": number, "address": address}
        if old.workers:
            speed = old.workers[number].values.get("system.compute_speed", 1.0)
            table |= {"peers": list(old.peers[number]), "speed": _as_float(speed)}
        workers.append(table)
    return workers


def _settings(old: OldFederation) -> Iterator[tuple[str, str, Any]]:
    """Table, key and value of whatever has a counterpart and is said."""
    if old.workers:
        yield "cluster", "topology", "listed"
    elif old.topology is not None:
        yield "cluster", "topology", _word(old.topology.text("topology_type"), TOPOLOGIES)
        if old.topology.has("random_graph_prob"):
            prob = _as_float(old.topology.values["random_graph_prob"])
            yield "cluster", "random_prob", prob
    for key, (table, name, translated) in _COUNTERPARTS.items():
        value = old.common(key)
        if value is not None:
            try:
                yield table, name, translated(value)
            except BadInput as error:
                saying = next(worker for worker in old.workers if worker.has(key))
                raise BadInput(f"{saying.place(key)}: {error}") from None
    level = old.common("data.non_iid_level")
    if level is not None:
        yield "data", "partition", "dirichlet" if level else "iid"
        if level:
            yield "data", "alpha", _as_float(level)


def _word(value: Any, words: dict[str, str]) -> str:
    plain = value.lower().replace("-", "") if isinstance(value, str) else ""
    found = words.get(plain) or words.get(plain.replace("_", ""))
    if found is None:
        raise BadInput(f"must be one of {', '.join(words)}")
    return found


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _same(value: Any) -> Any:
    return value


_COUNTERPARTS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "data.dataset": ("data", "dataset", lambda value: _word(value, DATASETS)),
    "training.batch_size": ("training", "batch_size", _same),
    "training.learning_rate": ("training", "lr", _as_float),
    "training.max_iterations": ("training", "rounds", _same),
    "mpls.tau1": ("mpls", "tau1", _as_float),
    "mpls.tau2": ("mpls", "tau2", _as_float),
    "model.name": ("model", "name", lambda value: _word(value, MODELS)),
    "system.device": ("training", "device", _same),
    "logging.level": ("logging", "level", lambda value: _word(value, LEVELS)),
}
_BECAME = {
    "worker_id": "[[workers]] id; its name is w and the id",
    "listen_address": "[[workers]] address, with the host by which its peers reach it",
    "peers": '[[workers]] peers, with [cluster] topology = "listed"',
    "data.partition_id": "no counterpart: worker i has shard i of a partition drawn from the seed",
    "data.non_iid_level": "[data] alpha of a Dirichlet partition; 0 is iid",
    "training.local_epochs": "[training] local_steps = 0, one pass; of more, give the minibatches",
    "system.compute_speed": "[[workers]] speed, for the simulator",
    "logging.dir": "[logging] dir; left out, since logs are in the run's folder",
    "topology_type": "[cluster] topology",
    "num_workers": "as many [[workers]] tables",
    "base_port": "[[workers]] address: plus the id",
    "base_address": "[[workers]] address",
    "random_graph_prob": "[cluster] random_prob; another graph is drawn, from the seed",
} | {key: f"[{table}] {name}" for key, (table, name, _) in _COUNTERPARTS.items()}


def _fates(old: OldFederation) -> Iterator[Fate]:
    """One for each key, with the value of the first file that has it."""
    told: set[str] = set()
    for file in (*old.workers, *filter(None, [old.topology])):
        for key, value in file.values.items():
            if key in told:
                continue
            told.add(key)
            unknown = f"no counterpart: an unknown key of {file.path}"
            became = _BECAME.get(key, unknown)
            if old.workers and file is old.topology:
                checked = key in ("topology_type", "num_workers")
                became = "the workers' files say it" + (", too" if checked else "")
            yield Fate(key, value, became)


def _remarks(config: ClusterConfig) -> Iterator[str]:
    if config.security() == "curve" and config.speaks("grpc"):
        yield (
            "gRPC off loopback needs certificates ([network] grpc_ca, grpc_cert, grpc_key); workers"
            ' of the old kind have none, and are reached with security = "plaintext" only'
        )
    elif config.security() == "curve":
        yield "links off loopback are encrypted: `mpls keys` makes the keys"
