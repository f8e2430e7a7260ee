"""What a running worker takes up of its cluster file when it is read anew: who its peers are, and
where. Everything else is read at start only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mpls.config import ClusterConfig, load
from mpls.errors import BadInput, shown


def read_anew(
    path: Path | None, running: ClusterConfig, me: int
) -> tuple[ClusterConfig, list[str]]:
    """The running cluster with the workers of the file as it is now, and the keys of it that were
    changed, too, and are not taken up. Raises BadInput if the file is wrong, or makes another
    worker of this one."""
    if path is None:
        raise BadInput("this worker was started without a cluster file")
    file = load(path)
    for worker in file.present:
        if worker.port == 0:
            raise BadInput(f"{path}: [[workers]] id {worker.id}: port 0 cannot be found by others")
    if not has_left(file, me):
        before, now = running.worker(me), file.worker(me)
        for key in ("name", "address"):
            was, will_be = getattr(before, key), getattr(now, key)
            if was != will_be:
                what = f"{key} = {shown(will_be)} was {shown(was)} when this worker began"
                raise BadInput(f"{path}: [[workers]] id {me}: {what}; restart it")
    config = running.with_members(file)
    return config, _ignored(config, file)


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


def _ignored(config: ClusterConfig, file: ClusterConfig) -> list[str]:
    mine, its = config.model_dump(mode="json"), file.model_dump(mode="json")
    return [
        f"[{table}] {key}"
        for table, keys in mine.items()
        if table != "workers"
        for key, value in keys.items()
        if value != its[table][key] and key != "out"
    ]
