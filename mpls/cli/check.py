"""`mpls check`: is a cluster file sound, and what would it run?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpls.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from mpls.config import ClusterConfig
    from mpls.preflight import Prepared

WIDE_LABELS = 20
"""More columns than this are not a table any more."""
PIPED_COLUMNS = 10_000


@click.command("check")
@click.argument("cluster", type=click.Path(path_type=Path), required=False)
@click.option("--download", is_flag=True, help="Fetch the data set if it is not there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(cluster: Path | None, download: bool, as_json: bool) -> None:
    """Validate CLUSTER (without a file: the built-in cluster) and say what would run.

    Shows the workers with their peers and labels, the model's layers, and what a round would
    bring in: the first plan that each worker makes when it knows the links' rates and every layer
    has made equal progress; seconds by the paper's Eq. 7. Nothing is started. Exit 2 with one
    line if something is wrong.

    \b
    Examples:
      mpls check
      mpls check configs/three-servers.toml
      mpls check cluster.toml --json | jq .model.bytes
    """
    from mpls.preflight import prepare

    outlook = _outlook(prepare(cluster, to_run=False, download=download))
    if as_json:
        click.echo(json.dumps(outlook, allow_nan=False))
    else:
        _print(outlook)
    for warning in outlook["warnings"]:
        click.echo(f"warning: {warning}", err=True)


def _outlook(prepared: Prepared) -> dict[str, Any]:
    """What `--json` prints."""
    from mpls.topology import GAP_WORKERS, both_ways, is_connected, spectral_gap

    config, dataset = prepared.config, prepared.dataset
    graph = both_ways(config.peers)
    model = _model(prepared)
    workers = _workers(prepared, model["layers"])
    return {
        "name": config.cluster.name,
        "config_hash": config.config_hash(),
        "strategy": config.mpls.strategy,
        "rounds": config.training.rounds,
        "security": _security(config),
        "keys": str(prepared.keys.public) if prepared.keys else None,
        "topology": config.cluster.topology,
        "connected": is_connected(graph),
        "spectral_gap": spectral_gap(graph) if len(graph) <= GAP_WORKERS else None,
        "emulate": str(config.network.emulate or ""),
        "prior_bw": str(config.network.prior_bw),
        "data": {
            "name": dataset.name,
            "root": None if dataset.name == "digits" else config.data.root,
            "train": len(dataset.train_labels),
            "test": len(dataset.test_labels),
            "partition": config.data.partition,
        },
        "model": model,
        "workers": workers,
        "warnings": [*prepared.warnings, *_too_slow(workers, config.network.round_s)],
    }


def _security(config: ClusterConfig) -> str:
    """curve, TLS or plaintext; of a mixed cluster both words, where they differ."""
    by_grpc = "TLS" if config.network.grpc_cert else "plaintext"
    words = {"zmq": config.security(), "grpc": by_grpc}
    spoken = dict.fromkeys(word for kind, word in words.items() if config.speaks(kind))
    return " and ".join(spoken)


def _model(prepared: Prepared) -> dict[str, Any]:
    from mpls.model import nets
    from mpls.model.layers import FlatModel

    config, dataset = prepared.config, prepared.dataset
    name, seed = config.model.name, config.cluster.seed
    module = nets.build(name, dataset.input_shape, dataset.classes, seed)
    parameters = sum(tensor.numel() for tensor in module.parameters())
    manifest = FlatModel(module).manifest
    return {
        "name": name,
        "parameters": parameters,
        "bytes": manifest.total_bytes,
        "layers": [{"name": layer.name, "bytes": layer.layer_bytes} for layer in manifest.layers],
    }


def _workers(prepared: Prepared, sizes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from mpls.core.plan import Layer
    from mpls.forecast import expected_rate_Bps, first_plans, pulled_bytes
    from mpls.model.partition import label_histograms, label_table

    config, dataset = prepared.config, prepared.dataset
    layers = [Layer(**size) for size in sizes]
    labels = label_table(dataset.train_labels, prepared.shards, dataset.classes)
    plans = first_plans(config, layers, [tuple(row) for row in label_histograms(labels).tolist()])
    return [
        {
            "id": worker.id,
            "name": worker.name,
            "address": worker.address,
            "peers": [
                {"id": peer, "rate_Bps": expected_rate_Bps(config, worker.id, peer)}
                for peer in config.peers_of(worker.id)
            ],
            "samples": len(prepared.shards[worker.id]),
            "labels": labels[worker.id].tolist(),
            "round_bytes": pulled_bytes(plans[worker.id], layers),
            "round_s": plans[worker.id].makespan_s,
        }
        for worker in config.present
    ]


def _too_slow(workers: list[dict[str, Any]], round_s: float) -> Iterator[str]:
    for worker in workers:
        if worker["round_s"] > round_s:
            yield (
                f"worker {worker['id']}: a round would pull for {worker['round_s']:.0f} s, but "
                f"[network] round_s = {round_s:g} ends it"
            )


def _print(outlook: dict[str, Any]) -> None:
    from rich.console import Console

    # Whoever reads a pipe wants a line for each row, however long.
    width = None if sys.stdout.isatty() else PIPED_COLUMNS
    console = Console(highlight=False, markup=False, width=width)
    for line in _headlines(outlook):
        console.print(line)
    for table in (_layer_table(outlook), _worker_table(outlook), _label_table(outlook)):
        console.print()
        console.print(table)


def _headlines(outlook: dict[str, Any]) -> Iterator[str]:
    data, model, gap = outlook["data"], outlook["model"], outlook["spectral_gap"]
    mixes = ", connected" if outlook["connected"] else ", disconnected"
    mixes += f", spectral gap {gap:.3f}" if gap is not None else ""
    yield f"{outlook['name']}: {outlook['strategy']}, {outlook['rounds']} rounds"
    yield f"topology: {outlook['topology']} of {len(outlook['workers'])} workers{mixes}"
    security = outlook["security"]
    security += f" with the keys of {outlook['keys']}" if outlook["keys"] else ""
    if outlook["emulate"]:
        yield f"links: {security}, each paced at a rate drawn from {outlook['emulate']}"
    else:
        yield f"links: {security}, believed to carry {outlook['prior_bw']} at first"
    where = f"in {data['root']}" if data["root"] else "embedded"
    yield f"data: {data['name']} ({where}), {data['train']} to train on, {data['test']} to test"
    yield f"model: {model['name']}, {model['parameters']:,} parameters, {model['bytes']:,} bytes"


def _layer_table(outlook: dict[str, Any]) -> Table:
    table = _table("layers", left=["layer"], right=["bytes"])
    for layer in outlook["model"]["layers"]:
        table.add_row(layer["name"], f"{layer['bytes']:,}")
    return table


def _worker_table(outlook: dict[str, Any]) -> Table:
    workers = outlook["workers"]
    table = _table(
        "workers, and what a first round pulls at the links' rates",
        left=["worker", "address"],
        right=["samples", "pulls", "seconds"],
    )
    table.add_column("peer MB/s")
    for worker in workers:
        peers = [
            f"{workers[peer['id']]['name']} {peer['rate_Bps'] / 1e6:.1f}"
            for peer in worker["peers"]
        ]
        table.add_row(
            worker["name"],
            worker["address"],
            str(worker["samples"]),
            format_bytes(worker["round_bytes"]),
            f"{worker['round_s']:.4f}",
            ", ".join(peers) or "none",
        )
    return table


def _label_table(outlook: dict[str, Any]) -> Table:
    workers = outlook["workers"]
    labels = range(len(workers[0]["labels"]))
    if len(labels) > WIDE_LABELS:
        table = _table("samples of the most frequent labels", left=["worker", "label: samples"])
        for worker in workers:
            top = sorted(labels, key=lambda label: -worker["labels"][label])[:8]
            table.add_row(worker["name"], "  ".join(f"{x}: {worker['labels'][x]}" for x in top))
        return table
    table = _table("samples of each label", left=["worker"], right=map(str, labels))
    for worker in workers:
        table.add_row(worker["name"], *map(str, worker["labels"]))
    return table


def _table(title: str, left: Iterable[str], right: Iterable[str] = ()) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
