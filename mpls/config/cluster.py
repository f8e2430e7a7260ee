"""A whole cluster: its tables, what must hold between them, and what others ask of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mpls import topology
from mpls.config import checks
from mpls.config.tables import (
    CheckpointTable,
    ClusterTable,
    DataTable,
    LoggingTable,
    MetricsTable,
    ModelTable,
    MplsTable,
    NetworkTable,
    Table,
    TrainingTable,
    WorkerTable,
)
from mpls.core.settings import PaceSettings, PlanSettings, PullSettings
from mpls.errors import BadInput

# Where a run writes, where it listens and whom it tells; not what it computes.
_NOT_HASHED: dict[str, Any] = {
    "cluster": {"name", "out"},
    "workers": {"__all__": {"address", "grpc_port", "ssh"}},
    "network": {"grpc_ca", "grpc_cert", "grpc_key", "grpc_mutual"},
    "checkpoint": True,
    "metrics": True,
    "logging": True,
}
_LEARNING = (
    ("cluster", "seed"),
    *(("data", key) for key in DataTable.model_fields if key != "root"),
    ("model", "name"),
    *(("training", key) for key in ("batch_size", "lr", "momentum", "local_steps")),
)
SHARDS = "[data] shards"
"""Key of `ClusterConfig.learning` for how many shards the samples are dealt into."""

_LINKS = ("topology", "random_prob", "degree")


def _by_id(workers: tuple[WorkerTable, ...]) -> tuple[WorkerTable, ...]:
    return tuple(sorted(workers, key=lambda worker: worker.id))


class ClusterConfig(Table):
    """One cluster file, validated. Immutable; `workers[i].id` is i."""

    cluster: ClusterTable = ClusterTable()
    workers: Annotated[tuple[WorkerTable, ...], Field(strict=False), AfterValidator(_by_id)] = ()
    data: DataTable = DataTable()
    model: ModelTable = ModelTable()
    training: TrainingTable = TrainingTable()
    mpls: MplsTable = MplsTable()
    network: NetworkTable = NetworkTable()
    checkpoint: CheckpointTable = CheckpointTable()
    metrics: MetricsTable = MetricsTable()
    logging: LoggingTable = LoggingTable()

    @model_validator(mode="after")
    def _fits_together(self) -> ClusterConfig:
        misfits = checks.misfits(self)
        if misfits:
            raise PydanticCustomError("misfits", "misfits", {"misfits": misfits})
        return self

    def plan_settings(self) -> PlanSettings:
        """How the core makes plans."""
        return PlanSettings(**self.mpls.model_dump())

    def pull_settings(self) -> PullSettings:
        """How patient the core is with peers."""
        return PullSettings(
            prior_bandwidth_Bps=self.network.prior_bw.low_Bps,
            round_s=self.network.round_s,
            stall_s=self.network.stall_s,
            retries=self.network.retries,
            status_s=self.network.status_s,
        )

    def pace_settings(self) -> PaceSettings:
        """How training and aggregation take turns."""
        return PaceSettings(
            rounds=self.training.rounds,
            pace=self.training.pace,
            local_steps=self.training.local_steps,
            publish_steps=self.training.publish_steps,
            eval_every=self.training.eval_every,
            bootstrap=self.training.bootstrap,
        )

    def partition_settings(self) -> dict[str, Any]:
        """How the samples are dealt to the workers: keywords of `mpls.model.partition`."""
        return {
            "kind": self.data.partition,
            "alpha": self.data.alpha,
            "balanced": self.data.balanced,
            "min_samples": self.data.min_samples,
            "chi": self.data.chi,
            "classes": self.data.classes or None,
            "seed": self.cluster.seed,
        }

    @property
    def shards(self) -> int:
        """How many the samples are dealt into."""
        return self.data.shards or len(self.workers)

    @property
    def present(self) -> tuple[WorkerTable, ...]:
        """The workers that have not left."""
        return tuple(worker for worker in self.workers if not worker.left)

    def worker(self, worker_id: int) -> WorkerTable:
        """The worker with this id, or BadInput that names the ids there are."""
        if not 0 <= worker_id < len(self.workers):
            raise BadInput(f"there is no worker {worker_id}; {checks.known_ids(self)}")
        return self.workers[worker_id]

    def present_worker(self, worker_id: int) -> WorkerTable:
        """The worker with this id, or BadInput if there is none, or it has left."""
        worker = self.worker(worker_id)
        if worker.left:
            raise BadInput(f"[[workers]] id {worker_id}: it has left the cluster (left = true)")
        return worker

    def peers_of(self, worker_id: int) -> tuple[int, ...]:
        """The ids that this worker pulls from, rising."""
        return self.peers[worker_id]

    def links(self) -> tuple[tuple[int, int], ...]:
        """Each pair of workers that may talk, once: (a, b) with a < b, rising."""
        mutual = topology.both_ways(self.peers)
        return tuple((a, b) for a, others in mutual.items() for b in others if a < b)

    def with_members(self, other: ClusterConfig) -> ClusterConfig:
        """This cluster with the workers of another file, and who talks to whom there."""
        links = {key: getattr(other.cluster, key) for key in _LINKS}
        cluster = self.cluster.model_copy(update=links)
        copy = self.model_copy(update={"cluster": cluster, "workers": other.workers})
        copy.__dict__.pop("peers", None)  # what was drawn for the workers of before
        return copy

    def without(self, worker_ids: Iterable[int]) -> ClusterConfig:
        """This cluster as if just these workers had left."""
        gone = set(worker_ids)
        workers = [it.model_copy(update={"left": it.id in gone}) for it in self.workers]
        return self.with_members(self.model_copy(update={"workers": tuple(workers)}))

    def transport_of(self, worker_id: int) -> str:
        """`zmq` or `grpc`: how this worker is reached."""
        return self.workers[worker_id].transport or self.network.transport

    def speaks(self, transport: str) -> bool:
        """Whether some worker is reached by this transport."""
        extra = transport == "grpc" and any(worker.grpc_port for worker in self.present)
        return extra or any(self.transport_of(worker.id) == transport for worker in self.present)

    def all_loopback(self) -> bool:
        """Whether only this machine can reach any worker."""
        return all(worker.is_loopback for worker in self.present)

    def security(self) -> str:
        """`curve` or `plaintext`: what `auto` comes to."""
        if self.network.security != "auto":
            return self.network.security
        return "plaintext" if self.all_loopback() else "curve"

    def learning(self) -> dict[str, Any]:
        """What weights are learned with, by table and key: a checkpoint made with anything else is
        not gone on with."""
        plain = self.model_dump(mode="json")
        kept = {f"[{table}] {key}": plain[table][key] for table, key in _LEARNING}
        return {**kept, SHARDS: self.shards}

    def config_hash(self) -> str:
        """SHA-256 over everything that decides what a run computes, in hexadecimal."""
        content = self.model_dump(mode="json", exclude=_NOT_HASHED)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed, but probably not meant: a sentence each."""
        return tuple(checks.warnings(self))

    @cached_property
    def peers(self) -> dict[int, tuple[int, ...]]:
        """The ids that each worker pulls from, as the topology and the seed draw them."""
        here = [worker.id for worker in self.present]
        peers: dict[int, tuple[int, ...]] = {worker.id: () for worker in self.workers}
        if self.cluster.topology == "listed":
            listed = {i: self.workers[i].peers or () for i in here}
            return peers | {i: tuple(sorted({*listed[i]} & {*here})) for i in here}
        drawn = topology.neighbours(
            self.cluster.topology,
            len(here),
            seed=self.cluster.seed,
            random_prob=self.cluster.random_prob,
            degree=self.cluster.degree,
        )
        return peers | {here[i]: tuple(here[j] for j in others) for i, others in drawn.items()}
