"""What a worker believes of each peer, how old that is, and whether plans may use the peer.

Standing of a peer:
- `unknown`      it has not answered a hello yet;
- `ready`        plans may use it;
- `away`         a pull or a question to it failed; left out until it answers again;
- `incompatible` it trains another model or speaks another protocol version;
- `quarantined`  it sent STRIKES unusable layers; left out for QUARANTINE_S.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum, isfinite
from typing import Any

from mpls.core.bandwidth import BandwidthEstimator
from mpls.core.effects import Outcome
from mpls.core.plan import PeerView
from mpls.core.protocol import StatusOk, Vector, Welcome

STRIKES = 3
STRIKE_MEMORY_S = 600.0
"""A strike counts no longer than this: a rare bad layer in a month is no malice."""
QUARANTINE_S = 600.0
PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)
"""A peer that answers questions but fails pulls is tried again after these, and from then on after
the last."""
HISTOGRAM_TOLERANCE = 1e-6
SAMPLES_LIMIT = 10**12


@dataclass(eq=False)
class Peer:
    """Belief about one peer."""

    name: str
    bandwidth: BandwidthEstimator
    standing: str = "unknown"
    noted: str = "unknown"
    """The standing that was last recorded."""
    noted_s: float = float("-inf")
    """When that was."""
    histogram: Vector | None = None
    progress: Vector | None = None
    """g of Eq. 5 as last heard, for each layer; None while unknown."""
    state: str = ""
    round: int = 0
    version: int = 0
    heard_s: float = float("-inf")
    """When it last answered anything."""
    advanced_s: float = float("-inf")
    """When its round or state was last seen to change."""
    probed_s: float = float("-inf")
    """When its link was last probed, with or without success."""
    round_trips_s: list[float] = field(default_factory=list)
    misses: int = 0
    """Failed pulls since the last one that succeeded."""
    outliers: int = 0
    """Rounds in a row in which its weights stood out."""
    strikes: int = 0
    struck_s: float = float("-inf")
    out_until_s: float = float("-inf")
    removed: bool = False
    """It is no peer any more: whoever is in the middle of something with it ends that."""

    def memory(self, now: float) -> dict[str, Any]:
        """What `restore` takes, as JSON knows it: what outlives a restart of the one who believes
        it. What it says of itself is asked anew."""
        return {
            "bandwidth": self.bandwidth.memory(),
            "strikes": self.strikes,
            "struck": now - self.struck_s <= STRIKE_MEMORY_S,
            "quarantined": self.standing == "quarantined",
            "out_s": max(0.0, self.out_until_s - now),
        }

    def restore(self, memory: Mapping[str, Any], now: float = 0.0) -> None:
        """Believe what was believed before; `now` is when the new life begins, on its own clock,
        which need not have to do with the one before."""
        self.bandwidth.restore(memory["bandwidth"], now)
        if memory["struck"]:
            self.strikes, self.struck_s = memory["strikes"], now
        if memory["out_s"] > 0:
            self.out_until_s = now + memory["out_s"]
        if memory["quarantined"]:
            self.standing = "quarantined"

    def view(self) -> PeerView:
        """What a plan is made from."""
        return PeerView(self.name, self.bandwidth.value_Bps, self.histogram, self.progress)

    def round_trip_s(self) -> float:
        """The shortest of the last answers to a question; 0 while none was timed."""
        return min(self.round_trips_s, default=0.0)

    def answered(self, now: float) -> None:
        """It answered a question: usable again, unless a pause or quarantine still runs."""
        self.heard_s = now
        if self.standing in ("unknown", "away", "quarantined") and now >= self.out_until_s:
            self.standing = "ready"

    def time_round_trip(self, outcome: Outcome) -> None:
        """Keep the last eight."""
        self.round_trips_s = [*self.round_trips_s[-7:], outcome.seconds]

    def missed(self) -> None:
        """A question to it failed."""
        if self.standing in ("ready", "unknown"):
            self.standing = "away"

    def failed_pull(self, now: float, share: float = 1.0) -> None:
        """A pull from it failed: left out until it answers, and longer each time in a row; for
        that share of the pause."""
        self.misses += 1
        pause_s = PAUSES_S[min(self.misses, len(PAUSES_S)) - 1] * share
        self.out_until_s = max(self.out_until_s, now + pause_s)
        self.missed()

    def delivered(self, now: float) -> None:
        """A pull from it came whole."""
        self.misses = 0
        self.heard_s = now

    def stood_out(self, now: float, share: float = 1.0) -> None:
        """What it sent is valid, and far from everybody else's weights: left out for twice as long
        each time in a row, for that share of it."""
        self.outliers += 1
        pause_s = min(QUARANTINE_S, 2.0 ** min(self.outliers - 1, 30)) * share
        self.out_until_s = max(self.out_until_s, now + pause_s)
        self.missed()

    def strike(self, now: float) -> bool:
        """It sent something unusable; True if that puts it into quarantine."""
        if now - self.struck_s > STRIKE_MEMORY_S:
            self.strikes = 0
        self.strikes += 1
        self.struck_s = now
        if self.strikes < STRIKES:
            return False
        self.strikes = 0
        self.standing = "quarantined"
        self.out_until_s = now + QUARANTINE_S
        return True

    def believe_welcome(self, welcome: Welcome, classes: int) -> bool:
        """Keep what it says of its data; False if that cannot be, and its histogram is unknown."""
        sound = self.believe_histogram(welcome.histogram, classes)
        return sound and 0 <= welcome.samples <= SAMPLES_LIMIT

    def believe_status(self, status: StatusOk, layers: int, now: float) -> bool:
        """Keep how far it says to be; False, and its progress is unknown, if that cannot be."""
        if status.round != self.round or status.state != self.state:
            self.advanced_s = now
        self.state, self.round, self.version = status.state, status.round, status.version
        sound = self.believe_progress(status.progress, layers)
        return sound and isfinite(status.step_s) and status.step_s >= 0

    def believe_histogram(self, histogram: Vector, classes: int) -> bool:
        """Keep a valid label histogram; False (and unknown) for anything else."""
        valid = (
            len(histogram) == classes
            and all(0 <= share <= 1 + HISTOGRAM_TOLERANCE for share in histogram)
            and abs(fsum(histogram) - 1) <= HISTOGRAM_TOLERANCE
        )
        self.histogram = histogram if valid else None
        return valid

    def believe_progress(self, progress: Vector | None, layers: int) -> bool:
        """Keep valid progress; None is 'unknown', anything else False (and unknown)."""
        valid = (
            progress is None
            or progress is self.progress
            or (len(progress) == layers and all(isfinite(g) and g >= 0 for g in progress))
        )
        self.progress = progress if valid else None
        return valid
