"""What must hold between the tables of a cluster, and what is allowed but probably not meant.

Each misfit is a line that names table, key, value and what is allowed; each warning a sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

from mpls import topology
from mpls.config.fields import ip_of
from mpls.config.tables import WorkerTable
from mpls.errors import BadInput, shown

if TYPE_CHECKING:
    from mpls.config.cluster import ClusterConfig


def misfits(config: ClusterConfig) -> list[str]:
    """All of them; none means that the cluster can be run."""
    # The other checks look workers up by id.
    return list(_ids(config)) or [
        *_shards(config),
        *_ports(config),
        *_doubles(config, "name", lambda worker: worker.name),
        *_doubles(config, "address", lambda it: None if it.left else _listening_place(it)),
        *_grpc_ports(config),
        *_certificates(config),
        *_listed_peers(config),
        *_graph(config),
        *_classes(config),
    ]


def warnings(config: ClusterConfig) -> Iterator[str]:
    """For a cluster without misfits."""
    for worker in config.present:
        if ip_of(worker.host) and worker.host.endswith((".0", ".255")) and not worker.is_loopback:
            odd = "looks like a network's own or its broadcast address"
            yield f"worker {worker.id}: {worker.address} {odd}"
    if not config.all_loopback():
        yield from _off_loopback(config)
    for a, peers in config.peers.items():
        for b in peers:
            if config.cluster.topology == "listed" and a not in config.peers_of(b):
                yield f"worker {a} pulls from worker {b}, but not the other way round"
    mutual = topology.both_ways(config.peers)
    if not topology.is_connected({worker.id: mutual[worker.id] for worker in config.present}):
        yield "the topology is disconnected: some workers never learn from some others"


def known_ids(config: ClusterConfig) -> str:
    """For an error about an id that is not among them."""
    last = len(config.workers) - 1
    return f"ids are 0 to {last}" if last else "the only id is 0"


def _ids(config: ClusterConfig) -> Iterator[str]:
    if not config.workers:
        yield "there is no [[workers]] table; a cluster needs one for each worker"
    for worker_id, count in Counter(worker.id for worker in config.workers).items():
        if count > 1 or worker_id >= len(config.workers):
            allowed = f"ids must be 0 to {len(config.workers) - 1}, each once"
            remedy = "who leaves keeps its table, with left = true"
            yield f"[[workers]] id = {worker_id}: {allowed}; {remedy}"
    if config.workers and not config.present:
        yield "[[workers]]: every one of them has left"


def _shards(config: ClusterConfig) -> Iterator[str]:
    if config.shards < len(config.workers):
        allowed = f"must be 0, or at least {len(config.workers)}, one for each worker"
        yield f"[data] shards = {config.data.shards}: {allowed}"


def _ports(config: ClusterConfig) -> Iterator[str]:
    for worker in config.present:
        if worker.port == 0 and not worker.is_loopback:
            why = "port 0, any free one, is for loopback only"
            yield _misfit(worker, "address", worker.address, why)


def _doubles(
    config: ClusterConfig, key: str, same: Callable[[WorkerTable], Hashable]
) -> Iterator[str]:
    """Workers that share a `key`, compared by what `same` makes of it; None is like no other."""
    owners: dict[Hashable, int] = {None: -1}
    for worker in config.workers:
        owner = owners.setdefault(same(worker), worker.id)
        if owner not in (-1, worker.id):
            yield _misfit(worker, key, getattr(worker, key), f"worker {owner} has it already")


def _listening_place(worker: WorkerTable) -> Hashable:
    return _place(worker, worker.port)


def _place(worker: WorkerTable, port: int) -> Hashable:
    return (str(ip_of(worker.host) or worker.host.lower()), port) if port else None


def _grpc_ports(config: ClusterConfig) -> Iterator[str]:
    owners = {_listening_place(worker): worker.id for worker in config.present if worker.port}
    for worker in config.present:
        place = _place(worker, worker.grpc_port)
        if place is None:
            continue
        if owners.setdefault(place, worker.id) != worker.id or worker.grpc_port == worker.port:
            why = f"worker {owners[place]} listens there already"
            yield _misfit(worker, "grpc_port", worker.grpc_port, why)


def _certificates(config: ClusterConfig) -> Iterator[str]:
    network = config.network
    files = {
        "grpc_ca": network.grpc_ca,
        "grpc_cert": network.grpc_cert,
        "grpc_key": network.grpc_key,
    }
    missing = [key for key, path in files.items() if not path]
    if missing and len(missing) < len(files):
        yield f"[network] {missing[0]} is missing; TLS needs {', '.join(files)}"


def _listed_peers(config: ClusterConfig) -> Iterator[str]:
    for worker in config.workers:
        for why in _peer_faults(config, worker, Counter(worker.peers)):
            yield _misfit(worker, "peers", worker.peers, why)


def _peer_faults(config: ClusterConfig, worker: WorkerTable, peers: Counter[int]) -> Iterator[str]:
    if peers and config.cluster.topology != "listed":
        yield f'needs [cluster] topology = "listed", not {shown(config.cluster.topology)}'
    for peer, count in peers.items():
        if peer == worker.id:
            yield "a worker cannot be its own peer"
        elif peer >= len(config.workers):
            yield f"there is no worker {peer}; {known_ids(config)}"
        elif count > 1:
            yield f"worker {peer} is in it twice"


def _graph(config: ClusterConfig) -> Iterator[str]:
    try:
        assert len(config.peers) == len(config.workers)
    except BadInput as error:
        yield str(error)


def _classes(config: ClusterConfig) -> Iterator[str]:
    classes, wanted = config.data.classes, config.data.partition == "classes"
    if classes and not wanted:
        yield '[data] classes: needs partition = "classes"'
    elif wanted and (len(classes) != config.shards or not all(classes)):
        allowed = f"must be {config.shards} lists of class numbers, one for each worker"
        yield f"[data] classes = {shown(classes)}: {allowed}"


def _off_loopback(config: ClusterConfig) -> Iterator[str]:
    if config.security() == "plaintext":
        yield '[network] security = "plaintext": whoever sees the network can read the weights'
    if config.network.emulate is not None:
        pace = f'[network] emulate = "{config.network.emulate}"'
        yield f'{pace} slows real links down to that; emulate = "" does not'


def _misfit(worker: WorkerTable, key: str, value: object, why: str) -> str:
    return f"[[workers]] id {worker.id}: {key} = {shown(value)}: {why}"
