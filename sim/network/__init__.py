"""Network models of the twin: `make_network` makes one by name, `start` begins a flow on it."""

from __future__ import annotations

from sim.network.base import Network
from sim.network.flows import Flow
from sim.network.links import (
    Links,
    autoregressive_links,
    constant_links,
    drawn_links,
    file_links,
    require_links,
    sine_links,
    stepping_links,
)
from sim.network.models import NETWORKS, make_network
from sim.network.overhead import Overhead
from sim.network.rate_files import read_rates

__all__ = [
    "NETWORKS",
    "Flow",
    "Links",
    "Network",
    "Overhead",
    "autoregressive_links",
    "constant_links",
    "drawn_links",
    "file_links",
    "make_network",
    "read_rates",
    "require_links",
    "sine_links",
    "stepping_links",
]
