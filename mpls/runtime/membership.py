"""What a running worker takes up of its cluster file when it is read anew: who its peers are, and
where. Everything else is read at start only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mpls.config import ClusterConfig, WorkerTable, load
from mpls.errors import BadInput, Refused, shown


def read_anew(
    path: Path | None, running: ClusterConfig, me: int
) -> tuple[ClusterConfig, list[str]]:
    """The running cluster with the workers of the file as it is now, and the keys of it that were
    changed, too, and are not taken up. Raises BadInput if the file is wrong, or makes another
    worker of this one, and Refused if it cannot be taken up while this one runs."""
    if path is None:
        raise BadInput("this worker was started without a cluster file")
    file = load(path)
    for worker in file.present:
        if worker.port == 0:
            raise BadInput(f"{path}: [[workers]] id {worker.id}: port 0 cannot be found by others")
    if not has_left(file, me):
        demand_same_place(running.worker(me), file.worker(me), f"{path}: ")
    config = running.with_members(file)
    if not has_left(file, me):
        demand_same_ways(running, config)
    return config, ignored(config, file)


def demand_same_place(before: WorkerTable, now: WorkerTable, where: str = "") -> None:
    """Raises BadInput where a running worker is to have another name or address."""
    for key in ("name", "address"):
        was, will_be = getattr(before, key), getattr(now, key)
        if was != will_be:
            what = f"{key} = {shown(will_be)} was {shown(was)} when this worker began"
            raise BadInput(f"{where}[[workers]] id {now.id}: {what}; restart it")


def demand_same_ways(running: ClusterConfig, config: ClusterConfig) -> None:
    """Raises Refused where workers would talk in another way than the running ones were made for:
    by gRPC, or encrypted instead of in plaintext."""
    if running.speaks("grpc") or config.speaks("grpc"):
        what = "in a cluster with gRPC workers are taken up at the start only"
        raise Refused(f"{what}; restart those who run")
    before, now = running.security(), config.security()
    if before != now:
        what = f'[network] security = "auto" was {before} and is {now} with these addresses'
        raise Refused(f"{what}; restart those who run, or name one before that")


def has_left(config: ClusterConfig, worker_id: int) -> bool:
    """Whether this worker is not, or no longer, of this cluster."""
    return worker_id >= len(config.workers) or config.workers[worker_id].left


def addresses(config: ClusterConfig, worker_id: int) -> dict[str, str]:
    """host:port of each peer of a worker, by name."""
    peers = map(config.worker, config.peers_of(worker_id))
    return {peer.name: peer.address for peer in peers}


def news(before: ClusterConfig, after: ClusterConfig, me: int) -> Iterator[str]:
    """What is different for this worker, a few words each."""
    old, new = addresses(before, me), addresses(after, me)
    for name in sorted({*old, *new}):
        if name not in new:
            yield f"{name} is no peer any more"
        elif name not in old:
            yield f"{name} at {new[name]} is a peer now"
        elif old[name] != new[name]:
            yield f"{name} is at {new[name]} now"


def ignored(config: ClusterConfig, file: ClusterConfig) -> list[str]:
    """The keys of the file that differ and are read at the start only, but where runs are put."""
    mine, its = config.model_dump(mode="json"), file.model_dump(mode="json")
    return [
        f"[{table}] {key}"
        for table, keys in mine.items()
        if table != "workers"
        for key, value in keys.items()
        if value != its[table][key] and key != "out"
    ]
