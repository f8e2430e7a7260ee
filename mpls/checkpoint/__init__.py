"""What survives a crash: a worker's state as a file, and the folder that keeps the last of them."""

from mpls.checkpoint.folder import CheckpointFolder, Found
from mpls.checkpoint.format import Checkpoint, Damaged, Tensors, decode, encode
from mpls.checkpoint.identity import Identity

__all__ = [
    "Checkpoint",
    "CheckpointFolder",
    "Damaged",
    "Found",
    "Identity",
    "Tensors",
    "decode",
    "encode",
]
