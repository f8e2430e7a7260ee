"""What the core can be told, and the only defaults of it.

The configuration file validates into these classes (`mpls.config`); nothing else in the project
repeats a default. Every duration is in seconds, every rate in bytes per second.
"""

from __future__ import annotations

from dataclasses import dataclass

STRATEGIES = (
    "mpls",
    "mpls-peer",
    "mpls-layer",
    "rand-mpls",
    "mpls-sampled",
    "appg",
    "netmax",
    "gossip",
    "local",
)
SCHEDULERS = ("list", "eft")
TIES = ("size", "index")
FILLS = ("paper", "off", "downlink")
PROGRESS_MODES = ("auto", "displacement", "path")
PACES = ("overlap", "free", "sequential")
BOOTSTRAPS = ("own", "peers")
LONGEST_BACKOFF_S = 1.0


@dataclass(frozen=True)
class PlanSettings:
    """How a plan is made: the `[mpls]` table."""

    strategy: str = "mpls"
    """One of STRATEGIES, or `package.module:Class` of a user's own."""
    scheduler: str = "list"
    """`list` is Algorithm 1 as printed, `eft` the earliest-finish-time rule."""
    tau1: float = 0.5
    """Weight of bandwidth in the peer score, Eq. 4; tau1 + tau2 = 1."""
    tau2: float = 0.5
    """Weight of divergence in the peer score, Eq. 4."""
    tie: str = "size"
    """Between layers of equal efficiency: the larger first, or the lower index (as printed)."""
    fill: str = "paper"
    """Algorithm 1, step 3: further copies while the load allows; `downlink` also while the card
    does."""
    progress: str = "auto"
    """How a worker measures its layers' progress for others, Eq. 5."""
    interval_s: float = 0.0
    """Pause between two rounds with `pace = "free"`."""


@dataclass(frozen=True)
class PullSettings:
    """How patient a worker is with its peers: the part of `[network]` that the core decides on."""

    prior_bandwidth_Bps: float = 12.5e6
    """Believed of a peer that was never measured."""
    round_s: float = 60.0
    """No aggregation round lasts longer."""
    stall_s: float = 3.0
    """An attempt without a byte for this long has stalled."""
    retries: int = 2
    """Attempts after the first. One that ended because the peer cannot be reached uses up none: the
    pull waits for it until its deadline."""
    status_s: float = 1.0
    """Each peer is asked for its status this often; 0 asks only at hello."""
    deadline_factor: float = 3.0
    """A pull may take this many times what its bytes should take at the believed bandwidth."""
    deadline_floor_s: float = 2.0
    """No pull is given less."""
    backoff_s: float = 0.2
    """Pause after a first failure; each further one is twice as long, up to LONGEST_BACKOFF_S, and
    cut by up to half at random."""


@dataclass(frozen=True)
class PaceSettings:
    """How training and aggregation take turns: the part of `[training]` that both worlds share."""

    rounds: int = 200
    """A worker stops after this many select-pull-mix cycles."""
    pace: str = "overlap"
    """`overlap`: pulls of round k run while pass k trains; `sequential`: train, then pull;
    `free`: the two loops run independently."""
    local_steps: int = 0
    """SGD minibatches in a local pass; 0 is one pass over the local shard."""
    publish_steps: int = 0
    """Publish a snapshot also after this many local steps; 0 only after mixing."""
    eval_every: int = 10
    """Rounds between two evaluations; the last round is always evaluated."""
    bootstrap: str = "own"
    """What a worker begins with: its `own` first weights, the same everywhere, or the mean of its
    `peers`' latest."""
