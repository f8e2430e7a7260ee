"""Live runs over links that are really shaped, each left as a folder that `sim compare` takes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

from mpls.core.links import link_rate_Bps
from mpls.units import parse_bandwidth
from tests.live.fleet import Fleet, until
from tests.live.netns import Network

PORT = 7000
LOOK_S = 0.2
ENDS_S = 600.0


@dataclass(frozen=True)
class Setting:
    """What is run. Each pair of workers has the rate that the twin draws for it, too."""

    model: str
    """A function of tests.twin.models."""
    bw: str = "10-15MB"
    strategy: str = "mpls"
    workers: int = 3
    rounds: int = 40
    halved_after_s: float | None = None
    """Of every link, so long after the first worker began; None for never."""

    @property
    def name(self) -> str:
        """For folders and tables."""
        change = f"-halved{self.halved_after_s:g}" if self.halved_after_s else ""
        return f"{self.model}-{self.bw}-{self.strategy}-{self.workers}{change}"


def live_run(setting: Setting, seed: int, folder: Path) -> Path:
    """Run it in network namespaces; its folder is made anew."""
    hosts = [f"w{number}" for number in range(setting.workers)]
    with Network(hosts) as network, TemporaryDirectory() as scratch:
        for src, dst in permutations(range(setting.workers), 2):
            rate_Bps = link_rate_Bps(parse_bandwidth(setting.bw), (src, dst), seed)
            network.set_rate(hosts[src], hosts[dst], rate_Bps)
        addresses = {host: f"{network.address(host)}:{PORT}" for host in hosts}
        with Fleet(Path(scratch), addresses, network.inside, _tables(setting, seed)) as fleet:
            fleet.start(*hosts)
            _wait(setting, seed, fleet, network)
            _gather(fleet, folder)
    return folder


def _tables(setting: Setting, seed: int) -> dict[str, dict[str, object]]:
    return {
        "cluster": {"topology": "full" if setting.workers < 5 else "ring", "seed": seed},
        "model": {"name": f"tests.twin.models:{setting.model}"},
        "training": {
            "rounds": setting.rounds,
            "batch_size": 16,
            "local_steps": 10,
            "eval_every": 5,
            "lr": 0.02,
        },
        "mpls": {"strategy": setting.strategy},
        "network": {"emulate": "", "security": "plaintext"},
    }


def _wait(setting: Setting, seed: int, fleet: Fleet, network: Network) -> None:
    """Until every worker has ended; meanwhile the links change as the setting says."""
    changes = _changes(setting, seed, fleet, network)
    processes = [fleet[name].process for name in fleet.names]

    def over() -> bool:
        next(changes, None)
        time.sleep(LOOK_S)
        return all(process.poll() is not None for process in processes)

    until(over, "all workers end", ENDS_S)
    for name in fleet.names:
        assert fleet[name].process.returncode == 0, fleet[name].output()


def _changes(setting: Setting, seed: int, fleet: Fleet, network: Network) -> Iterator[None]:
    """Asked again and again; halves the links once, when their time has come."""
    if setting.halved_after_s is None:
        return
    first = fleet[fleet.names[0]]
    while not first.trace.is_file() or next(first.since(0, "header"), None) is None:
        yield
    while time.time() < first.unix_s(0.0) + setting.halved_after_s:
        yield
    for src, dst in permutations(range(setting.workers), 2):
        rate_Bps = link_rate_Bps(parse_bandwidth(setting.bw), (src, dst), seed)
        network.set_rate(fleet.names[src], fleet.names[dst], rate_Bps / 2)


def _gather(fleet: Fleet, folder: Path) -> None:
    """One folder, as `mpls run` leaves it."""
    folder.mkdir(parents=True)
    shutil.copy(fleet.file, folder / "cluster.toml")
    for name in fleet.names:
        shutil.copy(fleet[name].trace, folder)
