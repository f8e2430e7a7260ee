"""A checkpoint as bytes: a safetensors file, with all that is no tensor as JSON in its metadata.

The metadata has four keys: `format`, `schema`, `state` (JSON) and `sha256`, which is over the state
and every tensor's name, type, shape and bytes, in the order of the names. No byte of a file is
believed before that is right, and nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

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

Tensors = Mapping[str, NDArray[Any]]


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


def encode(checkpoint: Checkpoint) -> bytes:
    """The file's content."""
    tensors = {name: np.asarray(it, order="C") for name, it in checkpoint.tensors.items()}
    state = json.dumps(checkpoint.state, sort_keys=True, separators=(",", ":"), allow_nan=False)
    metadata = {"format": FORMAT, "schema": SCHEMA, "state": state, "sha256": _sum(state, tensors)}
    return save(tensors, metadata)


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
        values = np.asarray(tensors[name], order="C")
        digest.update(f"\n{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
