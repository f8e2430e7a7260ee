"""Bytes of messages between workers, counted by the wire's own closed forms."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mpls.core import protocol
from mpls.wire import encoded_bytes, pull_traffic


class Traffic:
    """Messages and bytes of one worker, by peer and message type, as it sends and receives them."""

    def __init__(self) -> None:
        self.sent: Counter[tuple[str, str]] = Counter()
        self.received: Counter[tuple[str, str]] = Counter()
        self.sent_bytes = 0
        self.received_bytes = 0

    def plain(self) -> dict[str, dict[str, dict[str, int]]]:
        """`sent` and `received`, peer -> type -> bytes."""
        return {"sent": _nested(self.sent), "received": _nested(self.received)}


def count(sender: Traffic, receiver: Traffic, names: tuple[str, str], kind: str, size: int) -> None:
    """A message from names[0] to names[1]."""
    sender.sent[names[1], kind] += size
    sender.sent_bytes += size
    receiver.received[names[0], kind] += size
    receiver.received_bytes += size


def message_bytes(message: protocol.Message) -> int:
    """What the message weighs on the wire. Messages of one shape weigh the same, and millions of
    them are sent, so each shape is encoded once."""
    shape = _shape(message)
    weight = _WEIGHTS.get(shape)
    if weight is None:
        weight = _WEIGHTS[shape] = encoded_bytes(message)
    return weight


def _shape(message: protocol.Message) -> tuple[Any, ...]:
    """All that the weight depends on: of a number, how many bytes msgpack takes for it."""
    kind, width = type(message), _width(message.id)
    if isinstance(message, protocol.StatusOk):
        numbers = _width(message.round), _width(message.version)
        return (
            kind,
            width,
            message.state,
            *numbers,
            len(message.progress or ()),
            message.progress is None,
        )
    if isinstance(message, protocol.Pull):
        numbers = _width(message.version), _width(message.offset)
        return kind, width, message.layers, *numbers, message.credit
    if isinstance(message, (protocol.Status, protocol.Cancel)):
        return kind, width
    if isinstance(message, (protocol.Hello, protocol.Welcome)):
        texts = len(message.name.encode()), len(message.model)
        return kind, width, message.v, *texts, len(message.histogram), _width(message.samples)
    if isinstance(message, protocol.ProbeData):
        return kind, width, len(message.data)
    return (message,)


def _width(number: int) -> int:
    return (
        1
        if number < 128
        else 2
        if number < 256
        else 3
        if number < 65536
        else 5 + 4 * (number >> 32 > 0)
    )


def chunk_and_credit_bytes(
    pull: protocol.Pull,
    layer_sizes: tuple[int, ...],
    version: int,
    round_number: int,
    progress_layers: int | None,
) -> tuple[int, int]:
    """What the answer to a pull weighs, and the credit that the puller gives back for it."""
    offset = pull.offset if pull.version == version else 0
    widths = _width(pull.id), _width(version), _width(round_number)
    shape = pull.layers, layer_sizes, offset, pull.credit, *widths, progress_layers
    weights = _PULL_WEIGHTS.get(shape)
    if weights is None:
        traffic = pull_traffic(pull, layer_sizes, version, round_number, progress_layers)
        weights = traffic.reply_bytes, traffic.request_bytes - encoded_bytes(pull)
        _PULL_WEIGHTS[shape] = weights
    return weights


_WEIGHTS: dict[tuple[Any, ...], int] = {}
_PULL_WEIGHTS: dict[tuple[Any, ...], tuple[int, int]] = {}


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (peer, kind), size in sorted(counts.items()):
        nested.setdefault(peer, {})[kind] = size
    return nested
