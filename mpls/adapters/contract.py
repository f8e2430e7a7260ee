"""What both ends of the earlier implementation's contract agree on, beyond `mpls_service.proto`.

Layers are numbered, and of each only weight and bias travel; there is neither progress nor version,
no word of the model but the length of its layers, and no answer longer than LIMIT_BYTES.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mpls.adapters import npy
from mpls.errors import ProtocolError, Refused

SERVICE = "mpls.MPLSService"
LIMIT_BYTES = 100 * 2**20
"""No message is longer."""
REQUEST_LIMIT_BYTES = 64 * 1024
PROBE_LIMIT_BYTES = 2**20
OVERHEAD_BYTES = 256
"""What a layer takes in a message beyond its values, at most."""
DTYPE = "torch.float32"
PULL_S, METADATA_S, HEARTBEAT_S, PROBE_S = 30.0, 5.0, 2.0, 30.0
"""How long a call of each kind may take."""
STATES = {"training": "running", "aggregating": "running"}
"""Their status -> our state, while a worker is at work; `idle` is before that, or after."""
USE_ZMQ = 'use transport = "zmq" for that'


class Catalogue:
    """The layers of a model by number. `plain_values` has for each, in module order, how many
    values of it travel. Raises Refused for a model that this contract cannot carry."""

    def __init__(self, plain_values: Mapping[str, int]) -> None:
        self.values = tuple(plain_values.values())
        self.names = tuple(plain_values)
        self._indices = {name: index for index, name in enumerate(self.names)}
        for name, values in plain_values.items():
            if self._layer_bytes(values) > LIMIT_BYTES:
                raise Refused(
                    f"layer {name} has {values * npy.ITEM_BYTES} bytes, and a gRPC message"
                    f" carries {LIMIT_BYTES}; {USE_ZMQ}"
                )

    def index(self, name: str) -> int:
        """The number of this layer."""
        return self._indices[name]

    def chosen(self, indices: Sequence[int]) -> tuple[str, ...]:
        """The layers with these numbers, or ProtocolError: never another layer."""
        if len(indices) > len(self.names):
            raise ProtocolError(f"{len(indices)} layer indices; there are {len(self.names)} layers")
        for index in indices:
            if not 0 <= index < len(self.names):
                last = len(self.names) - 1
                raise ProtocolError(f"layer index {index}: there are layers 0 to {last}")
        if len(set(indices)) < len(indices):
            raise ProtocolError("a layer index is in it twice")
        return tuple(self.names[index] for index in indices)

    def message_bytes(self, names: Iterable[str]) -> int:
        """About what an answer with these layers takes, and no less."""
        return sum(self._layer_bytes(self.values[self._indices[name]]) for name in names)

    def longest_bytes(self) -> int:
        """What the answer with the largest layer takes."""
        return max(map(self._layer_bytes, self.values))

    @staticmethod
    def _layer_bytes(values: int) -> int:
        return values * npy.ITEM_BYTES + OVERHEAD_BYTES
