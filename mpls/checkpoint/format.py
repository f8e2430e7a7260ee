"""A checkpoint as bytes: a safetensors file, with all that is no tensor as JSON in its metadata.

The metadata has four keys: `format`, `schema`, `state` (JSON) and `sha256`, which is over the state
and every tensor's name, type, shape and bytes, in the order of the names. No byte of a file is
believed before that is right, and nothing in it is ever executed.

The library reads such a file, and would write it too, but under the interpreter's lock and with two
more copies of all tensors: that took more from training than all else together. So here is a header
of our own, and each tensor goes from where it lies to the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from mpls.errors import BadInput, shown

FORMAT = "mpls-checkpoint"
SCHEMA = "1"
HEADER_LIMIT_BYTES = 16 * 2**20
"""Of the JSON at the beginning; more is no checkpoint of ours."""
_KEYS = frozenset({"format", "schema", "state", "sha256"})
_STATE_TYPES: dict[str, type] = {
    "worker": str,
    "model": str,
    "learning": dict,
    "round": int,
    "steps": int,
    "begun": int,
    "learner": dict,
    "core": dict,
    "served": dict,
    "ledger": dict,
    "saved_unix_s": float,
}

_TYPES = {"|b1": "BOOL", "|i1": "I8", "|u1": "U8", "<f2": "F16", "<i2": "I16", "<u2": "U16"}
_TYPES |= {f"<{kind}{size}": f"{kind.upper()}{8 * size}" for kind in "fiu" for size in (4, 8)}
"""What safetensors calls numpy's types."""

Tensors = Mapping[str, NDArray[Any]]
Piece = bytes | memoryview
"""Of a file."""


class Damaged(BadInput):
    """A file that is no whole checkpoint of this version."""


@dataclass(frozen=True)
class Checkpoint:
    """One worker's state between two local steps."""

    worker: str
    model: str
    """The manifest's hash."""
    learning: Mapping[str, Any]
    """What the weights are learned with: settings that must not change in between."""
    round: int
    """Rounds that are mixed in."""
    steps: int
    """Local steps since the worker first began."""
    begun: int
    """... and since the last mixing."""
    tensors: Tensors
    """Weights (flat), and what else the learner has: see `model.training.Learner.state`."""
    learner: Mapping[str, Any]
    """What of it is no tensor: its place in the data, and the order of that."""
    core: Mapping[str, Any]
    """What it believes of its peers: `core.round.Rounds.memory`."""
    served: Mapping[str, Any]
    """What it tells its peers of its progress: `core.serving.Serving.memory`."""
    ledger: Mapping[str, Any]
    """For each peer and layer, the version and round of the copy that was mixed in last."""
    saved_unix_s: float

    @property
    def state(self) -> dict[str, Any]:
        """All but the tensors."""
        return {name: getattr(self, name) for name in _STATE_TYPES}


def encode(checkpoint: Checkpoint) -> list[Piece]:
    """The file's content: the header, then each tensor's own memory, which must stay as it is until
    it is written. The widest types come first, so that each number lies at a multiple of its size.
    """
    state = json.dumps(checkpoint.state, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = _sum(state, checkpoint.tensors)
    metadata = {"format": FORMAT, "schema": SCHEMA, "state": state, "sha256": digest}
    plain = [(name, _plain(values)) for name, values in checkpoint.tensors.items()]
    plain.sort(key=lambda tensor: (-tensor[1].itemsize, tensor[0]))
    return [_header(metadata, plain), *(_memory(values) for _, values in plain)]


def decode(data: bytes, place: str) -> Checkpoint:
    """The checkpoint. Raises Damaged, naming the place and what is wrong."""
    metadata = _metadata(data, place)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{place}: damaged: {shown(str(error))}") from None
    state = metadata["state"]
    if metadata["sha256"] != _sum(state, tensors):
        raise Damaged(f"{place}: damaged: its SHA-256 is not that of its content")
    return _checkpoint(state, tensors, place)


def _metadata(data: bytes, place: str) -> dict[str, str]:
    if not data:
        raise Damaged(f"{place}: empty")
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(HEADER_LIMIT_BYTES, len(data) - 8):
        raise Damaged(f"{place}: damaged or cut off: {len(data)} bytes are no safetensors file")
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        known = isinstance(metadata, dict) and metadata["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise Damaged(f"{place}: no checkpoint of a worker")
    if metadata.get("schema") != SCHEMA:
        found = shown(metadata.get("schema"))
        raise Damaged(f"{place}: schema {found}; this version reads {SCHEMA}")
    if metadata.keys() != _KEYS:
        raise Damaged(f"{place}: damaged: its metadata has other keys than {sorted(_KEYS)}")
    return {key: str(value) for key, value in metadata.items()}


def _checkpoint(state: str, tensors: Tensors, place: str) -> Checkpoint:
    fields = json.loads(state)
    wrong = not isinstance(fields, dict) or fields.keys() != _STATE_TYPES.keys()
    if wrong or any(type(fields[name]) is not kind for name, kind in _STATE_TYPES.items()):
        raise Damaged(f"{place}: damaged: its state is not what this version writes")
    return Checkpoint(tensors=tensors, **fields)


def _sum(state: str, tensors: Tensors) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        values = _plain(tensors[name])
        digest.update(f"\n{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(_memory(values))
    return digest.hexdigest()


def _header(metadata: Mapping[str, str], tensors: Sequence[tuple[str, NDArray[Any]]]) -> bytes:
    """Its length in eight bytes, and JSON, with blanks up to a multiple of eight."""
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, values in tensors:
        stop = start + values.nbytes
        kind, shape = _TYPES[values.dtype.str], values.shape
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """As a file has it: little-endian, the last axis fastest. On usual machines no copy."""
    return np.asarray(values, values.dtype.newbyteorder("<"), order="C")


def _memory(values: NDArray[Any]) -> memoryview:
    return values.reshape(-1).view(np.uint8).data
