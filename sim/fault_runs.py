"""`python -m sim.fault_runs`: thousands of seeded fault schedules through the real core.

Each seed draws a federation's links, its faults and its times, simulates it and checks what has to
hold whatever goes wrong (`sim.fault_checks`). A seed that fails prints one line that runs it again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
from joblib import Parallel, delayed

from mpls.config import ClusterConfig, builtin, changed
from mpls.core.plan import Layer
from mpls.errors import RunFailed
from mpls.units import BandwidthRange
from sim.fault_checks import findings
from sim.fault_effects import Faults
from sim.fault_lives import Lives
from sim.faults import KINDS, Fault, random_faults
from sim.fitted import Fit, Fitted
from sim.learning import Shard
from sim.network import Overhead, drawn_links, make_network
from sim.timing import Timing
from sim.twin import Twin, rare_collections

WORKERS, DEGREE, ROUNDS, CHECKPOINT_ROUNDS = 8, 4, 20, 3
SIZES = (20_000, 400_000, 1_500_000, 6_000_000, 3_000_000, 40_000)
LAYERS = tuple(Layer(f"layer{number}", size) for number, size in enumerate(SIZES))
LINKS = BandwidthRange(5e6, 15e6)
FIT = Fit(step_s=0.05)
PASS_STEPS = 20
TIMING = Timing(one_way_s=0.002, serve_s=0.001, deliver_s=0.001, mix_s=0.01, publish_s=0.005)
HORIZON_S = 25.0
"""Faults begin within this; without any, a run lasts about as long."""
PATIENCE_S = 1000.0
"""Whoever is not done by then never will be."""
REPLAY_EVERY = 25
"""Of so many seeds one is traced in full, and replayed."""
BATCH = 20
"""So many seeds go to a process at once, and Python looks for garbage after them only."""


@dataclass(frozen=True)
class Seen:
    """What one seed gave."""

    seed: int
    befell: Counter[str]
    findings: list[str]
    sha256: str = ""
    """Of the full trace, where one was kept."""


@cache
def scenario() -> ClusterConfig:
    """Eight workers with four peers each."""
    tables: dict[str, Any] = {
        "cluster": {"topology": "k-regular", "degree": DEGREE},
        "workers": [{"id": i, "address": "127.0.0.1:0"} for i in range(WORKERS)],
        "training": {"rounds": ROUNDS},
        "checkpoint": {"every_rounds": CHECKPOINT_ROUNDS},
    }
    return changed(builtin().model_copy(update={"workers": ()}), tables, "fault_runs")


def cluster(seed: int) -> ClusterConfig:
    """The scenario with this seed."""
    return changed(scenario(), {"cluster": {"seed": seed}}, "fault_runs")


def run(seed: int, everything: bool = False) -> Seen:
    """Simulate and check one seed; with `everything` keep, replay and hash the full trace."""
    config = cluster(seed)
    drawn = random_faults(seed, WORKERS, config.links(), HORIZON_S)
    twin, lives, effects = simulated(config, drawn, everything)
    sha256 = lives.sha256() if everything else ""
    return Seen(seed, effects.befell, findings(twin, lives, effects), sha256)


def simulated(
    config: ClusterConfig, faults: Sequence[Fault], everything: bool = False
) -> tuple[Twin, Lives, Faults]:
    """The scenario with these faults, run to its end."""
    lives = Lives(lambda name: twin.workers[int(name[1:])], everything)
    twin = build(config, lives)
    effects = Faults(faults, config.cluster.seed)
    effects.apply(twin)
    twin.clock.at(PATIENCE_S, twin.stop)
    twin.run()
    return twin, lives, effects


def build(config: ClusterConfig, recorder: Lives) -> Twin:
    """The scenario's federation, whose learning is fitted numbers."""
    seed = config.cluster.seed
    histograms = [tuple(0.7 if i % 4 == k else 0.1 for k in range(4)) for i in range(WORKERS)]
    shards = [Shard(histogram, 100, PASS_STEPS) for histogram in histograms]
    learning = Fitted(LAYERS, "fault-runs", shards, [1.0] * WORKERS, FIT, seed)
    links = drawn_links(LINKS, seed)
    network = partial(_network, links)
    return Twin(config, learning, network, TIMING, recorder, counts_bytes=False)


