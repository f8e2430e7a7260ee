"""What came from a peer of the earlier contract, checked, in the core's words.

Everything here raises ProtocolError, whose kind says what is wrong; nothing that a peer announces
is allocated before it is known to have come.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, inf
from typing import Any, Union

from google.protobuf.message import DecodeError

from mpls.adapters import contract, npy
from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.contract import Catalogue
from mpls.core import protocol
from mpls.errors import ProtocolError

CLASSES_LIMIT = 1024
Found = Union[memoryview, str]
"""A layer's bytes, or what kind of fault it has."""


@dataclass(frozen=True)
class Layers:
    """What an answer has of the layers: the rest is missing."""

    round: int
    found: dict[str, Found]


def parsed(kind: Any, content: bytes, number: int) -> Any:
    """A message of this kind from the worker with this number, and from nobody else."""
    try:
        message = kind.FromString(content)
    except DecodeError:
        raise ProtocolError(f"no {kind.__name__}", kind="message") from None
    if message.peer_id != number:
        raise ProtocolError(f"it says that it is worker {message.peer_id}", kind="peer")
    return message


def layers_in(content: bytes, number: int, catalogue: Catalogue) -> Layers:
    """Of an answer to PullLayers."""
    response = parsed(messages.LayerResponse, content, number)
    indices = [layer.layer_index for layer in response.layers]
    try:
        names = catalogue.chosen(indices)
    except ProtocolError as error:
        raise ProtocolError(str(error), kind="layers") from None
    found = {name: _values(layer, catalogue) for name, layer in zip(names, response.layers)}
    return Layers(_round(response.iteration), found)


def _values(layer: messages.LayerData, catalogue: Catalogue) -> Found:
    values = catalogue.values[layer.layer_index]
    if layer.dtype != contract.DTYPE:
        return "dtype"
    if list(layer.shape[:2]) != [values]:
        return "shape"
    try:
        return npy.values_in(layer.parameters, values)
    except ProtocolError as error:
        return error.kind


def probe_bytes(content: bytes, number: int) -> int:
    """Of an answer to MeasureBandwidth."""
    return len(parsed(messages.BandwidthResponse, content, number).payload)


def welcome_in(content: bytes, number: int, peer: str, hello: protocol.Hello) -> protocol.Welcome:
    """An answer to GetMetadata as one to this hello. Whether the peer's model is ours cannot be
    asked; an unknown label histogram counts as a uniform one, and so does an empty one."""
    shares = list(parsed(messages.PeerMetadata, content, number).data_distribution)
    if len(shares) > CLASSES_LIMIT:
        raise ProtocolError(f"a label histogram of {len(shares)} classes", kind="value")
    total = fsum(shares) if all(0 <= share < inf for share in shares) else 0.0
    if not shares:
        shares, total = [1.0] * len(hello.histogram), float(len(hello.histogram))
    # Rounded to float32, or still counts: what has a sum is scaled to 1.
    histogram = tuple(share / total for share in shares) if total > 0 else tuple(shares)
    return protocol.Welcome(hello.id, peer, hello.model, histogram, 0)


def status_in(content: bytes, number: int, request_id: int) -> protocol.StatusOk:
    """An answer to GetMetadata as one to a status request."""
    metadata = parsed(messages.PeerMetadata, content, number)
    round_number = _round(metadata.current_iteration)
    # Who is idle after some rounds has no more to come; before, it is about to begin.
    idle = "draining" if round_number else "ready"
    state = contract.STATES.get(metadata.status, idle)
    return protocol.StatusOk(request_id, state, round_number, 0, None, 0.0)


def _round(iteration: int) -> int:
    if iteration < 0:
        raise ProtocolError(f"iteration {iteration}", kind="value")
    return iteration
