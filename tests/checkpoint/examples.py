"""Small checkpoints."""

from __future__ import annotations

import numpy as np

from mpls.checkpoint import Checkpoint, encode


def checkpoint(steps: int = 7, size: int = 8) -> Checkpoint:
    draws = np.random.default_rng(steps)
    return Checkpoint(
        worker="w0",
        model="ab" * 32,
        learning={"[training] lr": 0.01},
        round=steps // 3,
        steps=steps,
        begun=steps % 3,
        tensors={
            "weights": draws.standard_normal(size, np.float32),
            "velocity": draws.standard_normal(size, np.float32),
            "torch_rng": draws.integers(0, 256, 16, np.uint8),
            "buffer.bn.num_batches_tracked": np.array(steps),
        },
        learner={"steps": steps, "order": {"state": {"state": 2**127 + steps}}},
        core={"peers": {}},
        served={"w1": [0.5, 0.25]},
        ledger={"w1": {"fc": [4, 2]}},
        saved_unix_s=1.5,
    )


def content(one: Checkpoint) -> bytes:
    """Of its file."""
    return b"".join(encode(one))


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Bit by bit."""
    return one.state == other.state and {
        name: (values.dtype, values.shape, values.tobytes()) for name, values in one.tensors.items()
    } == {
        name: (values.dtype, values.shape, values.tobytes())
        for name, values in other.tensors.items()
    }
