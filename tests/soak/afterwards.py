"""What is looked at when all have ended: every trace, every checkpoint, every line of the logs."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mpls.core.trace import read, replay
from mpls.errors import MplsError
from sim.fault_checks import Life as Recorded
from sim.fault_checks import applied_once, conserved
from tests.soak.workers import MPLS, ROOT, Process, Worker

KEPT = re.compile(r"step-[0-9]{12}\.safetensors")
_ERROR = re.compile(r"^[-0-9]+ [0-9:,]+ ERROR \S+ (.*)")


def wrong_in_lives(worker: Worker) -> Iterator[str]:
    """A line for each thing that does not hold of a worker's traces."""
    saved = 0
    for process in worker.lives:
        try:
            yield from _wrong_in_life(process, saved)
        except (MplsError, AssertionError, KeyError) as error:
            yield f"{process.folder.name}: {type(error).__name__}: {error}"
        saved = max(saved, process.life.saved_round)


def _wrong_in_life(process: Process, saved: int) -> Iterator[str]:
    if process.trace is None:  # killed before it made one
        return
    recorded = Recorded(process.folder.name, list(read(process.trace)))
    yield from conserved(recorded)
    yield from applied_once(recorded)
    yield from _not_in_step(recorded, process.life.resumed_round, saved)
    yield from _does_not_replay(recorded)


def _not_in_step(life: Recorded, resumed_round: int | None, saved: int) -> Iterator[str]:
    """Rounds follow each other, from the one after which it went on; nothing saved is lost."""
    if resumed_round is None:
        return
    if resumed_round < saved:
        yield f"{life.name}: went on after round {resumed_round}, {saved} was saved"
    rounds = [record["round"] for record in life.of("mix")]
    if rounds != list(range(resumed_round + 1, resumed_round + 1 + len(rounds))):
        yield f"{life.name}: mixed in {rounds[:3]}... {rounds[-3:]} after round {resumed_round}"


def _does_not_replay(life: Recorded) -> Iterator[str]:
    """The same events give the same commands; the kill may have come amid writing these down."""
    if not life.of("header"):
        return
    difference = replay(life.records)
    if difference and (difference.recorded is not None or life.drained()):
        yield f"{life.name}: replays otherwise from record {difference.index} on"


def verified(worker: Worker) -> tuple[int, list[str]]:
    """How many of its checkpoints `mpls checkpoint verify` finds whole, and its words on others."""
    whole, damaged = 0, []
    for path in sorted(worker.state.glob("step-*")):
        if not KEPT.fullmatch(path.name):
            damaged.append(f"{worker.state.name}: left behind: {path.name}")
            continue
        command = [*MPLS, "checkpoint", "verify", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        whole += done.returncode == 0
        if done.returncode:
            damaged.append(done.stderr.strip() or f"{path.name}: exit code {done.returncode}")
    return whole, damaged


def complaints(processes: Iterable[Process]) -> tuple[list[str], Counter[str]]:
    """Of the logs: the lives that left a traceback, each with its last line, and the errors that
    have a name."""
    unnamed, named = [], Counter[str]()
    for process in processes:
        lines = process.output.read_text(errors="replace").splitlines()
        if _tells_of_a_crash(lines):
            unnamed.append(f"{process.folder.name}: {lines[-1]}")
        named.update(match[1] for match in map(_ERROR.match, lines) if match)
    return unnamed, named


def _tells_of_a_crash(lines: Sequence[str]) -> bool:
    marks = ("Traceback (most recent call last)", "Fatal Python error", "Assertion failed")
    return any(line.startswith(marks) for line in lines)


def bytes_below(folder: Path) -> int:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def trace_bytes(processes: Iterable[Process]) -> list[int]:
    """Of the trace of each life that has one."""
    return [process.trace.stat().st_size for process in processes if process.trace]
