"""The tables of a cluster file: every key with its type, its limits and its one default.

A key's docstring gives meaning and unit. What the core decides on has its default in
`mpls.core.settings`. What involves two tables is checked in `cluster.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mpls.config.fields import (
    Address,
    Count,
    CountOrZero,
    Name,
    Port,
    Rate,
    RateOrNone,
    Seconds,
    SecondsOrZero,
    Share,
    Text,
    ip_of,
    matching,
    one_of,
    single_rate,
    split_address,
)
from mpls.core import settings
from mpls.topology import KINDS
from mpls.units import BandwidthRange

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")
MODELS = ("simple-mlp", "lenet5", "nin", "resnet18")
PARTITIONS = ("iid", "dirichlet", "main-label", "shards", "classes")
TRANSPORTS = ("zmq", "grpc")
SECURITIES = ("auto", "curve", "plaintext")
LEVELS = ("debug", "info", "warning", "error")
TOPOLOGIES = (*KINDS, "listed")

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
_PLAN = settings.PlanSettings()
_PULL = settings.PullSettings()
_PACE = settings.PaceSettings()


def _not_too_often(status_s: float) -> float:
    """A peer answers 200 requests a second, the pulls among them."""
    if 0 < status_s < 0.02:
        raise ValueError("must be 0, or at least 0.02")
    return status_s


class Table(BaseModel):
    """One TOML table: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ClusterTable(Table):
    """`[cluster]`: the run as a whole."""

    name: Name = "local"
    """Of the run's folder inside `out`."""
    topology: Annotated[str, one_of(TOPOLOGIES)] = "ring"
    """Who may talk to whom; `listed` takes the peers of each `[[workers]]` table."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Data, model, links and strategy draw from separate streams named after it."""
    random_prob: Share = 0.5
    """Chance of each link in `random`, of each rewiring in `small-world`."""
    degree: Count = 4
    """Peers of each worker in `k-regular` and, before rewiring, in `small-world`."""
    out: Text = "runs"
    """Folder in which each run makes its own."""


class WorkerTable(Table):
    """`[[workers]]`: one process."""

    id: CountOrZero
    """0 to N-1, each once."""
    name: Name
    """w0 for worker 0, unless given."""
    address: Address
    """host:port at which peers reach it; port 0 is any free one, on loopback only."""
    peers: Annotated[tuple[CountOrZero, ...], Field(strict=False)] | None = None
    """Ids it pulls from; only with `topology = "listed"`."""
    speed: Annotated[float, Field(gt=0.0)] = 1.0
    """Compute speed against the other workers, for the simulator."""
    transport: Annotated[str, one_of(TRANSPORTS)] | None = None
    """As `[network] transport`, unless given."""
    grpc_port: Port = 0
    """Also serve the gRPC contract on this port; 0 does not."""
    ssh: Text = ""
    """user@host for deployment."""
    left: bool = False
    """It has left: nobody runs it or talks to it, but id, name and data stay its own."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, table: Any) -> Any:
        return {"name": f"w{table.get('id')}", **table} if isinstance(table, dict) else table

    @property
    def host(self) -> str:
        """Where it listens, without the port."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """0 is any free one."""
        return int(split_address(self.address)[1])

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        ip = ip_of(self.host)
        return self.host == "localhost" if ip is None else ip.is_loopback


class DataTable(Table):
    """`[data]`: what is learned, and how it is spread over the workers."""

    dataset: Annotated[str, one_of(DATASETS)] = "digits"
    """`digits` is embedded; the others are looked for in `root`."""
    root: Text = "data"
    """Folder of the data sets."""
    partition: Annotated[str, one_of(PARTITIONS)] = "dirichlet"
    """How samples are dealt to workers."""
    alpha: Annotated[float, Field(gt=0.0)] = 0.5
    """Concentration of `dirichlet`: the smaller, the more skewed."""
    balanced: bool = True
    """`dirichlet` evens out the shards' sizes."""
    min_samples: Count = 32
    """No shard is smaller."""
    chi: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """With `main-label`: the share of a worker's samples that carries its main label."""
    classes: Annotated[
        tuple[Annotated[tuple[CountOrZero, ...], Field(strict=False)], ...], Field(strict=False)
    ] = ()
    """With `classes`: for each worker the classes that it mostly has."""
    shards: CountOrZero = 0
    """Samples are dealt into so many shards, one for each worker that ever joins; 0 is one for each
    of the file's workers when a worker begins."""


class ModelTable(Table):
    """`[model]`: what is trained."""

    name: Annotated[str, one_of(MODELS, "package.module:factory")] = "simple-mlp"


