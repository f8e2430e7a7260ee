"""What a trace says of the worker and its machine, for readers: no replay needs it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpls import __version__
from mpls.config import ClusterConfig


def about(
    config: ClusterConfig, worker_id: int, labels: np.ndarray, started_unix_s: float
) -> dict[str, Any]:
    """Fields of the trace's header. `labels` (workers, classes) counts everybody's samples."""
    return {
        "worker": worker_id,
        "pid": os.getpid(),
        "started_unix_s": started_unix_s,
        "config_hash": config.config_hash(),
        "labels": labels[worker_id].tolist(),
        "host": platform.node(),
        "kernel": platform.release(),
        "congestion_control": _congestion_control(),
        "versions": {"mpls": __version__, "python": platform.python_version()}
        | {"torch": torch.__version__, "numpy": np.__version__},
    }


def _congestion_control() -> str:
    path = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return path.read_text().strip() if path.exists() else "unknown"
