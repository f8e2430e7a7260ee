"""SimGrid itself (Debian: libsimgrid-dev, g++), to run the same flows through."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpls.core.links import Link
from tests.sim.network_rig import Transfer

SOURCE = Path(__file__).with_name("simgrid_flows.cpp")
TIMEOUT_S = 300
MODELS = {
    "cm02": ["--cfg=network/model:CM02", "--cfg=network/crosstraffic:no"],
    "lv08": ["--cfg=network/model:LV08", "--cfg=network/crosstraffic:yes"],
}
WHOLE_RUN = (0.0, 0.0)
PRECISE = ["--cfg=maxmin/precision:1e-12", "--cfg=surf/precision:1e-12"]


@dataclass(frozen=True)
class Platform:
    """Cards and links, all directions that flows or their acknowledgements take."""

    workers: int
    nic_Bps: float | None
    latency_s: float
    rates_Bps: Mapping[Link, float]


def missing() -> str | None:
    """Why SimGrid cannot be run here, and what would help; None if it can."""
    if shutil.which("g++") is None:
        return "no g++; apt-get install g++ libsimgrid-dev"
    if not any(Path(d, "simgrid/s4u.hpp").exists() for d in ("/usr/include", "/usr/local/include")):
        return "SimGrid is not installed; apt-get install libsimgrid-dev"
    return None


def ends_s(model: str, platform: Platform, transfers: Sequence[Transfer]) -> list[float]:
    """When each transfer ended. Sizes are whole bytes; transfers are in order of time."""
    return _run([*MODELS[model], *PRECISE], platform, transfers, WHOLE_RUN)[:-1]


def taken_s(
    model: str,
    platform: Platform,
    transfers: Sequence[Transfer],
    window_s: tuple[float, float] = WHOLE_RUN,
) -> float:
    """Processor seconds of a run, or from one virtual time to another, both after the last transfer
    began; with SimGrid's own precision."""
    return _run(MODELS[model], platform, transfers, window_s)[-1]


def _run(
    options: Sequence[str],
    platform: Platform,
    transfers: Sequence[Transfer],
    window_s: tuple[float, float],
) -> list[float]:
    done = subprocess.run(
        [str(_program()), *options, "--log=root.thres:error"],
        input=f"{_described(platform, transfers)}\n{window_s[0]!r} {window_s[1]!r}",
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    return [float(line) for line in done.stdout.split()]


@functools.cache
def _program() -> Path:
    target = Path(tempfile.mkdtemp(prefix="mpls-simgrid-"), "flows")
    command = ["g++", "-O2", "-std=c++17", str(SOURCE), "-lsimgrid", "-o", str(target)]
    subprocess.run(command, check=True, timeout=TIMEOUT_S)
    return target


def _described(platform: Platform, transfers: Sequence[Transfer]) -> str:
    lines = [f"{platform.workers} {platform.nic_Bps or 0.0!r} {platform.latency_s!r}"]
    lines.append(str(len(platform.rates_Bps)))
    lines += [f"{src} {dst} {rate_Bps!r}" for (src, dst), rate_Bps in platform.rates_Bps.items()]
    lines.append(str(len(transfers)))
    lines += [f"{flow.at_s!r} {flow.src} {flow.dst} {int(flow.total_bytes)}" for flow in transfers]
    return "\n".join(lines)
