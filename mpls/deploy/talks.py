"""Whether every pair of workers really talks: each has said hello to each of its peers, with its
own key, and was welcomed, since both are as they are now. The workers do that by themselves, and
their traces say so; a hello of anybody else in their name would take their place."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

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
    """The pairs of workers on these servers, as `w0 -> w1`, that did not talk in that time."""
    at = {it.id: remote for remote in remotes for it in remote.server.workers}
    pairs = [(a, b) for a in at for b in config.peers_of(a) if b in at]
    end_s = time.monotonic() + within_s
    while True:
        heard = {worker: _heard(remote, worker) for worker, remote in at.items()}
        silent = [pair for pair in pairs if not _talked(config, heard, at, *pair)]
        if not silent or time.monotonic() > end_s:
            return [f"{config.worker(a).name} -> {config.worker(b).name}" for a, b in silent]
        time.sleep(PAUSE_S)


Heard = tuple[float, dict[str, float]]
"""When a worker's life began, and when each peer welcomed it; on the clock of its server."""


def _heard(remote: Remote, worker_id: int) -> Heard:
    python = layout.CURRENT / "venv" / "bin" / "python"
    name = next(it.name for it in remote.server.workers if it.id == worker_id)
    ran = remote.run(f"{python} -m mpls.deploy.heard {layout.state(worker_id)} {name}")
    try:
        found = json.loads(ran.out)
    except ValueError:
        raise RunFailed(f"{remote.server.name}: what {name} heard: {ran.why}") from None
    return found.get("began_s", float("inf")), found.get("welcomes", {})


def _talked(
    config: ClusterConfig, heard: dict[int, Heard], at: dict[int, Remote], a: int, b: int
) -> bool:
    """A welcome of a life before this one of the peer says nothing."""
    welcome_s = heard[a][1].get(config.worker(b).name)
    if welcome_s is None:
        return False
    offset = {worker: float(at[worker].found["offset_s"]) for worker in (a, b)}
    return welcome_s - offset[a] >= heard[b][0] - offset[b] - CLOCK_S
