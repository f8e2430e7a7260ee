"""The YAML files of the earlier gRPC-based implementation, read and held against each other.

One file describes one worker, another the topology; a cluster file has all of it once. What the
files say of the same thing must agree: a line that names both places says where it does not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from mpls.config.fields import ip_of, split_address
from mpls.errors import BadInput, shown

LIMIT_BYTES = 2**20
WORKERS_LIMIT = 10_000
TOPOLOGIES = {"ring": "ring", "fully_connected": "full", "random": "random"}
"""Their word -> ours."""
TABLES = ("data", "training", "mpls", "model", "system", "logging")


@dataclass(frozen=True)
class OldFile:
    """One file: its name, and its keys with the table's name before them, such as
    `training.batch_size`."""

    path: Path
    values: dict[str, Any]

    def has(self, key: str) -> bool:
        """Whether it says anything of it."""
        return key in self.values

    def number(self, key: str) -> int:
        """A whole number from 0 on; BadInput if it is something else."""
        value = self.values.get(key)
        if type(value) is not int or not 0 <= value < 2**31:
            raise BadInput(f"{self.place(key)}: must be a whole number from 0 on")
        return value

    def text(self, key: str) -> str:
        """BadInput if it is something else."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise BadInput(f"{self.place(key)}: must be text")
        return value

    def place(self, key: str) -> str:
        """For an error: file, key and value."""
        value = f"{key} = {shown(self.values[key])}" if key in self.values else f"{key} is missing"
        return f"{self.path}: {value}"


@dataclass(frozen=True)
class Peer:
    """An entry of a worker's `peers`."""

    id: int
    address: str
    place: str


@dataclass(frozen=True)
class OldFederation:
    """What the files describe together. Without worker files, `topology` says all there is."""

    workers: tuple[OldFile, ...]
    """In the order of their ids, 0 to N-1."""
    addresses: tuple[str, ...]
    peers: tuple[tuple[int, ...], ...]
    topology: OldFile | None

    def common(self, key: str) -> Any:
        """What all workers say of this, None if none says anything; BadInput if they differ."""
        saying = [worker for worker in self.workers if worker.has(key)]
        for worker in saying[1:]:
            if worker.values[key] != saying[0].values[key]:
                both = f"{saying[0].place(key)}, but {worker.place(key)}"
                raise BadInput(f"{both}: a cluster has one value for all workers")
        return saying[0].values[key] if saying else None


def read_federation(paths: Sequence[Path]) -> OldFederation:
    """Read all files. Raises BadInput for whatever is wrong with one, or between two."""
    files = [read(path) for path in paths]
    topologies = [file for file in files if not file.has("worker_id")]
    if len(topologies) > 1:
        raise BadInput(f"{topologies[0].path} and {topologies[1].path} both are no worker's file")
    workers = _by_id([file for file in files if file.has("worker_id")])
    topology = topologies[0] if topologies else None
    if not workers:
        assert topology is not None
        return OldFederation((), _places(topology), (), topology)
    lists = [_peers(worker) for worker in workers]
    _check_peers(workers, lists)
    addresses = tuple(_address(worker, lists) for worker in workers)
    graph = tuple(tuple(sorted(peer.id for peer in peers)) for peers in lists)
    if topology is not None:
        _check_topology(topology, workers, graph)
    return OldFederation(workers, addresses, graph, topology)


