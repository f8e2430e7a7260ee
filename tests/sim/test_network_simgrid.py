"""Finish times equal SimGrid's to 1e-9: max-min fairness, and SimGrid's own models."""

from __future__ import annotations

import pytest

from mpls.core.streams import Stream
from tests.sim import simgrid
from tests.sim.network_rig import Transfer, ends_s, model, uneven

pytestmark = pytest.mark.live
SEEDS = range(12)


@pytest.fixture(autouse=True, scope="module")
def simgrid_is_here() -> None:
    reason = simgrid.missing()
    if reason is not None:
        pytest.skip(f"not compared with SimGrid: {reason}")


def workload(seed: int, latency_s: float) -> tuple[simgrid.Platform, list[Transfer]]:
    """A random federation, with or without cards, that is busy most of the time."""
    draws = Stream(seed, "simgrid")
    workers = 3 + draws.below(20)
    nic_Bps = draws.pick([None, 12.5e6, draws.between(5e6, 50e6)])
    links = [(a, b) for a in range(workers) for b in range(workers) if a != b]
    rates_Bps = {link: draws.between(5e6, 15e6) for link in links}
    transfers = [
        Transfer(at_s, *draws.pick(links), float(100_000 + draws.below(5_000_000)))
        for at_s in sorted(draws.pick([0.0, draws.between(0.0, 5.0)]) for _ in range(8 * workers))
    ]
    return simgrid.Platform(workers, nic_Bps, latency_s, rates_Bps), transfers


@pytest.mark.parametrize("seed", SEEDS)
def test_max_min_ends_every_flow_when_simgrid_does(seed: int) -> None:
    platform, transfers = workload(seed, latency_s=0.0)
    theirs_s = simgrid.ends_s("cm02", platform, transfers)
    links = uneven(dict(platform.rates_Bps))
    for name in ("fluid", "cm02"):
        ours_s = ends_s(model(name, links, platform.nic_Bps, latency_s=0.0), *transfers)
        assert ours_s == pytest.approx(theirs_s, rel=1e-9)


@pytest.mark.parametrize("latency_s", [1e-4, 1e-2])
@pytest.mark.parametrize("name", ["lv08", "cm02"])
@pytest.mark.parametrize("seed", SEEDS)
def test_simgrids_models_with_latency_end_every_flow_when_simgrid_does(
    seed: int, name: str, latency_s: float
) -> None:
    platform, transfers = workload(seed, latency_s)
    theirs_s = simgrid.ends_s(name, platform, transfers)
    links = uneven(dict(platform.rates_Bps))
    ours_s = ends_s(model(name, links, platform.nic_Bps, latency_s=latency_s), *transfers)
    assert ours_s == pytest.approx(theirs_s, rel=1e-9)
