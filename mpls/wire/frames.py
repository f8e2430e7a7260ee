"""What a message of protocol version 1 looks like: its keys, their kinds, and every limit.

A message is one frame, or two when it carries data; joined, they are one msgpack array, `[header]`
or `[header, bin]`. The header is a map of `t` (the type) and the fields of the message's dataclass
in `mpls.core.protocol`, from which the layouts below are derived. Everything that decides whether a
value is allowed on the wire lives here; `mpls.wire.codec` only applies it, in both directions.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args, get_type_hints

from mpls.core.protocol import ERROR_CODES, PROBE_LIMIT_BYTES, Chunk, Message, ProbeData, Vector

KIB = 1024

MESSAGE_LIMIT_BYTES = 1024 * KIB
"""What ZeroMQ's MAXMSGSIZE is set to: no frame is larger, before or after authentication."""
HEADER_LIMIT_BYTES = 16 * KIB
"""Frame 1."""
CHUNK_LIMIT_BYTES = 960 * KIB
"""Frame 2 of a chunk."""
CHUNK_LEAST_BYTES = 64 * KIB
"""Only the last chunk of a layer is shorter."""
CREDIT_LIMIT_BYTES = 4096 * KIB
"""A reader that stops costs its server no more than this."""
CREDIT_LEAST_BYTES = 4 * CHUNK_LEAST_BYTES
"""With less, half a window would not hold a chunk, and a pull could wait for ever."""
ENTRIES_LIMIT = 1024
"""Entries of a vector: classes of a histogram, layers of a progress."""
LAYERS_LIMIT = 256
"""Layers that one pull may name."""
NAME_LIMIT = 128
"""Characters of a name: of a worker, a layer, a state, a manifest hash."""
TEXT_LIMIT = 256
"""Characters of an error's message."""
UNSIGNED_LIMIT = 2**64 - 1
HISTOGRAM_SLACK = 1e-6
"""How far the shares of a histogram may be from summing to 1."""

UNPACK_LIMITS = {
    "max_str_len": 4 * TEXT_LIMIT,
    "max_bin_len": 8 * ENTRIES_LIMIT,
    "max_array_len": 0,
    "max_map_len": 15,
    "max_ext_len": 0,
}
"""Given to msgpack with every header, which checks them before it allocates. A map of at most 15
entries is a fixmap, whose first byte is its type and its length."""


def bin_prefix(data_bytes: int) -> bytes:
    """Type byte and length of a msgpack `bin`, in its shortest form: how frame 1 ends when a second
    frame of `data_bytes` follows."""
    if data_bytes < 1 << 8:
        return struct.pack(">BB", 0xC4, data_bytes)
    if data_bytes < 1 << 16:
        return struct.pack(">BH", 0xC5, data_bytes)
    return struct.pack(">BI", 0xC6, data_bytes)


def _as_it_is(value: Any) -> Any:
    return value


class Kind(NamedTuple):
    """How one kind of value travels. `fits` judges it in its packed form, both when it is sent and
    when it is received; `allowed` is how a refusal names what would have been right."""

    allowed: str
    fits: Callable[[Any], bool]
    pack: Callable[[Any], Any] = _as_it_is
    unpack: Callable[[Any], Any] = _as_it_is


def _whole(low: int, high: int) -> Kind:
    """Integers from low to high; a bool is not one."""
    allowed = f"an integer from {low} to {high}"
    return Kind(allowed, lambda value: type(value) is int and low <= value <= high)


def _text(low: int, high: int) -> Kind:
    """Printable strings, so that no peer can write control characters into a log or a terminal."""

    def fits(value: Any) -> bool:
        return type(value) is str and low <= len(value) <= high and value.isprintable()

    return Kind(f"{low} to {high} printable characters", fits)


def _is_measure(value: Any) -> bool:
    return type(value) is float and 0.0 <= value < float("inf")


def _are_names(value: list[Any]) -> bool:
    """Of a list, because nothing else is read or sent as `layers`."""
    return (
        1 <= len(value) <= LAYERS_LIMIT
        and all(map(_NAME.fits, value))
        and len(set(value)) == len(value)
    )


def _is_vector(value: Any) -> bool:
    if type(value) is not bytes or len(value) % 8 or len(value) > 8 * ENTRIES_LIMIT:
        return False
    return all(map(_is_measure, _unpack_vector(value)))


