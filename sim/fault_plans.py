"""Which faults befall a point: what `--faults` says.

    faults.toml        those of the file, in every point
    seeded             drawn anew for each point from its own seed
    seed=7             drawn from this seed, for every point

Drawn faults begin within `within` seconds of virtual time (`seed=7,within=30`); where that is left
out, within the time that the local passes alone would take.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpls.config import ClusterConfig
from mpls.errors import BadInput, shown
from sim.faults import LONGEST_S, Fault, demand_known, random_faults, read_faults

GOOD = "faults.toml, seeded, seed=7, seeded,within=30"
_DRAWN = re.compile(r"(?:seeded|seed=([0-9]{1,18}))(?:,within=([0-9]*\.?[0-9]+))?")


@dataclass(frozen=True)
class FaultPlan:
    """Either listed faults, or a seed to draw them from, which is by default the point's own."""

    text: str = ""
    """As it was asked for, for labels; empty for no faults."""
    place: str = ""
    """The file of the listed ones."""
    listed: tuple[Fault, ...] = ()
    drawn: bool = False
    seed: int | None = None
    within_s: float | None = None

    def faults(self, config: ClusterConfig, run_s: float) -> tuple[Fault, ...]:
        """Those of a point that runs for about so long. BadInput for a worker or a link that the
        cluster has not."""
        if not self.drawn:
            demand_known(self.listed, config, f"{self.place}: ")
            return self.listed
        links = config.links()
        if not links:
            raise BadInput(f"--faults {self.text}: needs a cluster with a link to befall")
        seed = config.cluster.seed if self.seed is None else self.seed
        return random_faults(seed, len(config.workers), links, self.within_s or run_s)


NO_FAULTS = FaultPlan()


def parse_faults(text: str, found_at: Callable[[str], Path] = Path) -> FaultPlan:
    """What `text` asks for; `found_at` says where a file that it names is. Raises BadInput, one
    line."""
    text = text.strip()
    match = _DRAWN.fullmatch(text)
    if match:
        seed, within_s = match.groups()
        if within_s is not None and not 0.0 < float(within_s) <= LONGEST_S:
            raise BadInput(f"--faults {shown(text)}: within must be above 0; good ones: {GOOD}")
        return FaultPlan(
            text,
            drawn=True,
            seed=None if seed is None else int(seed),
            within_s=None if within_s is None else float(within_s),
        )
    path = found_at(text)
    if not path.is_file():
        raise BadInput(f"--faults {shown(text)}: no such file; good ones: {GOOD}")
    return FaultPlan(text, text, read_faults(path))
