"""The cluster file: `load` one, or take the `builtin` cluster; both are a validated ClusterConfig.

Importing this needs no torch. `tables.py` has every key, its limits and its default.
"""

from mpls.config.cluster import ClusterConfig
from mpls.config.files import builtin, changed, dumps, load, loads
from mpls.config.tables import (
    CheckpointTable,
    ClusterTable,
    DataTable,
    LoggingTable,
    MetricsTable,
    ModelTable,
    MplsTable,
    NetworkTable,
    TrainingTable,
    WorkerTable,
)

__all__ = [
    "CheckpointTable",
    "ClusterConfig",
    "ClusterTable",
    "DataTable",
    "LoggingTable",
    "MetricsTable",
    "ModelTable",
    "MplsTable",
    "NetworkTable",
    "TrainingTable",
    "WorkerTable",
    "builtin",
    "changed",
    "dumps",
    "load",
    "loads",
]