def _is_histogram(value: Any) -> bool:
    return _is_vector(value) and abs(sum(_unpack_vector(value)) - 1.0) <= HISTOGRAM_SLACK


def _pack_vector(vector: Vector) -> bytes:
    return struct.pack(f"<{len(vector)}d", *vector)


def _unpack_vector(packed: bytes) -> Vector:
    return struct.unpack(f"<{len(packed) // 8}d", packed)


def _or_nil(kind: Kind) -> Kind:
    return Kind(
        f"nil or {kind.allowed}",
        lambda value: value is None or kind.fits(value),
        lambda value: None if value is None else kind.pack(value),
        lambda value: None if value is None else kind.unpack(value),
    )


_FLOATS = f"a bin of at most {ENTRIES_LIMIT} finite float64 of at least 0"
_UNSIGNED = _whole(0, UNSIGNED_LIMIT)
_MEASURE = Kind("a finite float of at least 0", _is_measure, float)
_NAME = _text(1, NAME_LIMIT)
_NAMES = Kind(f"1 to {LAYERS_LIMIT} different names", _are_names, list, tuple)
_VECTOR = Kind(_FLOATS, _is_vector, _pack_vector, _unpack_vector)
_HISTOGRAM = Kind(f"{_FLOATS} that sum to 1", _is_histogram, _pack_vector, _unpack_vector)

_KIND_OF_TYPE: dict[Any, Kind] = {
    int: _UNSIGNED,
    int | None: _UNSIGNED,
    float: _MEASURE,
    str: _NAME,
    tuple[str, ...]: _NAMES,
    Vector: _VECTOR,
    Vector | None: _or_nil(_VECTOR),
}
_KIND_OF_FIELD = {
    "hello.histogram": _HISTOGRAM,
    "welcome.histogram": _HISTOGRAM,
    "pull.credit": _whole(CREDIT_LEAST_BYTES, CREDIT_LIMIT_BYTES),
    "chunk.version": _whole(1, UNSIGNED_LIMIT),
    "probe.bytes": _whole(1, PROBE_LIMIT_BYTES),
    "error.code": Kind(f"one of {' '.join(ERROR_CODES)}", lambda value: value in ERROR_CODES),
    "error.message": _text(0, TEXT_LIMIT),
}

Shape = dict[str, Kind]
"""The keys of a header besides `t`, in the order in which they are sent."""


@dataclass(frozen=True)
class Layout:
    """How one class of messages travels: its type string, every shape that its header may have, and
    the most bytes of its second frame (0: it has none)."""

    t: str
    message: type[Any]
    shapes: tuple[Shape, ...]
    data_limit_bytes: int = 0


def _layout(message: type[Any], data_limit_bytes: int = 0) -> Layout:
    """Frame 2 is `data`, and `last` shows in the keys; every other field is a key of the header."""
    t = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", message.__name__).lower()
    fields = {key: hint for key, hint in get_type_hints(message).items() if key not in _KEYLESS}
    shape = {key: _KIND_OF_FIELD.get(f"{t}.{key}") or _KIND_OF_TYPE[fields[key]] for key in fields}
    return Layout(t, message, (shape,), data_limit_bytes)


def _chunk_layout() -> Layout:
    """A chunk gains `sum` where it ends a layer, and `progress` as well where it ends the pull."""
    whole = _layout(Chunk, CHUNK_LIMIT_BYTES)
    (ends_pull,) = whole.shapes
    ends_layer = {key: ends_pull[key] for key in ends_pull if key != "progress"}
    inner = {key: ends_layer[key] for key in ends_layer if key != "sum"}
    return replace(whole, shapes=(inner, ends_layer, ends_pull))


def _layouts() -> list[Layout]:
    special = {Chunk: _chunk_layout(), ProbeData: _layout(ProbeData, PROBE_LIMIT_BYTES)}
    return [special.get(message) or _layout(message) for message in get_args(Message)]


_KEYLESS = ("data", "last")
LAYOUT_OF_CLASS = {layout.message: layout for layout in _layouts()}
LAYOUT_OF_TYPE = {layout.t: layout for layout in LAYOUT_OF_CLASS.values()}
