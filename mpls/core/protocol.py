"""The messages that workers exchange, as plain values: the vocabulary of the wire protocol.

The core reads and writes these; how they become bytes is `mpls.wire`. The field names are the
header keys of protocol version 1 (docs/protocol.md), so that a captured message and a trace use
the same words. `id` is chosen by the asker and echoed in every reply.

Vectors are tuples of float64: `histogram` has one share for each class and sums to 1, `progress`
has g (Eq. 5) for each layer in module order, or is None where the server knows no earlier version
of this asker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

PROTOCOL_VERSION = 1
PROBE_LIMIT_BYTES = 1_000_000
ERROR_CODES = ("bad-request", "unsupported", "busy", "unknown-layer", "gone", "refused")

Vector = tuple[float, ...]
Bytes = Union[bytes, bytearray, memoryview]


@dataclass(frozen=True)
class Hello:
    """Who asks, and which model it trains. `model` is the manifest hash."""

    id: int
    name: str
    model: str
    histogram: Vector
    samples: int
    v: int = PROTOCOL_VERSION


@dataclass(frozen=True)
class Welcome:
    """The answer to a hello whose version and model agree."""

    id: int
    name: str
    model: str
    histogram: Vector
    samples: int
    v: int = PROTOCOL_VERSION


@dataclass(frozen=True)
class Status:
    """How far are you?"""

    id: int


@dataclass(frozen=True)
class StatusOk:
    """Lifecycle state, round, version of the latest snapshot, g since the asker's last pull,
    seconds a local step takes."""

    id: int
    state: str
    round: int
    version: int
    progress: Vector | None
    step_s: float


@dataclass(frozen=True)
class Pull:
    """Send these layers. `version` 0 is the latest snapshot; `offset` counts bytes into the first
    layer (resuming); never more than `credit` bytes may be in flight."""

    id: int
    layers: tuple[str, ...]
    version: int
    offset: int
    credit: int


@dataclass(frozen=True)
class Chunk:
    """A piece of a layer. `sum` (XXH3-64 over the whole layer) is set on a layer's last chunk;
    `last` marks the last chunk of the last layer, which alone carries `progress`."""

    id: int
    layer: str
    version: int
    round: int
    offset: int
    total: int
    wait_s: float
    data: Bytes = b""
    sum: int | None = None
    progress: Vector | None = None
    last: bool = False


@dataclass(frozen=True)
class Credit:
    """So many further bytes may be in flight. The credit that covers a pull's last byte tells the
    server that all of it arrived."""

    id: int
    bytes: int


@dataclass(frozen=True)
class Cancel:
    """Send no more of this request."""

    id: int


@dataclass(frozen=True)
class Ping:
    """Answered at once, for the round trip."""

    id: int
    time_s: float


@dataclass(frozen=True)
class Pong:
    """Echoes the ping's `time_s`."""

    id: int
    time_s: float


@dataclass(frozen=True)
class Probe:
    """Send `bytes` of anything, at most PROBE_LIMIT_BYTES, to measure the link."""

    id: int
    bytes: int


@dataclass(frozen=True)
class ProbeData:
    """The answer to a probe."""

    id: int
    data: Bytes = b""


@dataclass(frozen=True)
class Error:
    """A refusal. `code` is one of ERROR_CODES."""

    id: int
    code: str
    message: str


Message = Union[
    Hello,
    Welcome,
    Status,
    StatusOk,
    Pull,
    Chunk,
    Credit,
    Cancel,
    Ping,
    Pong,
    Probe,
    ProbeData,
    Error,
]