def _network(links: Any, clock: Any) -> Any:
    return make_network("fluid", clock, links, None, Overhead.none())


def attempt(seed: int) -> Seen:
    """As `run`; a broken assertion anywhere is a finding, too."""
    try:
        return run(seed, everything=seed % REPLAY_EVERY == 0)
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else ""
        return Seen(seed, Counter(), [f"{type(error).__name__} at {place}: {error}"])


def attempts(seeds: Sequence[int]) -> list[Seen]:
    """Several, one after the other."""
    with rare_collections():
        return [attempt(seed) for seed in seeds]


def config_hash() -> str:
    """Of the scenario: the same where a seed gives the same run."""
    constants = (SIZES, LINKS, FIT, PASS_STEPS, TIMING, HORIZON_S, PATIENCE_S, tuple(KINDS.items()))
    text = cluster(0).model_dump_json(exclude={"cluster": {"out"}}) + repr(constants)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def git_commit() -> str:
    """Of this checkout, with a + where files have changed since; "none" outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def replay_line(seen: Seen) -> str:
    """All that is needed to see it again."""
    about = f"config {config_hash()} commit {git_commit()}"
    more = f" (and {len(seen.findings) - 1} more)" if len(seen.findings) > 1 else ""
    return f"python -m sim.fault_runs --seed {seen.seed}  # {about}: {seen.findings[0]}{more}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--first", type=click.IntRange(0), default=1, help="Seeds begin here.")
@click.option("--seed", type=click.IntRange(0), help="Only this one, and all that it found.")
@click.option("--jobs", type=int, default=os.cpu_count(), help="Processes.  [default: all cores]")
def main(seeds: int, first: int, seed: int | None, jobs: int) -> None:
    """Simulate seeded faults and check what must hold whatever goes wrong; exit 1 if it fails."""
    began_s = time.perf_counter()
    wanted = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    befell: Counter[str] = Counter()
    failures = 0
    for number, seen in enumerate(_all(wanted, jobs), 1):
        befell += seen.befell
        if seen.findings:
            failures += 1
            click.echo(replay_line(seen))
        if seed is not None:
            click.echo("\n".join(seen.findings) or f"seed {seed} is fine")
        _tell(number, len(wanted), began_s)
    seconds = time.perf_counter() - began_s
    rate = len(wanted) / seconds
    click.echo(f"{len(wanted)} seeds, {failures} failed, {seconds:.1f} s, {rate:.1f} seeds/s")
    click.echo(", ".join(f"{kind} {befell[kind]}" for kind in KINDS))
    if failures:
        raise SystemExit(RunFailed.exit_code)


def _all(seeds: Sequence[int], jobs: int) -> Iterator[Seen]:
    size = max(1, min(BATCH, len(seeds) // (4 * max(1, jobs))))
    batches = [seeds[first : first + size] for first in range(0, len(seeds), size)]
    work = Parallel(n_jobs=jobs, return_as="generator_unordered")
    for seen in work(delayed(attempts)(batch) for batch in batches):
        yield from seen


def _tell(done: int, all_seeds: int, began_s: float) -> None:
    """A line that is written over, or one for every tenth where nobody watches."""
    left_s = (time.perf_counter() - began_s) / done * (all_seeds - done)
    line = f"{done} of {all_seeds} seeds, {left_s:.0f} s left"
    if sys.stderr.isatty():
        click.echo(f"\r{line}   ", err=True, nl=done == all_seeds)
    elif done % max(1, all_seeds // 10) == 0:
        click.echo(line, err=True)


if __name__ == "__main__":
    # As a module of a name, so that other processes import it: else all of it is sent to them.
    from sim.fault_runs import main as command

    command()
