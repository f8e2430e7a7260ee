"""What reaches the core (events, past tense) and what it asks for (commands, imperative).

This is the whole contract between the core and its drivers (ZeroMQ, SimPy, the log replayer).
No event carries a tensor: a layer that arrived is named by its request and layer, and the driver
keeps the bytes under that name until it is told to publish or to forget them.

What comes for each layer or question is a named tuple: it is made in a third of a dataclass's time.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Union

from mpls.core import protocol
from mpls.core.protocol import Vector

# --- events ---------------------------------------------------------------------------------


class Replied(NamedTuple):
    """A small answer came back: welcome, status-ok or error."""

    reply: protocol.Welcome | protocol.StatusOk | protocol.Error


class Progress(NamedTuple):
    """So many bytes of a pull or probe are here, of snapshot `version`. Reported at most twice per
    `stall_s`, and never withheld longer than half of it."""

    request_id: int
    received_bytes: int
    version: int


class LayerReceived(NamedTuple):
    """One layer arrived whole and verified. `progress` (g, Eq. 5) comes with a pull's last layer;
    `wait_s` is the server's own delay before the first byte."""

    request_id: int
    layer: str
    layer_bytes: int
    version: int
    round: int
    wait_s: float
    progress: Vector | None = None


@dataclass(frozen=True)
class LayerRefused:
    """A layer arrived and was thrown away: its checksum, shape or values are wrong."""

    request_id: int
    layer: str
    reason: str


class RequestFailed(NamedTuple):
    """No (further) answer will come: the peer could not be reached, or the connection was lost.
    `received_bytes` of `version` are kept by the driver for resuming."""

    request_id: int
    reason: str
    received_bytes: int = 0
    version: int = 0


@dataclass(frozen=True)
class RoundDue:
    """The trainer wants aggregation round `round` to begin."""

    round: int


@dataclass(frozen=True)
class UpdateTaken:
    """The trainer mixed the update of `round` into its weights, without the copies that were
    `refused` on closer look (values that are not finite)."""

    round: int
    refused: tuple[LayerRefused, ...] = ()


@dataclass(frozen=True)
class PeersChanged:
    """From now on the worker may talk to these, and to nobody else: the cluster file was read anew.
    The driver reaches them by the time that it hands this in."""

    peers: tuple[str, ...]


@dataclass(frozen=True)
class Drained:
    """The worker stops: whatever is under way is to be cancelled."""


@dataclass(frozen=True)
class Ticked:
    """Time has passed. Early ticks are harmless."""


Event = Union[
    Replied,
    Progress,
    LayerReceived,
    LayerRefused,
    RequestFailed,
    RoundDue,
    UpdateTaken,
    PeersChanged,
    Drained,
    Ticked,
]

# --- commands -------------------------------------------------------------------------------


class SendRequest(NamedTuple):
    """Send `message` to `peer`."""

    peer: str
    message: protocol.Hello | protocol.Status | protocol.Pull | protocol.Probe


@dataclass(frozen=True)
class CancelRequest:
    """Tell `peer` to stop answering `request_id`; what arrived of it is kept until the round is
    published."""

    peer: str
    request_id: int


class Source(NamedTuple):
    """One copy of `layer` that arrived with `request_id`."""

    peer: str
    layer: str
    request_id: int
    version: int
    round: int


@dataclass(frozen=True)
class PublishUpdate:
    """Hand the trainer the sums and counts of these copies, added up in this order; then forget
    all that arrived for the round."""

    round: int
    sources: tuple[Source, ...]


class RecordNote(NamedTuple):
    """Write a record of this kind into the trace."""

    kind: str
    fields: dict[str, Any]


Command = Union[SendRequest, CancelRequest, PublishUpdate, RecordNote]

# --- plain-data form, for traces --------------------------------------------------------------

_PLAIN = frozenset({float, int, str, bool, type(None)})
_TUPLES = frozenset(
    {Replied, Progress, LayerReceived, RequestFailed, SendRequest, Source, RecordNote}
)
_BY_NAME: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *Event.__args__,  # type: ignore[attr-defined]
        *Command.__args__,  # type: ignore[attr-defined]
        *protocol.Message.__args__,  # type: ignore[attr-defined]
        Source,
    )
}


def to_plain(value: Any) -> Any:
    """The value as numbers, strings, lists and dicts; a message becomes a dict with its class name
    under "is"."""
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple or kind is list:
        return [item if type(item) in _PLAIN else to_plain(item) for item in value]
    if kind is dict:
        return {
            key: item if type(item) in _PLAIN else to_plain(item) for key, item in value.items()
        }
    if kind in _TUPLES or dataclasses.is_dataclass(value):
        fields = {name: to_plain(getattr(value, name)) for name in _names(kind)}
        return {"is": kind.__name__, **fields}
    return value


@cache
def _names(kind: Any) -> tuple[str, ...]:
    if kind in _TUPLES:
        return tuple(kind._fields)
    return tuple(field.name for field in dataclasses.fields(kind))


def from_plain(plain: Any) -> Any:
    """The inverse of `to_plain`; lists become tuples. A KeyError names an unknown class."""
    if isinstance(plain, list):
        return tuple(from_plain(item) for item in plain)
    if isinstance(plain, dict):
        fields = {key: from_plain(item) for key, item in plain.items() if key != "is"}
        return _BY_NAME[plain["is"]](**fields) if "is" in plain else fields
    return plain