class TrainingTable(Table):
    """`[training]`: the local work between two mixings."""

    rounds: Count = _PACE.rounds
    """Select-pull-mix cycles of each worker."""
    batch_size: Count = 32
    """Samples in a local step."""
    lr: Annotated[float, Field(gt=0.0)] = 0.01
    """Learning rate."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    local_steps: CountOrZero = _PACE.local_steps
    """Local steps in a round; 0 is one pass over the local shard."""
    pace: Annotated[str, one_of(settings.PACES)] = _PACE.pace
    """How training and pulling take turns."""
    publish_steps: CountOrZero = _PACE.publish_steps
    """Publish a snapshot also after this many local steps; 0 only after mixing."""
    device: Annotated[str, matching(_DEVICE, "cpu, cuda or cuda:N")] = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """torch's threads in each worker."""
    eval_every: Count = _PACE.eval_every
    """Rounds between two evaluations."""
    bootstrap: Annotated[str, one_of(settings.BOOTSTRAPS)] = _PACE.bootstrap
    """`peers`: a worker that begins anew starts from the mean of its peers' weights; `own`: from
    the first weights that the seed draws for all."""


class MplsTable(Table):
    """`[mpls]`: how a plan is made. The keys are those of `PlanSettings`."""

    strategy: Annotated[str, one_of(settings.STRATEGIES, "package.module:Class")] = _PLAN.strategy
    scheduler: Annotated[str, one_of(settings.SCHEDULERS)] = _PLAN.scheduler
    tau1: Share = _PLAN.tau1
    tau2: Share = _PLAN.tau2
    tie: Annotated[str, one_of(settings.TIES)] = _PLAN.tie
    fill: Annotated[str, one_of(settings.FILLS)] = _PLAN.fill
    progress: Annotated[str, one_of(settings.PROGRESS_MODES)] = _PLAN.progress
    interval_s: SecondsOrZero = _PLAN.interval_s

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> MplsTable:
        if abs(self.tau1 + self.tau2 - 1.0) > 1e-9:
            raise ValueError(f"tau1 + tau2 = {self.tau1 + self.tau2:.10g}: must be 1")
        return self


class NetworkTable(Table):
    """`[network]`: the links, and how patient a worker is with its peers."""

    transport: Annotated[str, one_of(TRANSPORTS)] = "zmq"
    emulate: RateOrNone = BandwidthRange(10e6, 15e6)
    """Pace each link at a rate drawn from this range; "" is as fast as it goes."""
    nic: Annotated[RateOrNone, AfterValidator(single_rate)] = None
    """Pace each worker's card, uplink and downlink each; "" does not."""
    prior_bw: Annotated[Rate, AfterValidator(single_rate)] = BandwidthRange(
        _PULL.prior_bandwidth_Bps, _PULL.prior_bandwidth_Bps
    )
    """Believed of a peer that was never measured."""
    round_s: Seconds = _PULL.round_s
    """No aggregation round lasts longer."""
    stall_s: Seconds = _PULL.stall_s
    """An attempt without a byte for this long has stalled."""
    retries: Annotated[int, Field(ge=0, le=16)] = _PULL.retries
    """Attempts after the first."""
    status_s: Annotated[SecondsOrZero, AfterValidator(_not_too_often)] = _PULL.status_s
    """Each peer is asked for its status this often. 0 asks only at hello, and while it cannot be
    used: links are not probed then, and a worker that is done waits for nobody who still trains."""
    security: Annotated[str, one_of(SECURITIES)] = "auto"
    """`auto` is plaintext while every address is loopback, else curve; gRPC has TLS instead."""
    grpc_ca: Text = ""
    """PEM file of the authority that signed every worker's certificate."""
    grpc_cert: Text = ""
    """PEM file of a worker's certificate, which names it; {name} stands for its name. "" is no TLS,
    which only `security = "plaintext"` allows."""
    grpc_key: Text = ""
    """PEM file of its secret key, for its owner only; {name} as above."""
    grpc_mutual: bool = True
    """Whoever connects by gRPC has to show a certificate, too."""
    norm_clip: Annotated[float, Field(ge=0.0)] = 2.0
    """Largest norm of a pulled layer, as a ratio to the own layer's; outliers among the peers are
    refused. 0 is off, both."""


class CheckpointTable(Table):
    """`[checkpoint]`: what survives a crash."""

    every_rounds: CountOrZero = 10
    """Rounds between two checkpoints; 0 makes only the one at the end."""
    keep: Count = 2
    """Generations kept."""


class MetricsTable(Table):
    """`[metrics]`: a worker's health and numbers, by HTTP for its own machine."""

    port: Port = 0
    """Worker i serves them at this port plus i of 127.0.0.1; 0 does not."""


class LoggingTable(Table):
    """`[logging]`: one log file a worker."""

    level: Annotated[str, one_of(LEVELS)] = "info"
    dir: Text = ""
    """Folder for CLUSTER-WORKER.log, turned over at 10 MB; "" is inside the run's own."""