def read(path: Path) -> OldFile:
    """One file; BadInput if it is neither a worker's nor a topology."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(content) > LIMIT_BYTES:
        raise BadInput(f"{path}: larger than {LIMIT_BYTES} bytes; is this a worker's file?")
    tables = _parsed(path, content)
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if key in TABLES and isinstance(value, dict):
            flat.update({f"{key}.{inner}": each for inner, each in value.items()})
        elif key in TABLES:
            raise BadInput(f"{path}: {key} = {shown(value)}: must be a table")
        else:
            flat[key] = value
    if not {"worker_id", "topology_type"} & set(flat):
        raise BadInput(f"{path}: has neither worker_id nor topology_type; is it an old YAML file?")
    return OldFile(path, flat)


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    yaml = _yaml()
    plain: Any = yaml.SafeLoader

    class Loader(plain):  # type: ignore[misc]
        """Without what makes a small file a large value, or hides one value behind another."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not allowed")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            double = next((key for key in keys if keys.count(key) > 1), None)
            if double is not None:
                raise yaml.YAMLError(f"{double} is in it twice")
            return super().construct_mapping(node, deep)

    try:
        tables = yaml.load(content, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not YAML: {_in_a_line(error)}") from None
    if not isinstance(tables, dict) or not all(isinstance(key, str) for key in tables):
        raise BadInput(f"{path}: must have keys and values")
    return tables


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise BadInput('YAML needs a package: pip install "mpls-dfl[grpc]"') from None


def _in_a_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    line = f"line {mark.line + 1}: " if mark is not None else ""
    return line + " ".join(str(what).split())[:200]


# --- what must hold between files -------------------------------------------------------------


def _by_id(files: list[OldFile]) -> tuple[OldFile, ...]:
    owners: dict[int, OldFile] = {}
    for file in files:
        worker_id = file.number("worker_id")
        owner = owners.setdefault(worker_id, file)
        if owner is not file:
            raise BadInput(f"{owner.path} and {file.path}: both have worker_id = {worker_id}")
    for worker_id, file in owners.items():
        if worker_id >= len(owners):
            ids = f"with {len(owners)} files ids are 0 to {len(owners) - 1}"
            raise BadInput(f"{file.path}: worker_id = {worker_id}: {ids}; give every worker's file")
    return tuple(owners[worker_id] for worker_id in sorted(owners))


def _peers(worker: OldFile) -> list[Peer]:
    entries = worker.values.get("peers")
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise BadInput(f"{worker.place('peers')}: must be a list")
    return [_peer(worker, index, entry) for index, entry in enumerate(entries)]


def _peer(worker: OldFile, index: int, entry: Any) -> Peer:
    place = f"{worker.path}: peers[{index}]"
    keys = entry if isinstance(entry, dict) else {}
    peer_id, address = keys.get("id"), keys.get("address")
    if type(peer_id) is not int or not isinstance(address, str):
        raise BadInput(f"{place} = {shown(entry)}: must have an id and an address")
    return Peer(peer_id, address, place)


def _check_peers(workers: Sequence[OldFile], lists: Sequence[list[Peer]]) -> None:
    for me, peers in enumerate(lists):
        seen: dict[int, Peer] = {}
        for peer in peers:
            if peer.id == me:
                raise BadInput(f"{peer.place}: id = {me}: a worker cannot be its own peer")
            if not 0 <= peer.id < len(workers):
                raise BadInput(
                    f"{peer.place}: id = {peer.id}: there is no file of worker {peer.id}"
                )
            if seen.setdefault(peer.id, peer) is not peer:
                raise BadInput(f"{seen[peer.id].place} and {peer.place}: both have id = {peer.id}")
            if me not in [other.id for other in lists[peer.id]]:
                back = f"{workers[peer.id].path}: peers: has no id = {me}"
                raise BadInput(f"{peer.place}: id = {peer.id}, but {back}")


def _address(worker: OldFile, lists: Sequence[list[Peer]]) -> str:
    """Where its peers reach it, which all of them must agree on, and its own port with them."""
    me = worker.number("worker_id")
    listening = worker.text("listen_address")
    named = [peer for peers in lists for peer in peers if peer.id == me]
    for peer in named:
        if peer.address != named[0].address:
            both = f"{named[0].place}: address = {shown(named[0].address)}"
            raise BadInput(f"{both}, but {peer.place}: address = {shown(peer.address)}")
        if split_address(peer.address)[1] != split_address(listening)[1]:
            there = f"{peer.place}: address = {shown(peer.address)}"
            raise BadInput(f"{worker.place('listen_address')}, but {there}: another port")
    ip = ip_of(split_address(listening)[0])
    if not named and ip is not None and ip.is_unspecified:
        raise BadInput(f"{worker.place('listen_address')}: no peer says where it is reached")
    return named[0].address if named else listening


def _check_topology(
    topology: OldFile, workers: Sequence[OldFile], graph: tuple[tuple[int, ...], ...]
) -> None:
    count = topology.number("num_workers") if topology.has("num_workers") else len(workers)
    if count != len(workers):
        files = f"{len(workers)} workers' files, {workers[0].path} first"
        raise BadInput(f"{topology.place('num_workers')}, but there are {files}")
    drawn = _GRAPHS.get(topology.text("topology_type"))
    for me, expected in enumerate(drawn(len(workers)) if drawn else ()):
        if expected != graph[me]:
            peers = f"{workers[me].path} has the peers {shown(graph[me])}"
            raise BadInput(f"{topology.place('topology_type')}, but {peers}")


def _ring(count: int) -> Iterator[tuple[int, ...]]:
    for me in range(count):
        yield tuple(sorted({(me - 1) % count, (me + 1) % count} - {me}))


def _full(count: int) -> Iterator[tuple[int, ...]]:
    links = list(permutations(range(count), 2)) if count > 1 else []
    for me in range(count):
        yield tuple(b for a, b in links if a == me)


_GRAPHS: dict[str, Callable[[int], Iterator[tuple[int, ...]]]] = {
    "ring": _ring,
    "fully_connected": _full,
}


def _places(topology: OldFile) -> tuple[str, ...]:
    count, port = topology.number("num_workers"), topology.number("base_port")
    host = topology.text("base_address")
    if not 1 <= count <= WORKERS_LIMIT:
        raise BadInput(f"{topology.place('num_workers')}: must be 1 to {WORKERS_LIMIT}")
    return tuple(f"{host}:{port + worker}" for worker in range(count))
