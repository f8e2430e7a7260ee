"""Whether every pair of workers really talks: each has said hello to each of its peers, with its
own key, and was welcomed, since both are as they are now. The workers do that by themselves, and
their traces say so; a hello of anybody else in their name would take their place."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass

from mpls.config import ClusterConfig
from mpls.deploy import layout
from mpls.deploy.session import Remote
from mpls.errors import RunFailed

TALK_S = 90
"""A peer that was away is asked again within 5 s of its return; a first pass may take long."""
PAUSE_S = 1.0
CLOCK_S = 2.0
"""How far off two servers' clocks may be believed, after their offsets."""


def silent_pairs(config: ClusterConfig, remotes: Iterable[Remote], within_s: float) -> list[str]:
    """The pairs of workers on these servers, as `w0 -> w1`, that run and did not talk in that
    time."""
    at = {it.id: remote for remote in remotes for it in remote.server.workers}
    pairs = [(a, b) for a in at for b in config.peers_of(a) if b in at]
    end_s = time.monotonic() + within_s
    while True:
        heard = {worker: _heard(remote, worker) for worker, remote in at.items()}
        offset_s = {worker: float(remote.found["offset_s"]) for worker, remote in at.items()}
        silent = [pair for pair in pairs if not talked(config, heard, offset_s, *pair)]
        if not silent or time.monotonic() > end_s:
            return [f"{config.worker(a).name} -> {config.worker(b).name}" for a, b in silent]
        time.sleep(PAUSE_S)


@dataclass(frozen=True)
class Heard:
    """When a worker's life began, and when each peer welcomed it, on the clock of its server; and
    whether its rounds are done and it has ended, so that nobody can talk to it any more."""

    began_s: float
    welcomes: dict[str, float]
    has_ended: bool


def _heard(remote: Remote, worker_id: int) -> Heard:
    python = layout.CURRENT / "venv" / "bin" / "python"
    name = next(it.name for it in remote.server.workers if it.id == worker_id)
    show = f"systemctl show {layout.unit(worker_id)} --value -p"
    ran = remote.run(
        f"{python} -m mpls.deploy.heard {layout.state(worker_id)} {name}; "
        f"{show} ActiveState; {show} Result"
    )
    try:
        found, state, result = ran.out.split("\n")
        plain = json.loads(found)
    except ValueError:
        raise RunFailed(f"{remote.server.name}: what {name} heard: {ran.why}") from None
    has_ended = (state, result) == ("inactive", "success")
    return Heard(plain.get("began_s", float("inf")), plain.get("welcomes", {}), has_ended)


def talked(
    config: ClusterConfig, heard: dict[int, Heard], offset_s: dict[int, float], a: int, b: int
) -> bool:
    """Whether b welcomed a, where each server's clock is that much ahead of ours. A welcome of a
    life before this one of the peer says nothing."""
    if heard[a].has_ended or heard[b].has_ended:
        return True
    welcome_s = heard[a].welcomes.get(config.worker(b).name)
    if welcome_s is None:
        return False
    return welcome_s - offset_s[a] >= heard[b].began_s - offset_s[b] - CLOCK_S
