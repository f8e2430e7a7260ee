"""What goes over the wire, without a wire: protocol version 1 as pure functions and objects.

docs/protocol.md is the reference. Sockets, threads and clocks are in `mpls.runtime`.
"""

from mpls.wire.buffers import Buffer, BufferPool
from mpls.wire.codec import Frames, decode, encode, encoded_bytes, refusal
from mpls.wire.frames import CREDIT_LIMIT_BYTES, LAYERS_LIMIT, MESSAGE_LIMIT_BYTES
from mpls.wire.incoming import Accepted, Incoming, LayerArrived, LayerRefused
from mpls.wire.outgoing import Outgoing
from mpls.wire.traffic import PullTraffic, pull_messages, pull_traffic
from mpls.wire.transfer import ChunkPlan, chunk_bytes

__all__ = [
    "CREDIT_LIMIT_BYTES",
    "LAYERS_LIMIT",
    "MESSAGE_LIMIT_BYTES",
    "Accepted",
    "Buffer",
    "BufferPool",
    "ChunkPlan",
    "Frames",
    "Incoming",
    "LayerArrived",
    "LayerRefused",
    "Outgoing",
    "PullTraffic",
    "chunk_bytes",
    "decode",
    "encode",
    "encoded_bytes",
    "pull_messages",
    "pull_traffic",
    "refusal",
]
