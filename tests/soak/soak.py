"""The hour itself: keep the workers, kill, sample, and gather what was found."""

from __future__ import annotations

import json
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from mpls.errors import RunFailed
from tests.soak import afterwards
from tests.soak.goals import SETTLED_S, Findings, goals
from tests.soak.kills import Due, Kill, Outcome, outcome, schedule
from tests.soak.report import Lines
from tests.soak.workers import Process, Sample, Worker, workers_of

TICK_S = 0.1
FOLLOW_S = 1.0
SAMPLE_S = 2.0
LOOK_S = 10.0
START_S = 120.0
STOP_S = 30.0
QUIET_SHARE, QUIET_S = 1 / 3, 60.0
"""In the last third of the soak, but at most so long, nobody is killed: each kill has to have time
to be survived, also on a machine with much else to do."""


class Every:
    """Says when so many seconds have passed again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next_s = time.monotonic()

    def due(self) -> bool:
        """Whether it is time; however late, only once."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = max(self._next_s + self._seconds, now_s)
        return True


class Soak:
    """Made, run once, and summed up."""

    def __init__(
        self, folder: Path, total_s: float, every_s: float, seed: int, lines: Lines
    ) -> None:
        self.interrupted = False
        self.kills: list[Kill] = []
        self._folder = folder
        self._total_s = total_s
        self._quiet_s = min(QUIET_S, QUIET_SHARE * total_s)
        self._every_s = every_s
        self._seed = seed
        self._lines = lines
        self._workers = workers_of(folder)
        self._samples: list[Sample] = []
        self._accuracies: list[tuple[float, float]] = []
        self._state_sizes: list[tuple[int, int]] = []
        self._follow, self._look = Every(FOLLOW_S), Every(LOOK_S)
        self._sample = Every(SAMPLE_S)
        self._began_s = 0.0
        self._began_unix_s = 0.0
        self._ended_s = 0.0
        self._cpu_s = 0.0
        self._most = 0, 0

    def run(self) -> None:
        """Until the time is over or somebody asks to end; then all workers have ended."""
        with self._interruptible(), (self._folder / "samples.jsonl").open("w") as samples:
            self._samples_file = samples
            try:
                self._start()
                self._soak()
                self._drain()
            finally:
                for worker in self._workers:
                    if worker.lives_now:
                        worker.now.popen.kill()
                        worker.now.popen.wait()

    def _start(self) -> None:
        """All three train before the time begins to count."""
        self._until(
            lambda: all(worker.lives and worker.now.life.round for worker in self._workers), START_S
        )
        self._began_s, self._began_unix_s = time.monotonic(), time.time()

    def _soak(self) -> None:
        names = [worker.name for worker in self._workers]
        dues = schedule(names, self._total_s, self._every_s, self._seed)
        due = next(dues, None)
        while self._at_s < self._total_s and not self.interrupted:
            self._tend()
            if due and due.at_s <= self._at_s < self._total_s - self._quiet_s and self._kill(due):
                due = next(dues, None)
            self._note()
            time.sleep(TICK_S)
        self._ended_s = self._at_s

    def _kill(self, due: Due) -> bool:
        """The first of those who have a process; False if nobody has one just now."""
        living = {worker.name: worker for worker in self._workers if worker.lives_now}
        found = next((living[name] for name in due.whom if name in living), None)
        if found is not None:
            self.kills.append(found.kill())
        return found is not None

    def _drain(self) -> None:
        for worker in self._workers:
            worker.drain()
        end_s = time.monotonic() + STOP_S
        while any(worker.lives_now for worker in self._workers) and time.monotonic() < end_s:
            self._tend()
            time.sleep(TICK_S)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._cpu_s = used.ru_utime + used.ru_stime

    def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition() and not self.interrupted:
            if time.monotonic() > end_s:
                raise RunFailed(f"the workers do not train after {timeout_s:g} s; {self._folder}")
            self._tend()
            time.sleep(TICK_S)

    # --- looking on ---

    @property
    def _at_s(self) -> float:
        return time.monotonic() - self._began_s

    def _tend(self) -> None:
        for worker in self._workers:
            worker.tend()
        if self._follow.due():
            for worker in self._workers:
                if worker.lives:
                    worker.now.look()

    def _note(self) -> None:
        if self._sample.due():
            self._take_samples()
            self._lines.progress(self._progress)
        if self._look.due():
            accuracies = [it.accuracy for it in self._workers if it.accuracy is not None]
            if len(accuracies) == len(self._workers):
                self._accuracies.append((self._at_s, mean(accuracies)))
            self._state_sizes += [worker.state_size() for worker in self._workers]

    def _take_samples(self) -> None:
        for worker in self._workers:
            sample = worker.sample(self._began_s)
            if sample is not None:
                self._samples.append(sample)
                self._samples_file.write(json.dumps(self._with_census(worker, sample)) + "\n")
        self._samples_file.flush()

    def _with_census(self, worker: Worker, sample: Sample) -> dict[str, Any]:
        """Where a worker has more threads or files than any had, the sample says which."""
        plain, many = sample.as_plain(), (sample.threads, sample.files)
        if sample.age_s > SETTLED_S and any(now > most for now, most in zip(many, self._most)):
            plain["census"] = worker.now.census()
            self._most = max(many[0], self._most[0]), max(many[1], self._most[1])
        return plain

    def _progress(self) -> str:
        rounds = " ".join(str(_latest_round(worker)) for worker in self._workers)
        latest = {sample.worker: sample for sample in self._samples}
        memory = " ".join(f"{latest[name].rss_MB:.0f}" for name in sorted(latest))
        files = " ".join(str(latest[name].files) for name in sorted(latest))
        accuracy = f"{self._accuracies[-1][1]:.3f}" if self._accuracies else "none yet"
        back = sum(not one.why_not() for one in self._outcomes(self.kills))
        return (
            f"{self._at_s / 60:5.1f} min: round {rounds}, accuracy {accuracy}, {len(self.kills)}"
            f" kills, {back} survived, RSS {memory} MB, files {files}"
        )

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the soak, with a report; the second at once."""

        def hear(number: int, _: object) -> None:
            self.interrupted = True
            self._lines.say("draining; Ctrl-C again kills")
            signal.signal(number, signal.default_int_handler)

        before = {it: signal.signal(it, hear) for it in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- summing up ---

    def _outcomes(self, kills: list[Kill]) -> list[Outcome]:
        lives = {worker.name: [it.life for it in worker.lives] for worker in self._workers}
        return [outcome(kill, lives, self._began_unix_s) for kill in kills]

    def _processes(self) -> list[Process]:
        return [process for worker in self._workers for process in worker.lives]

    def summary(self) -> dict[str, Any]:
        """What soak.json holds."""
        self._lines.say("all have ended; reading traces, checkpoints and logs")
        last_s = self._ended_s - self._quiet_s + TICK_S
        judged = [it for it in self.kills if it.unix_s - self._began_unix_s <= last_s]
        found = self._findings(judged)
        judged_goals = goals(found)
        return {
            "folder": str(self._folder),
            "minutes": self._ended_s / 60,
            "every_s": self._every_s,
            "seed": self._seed,
            "interrupted": self.interrupted,
            "missed": sum(goal.met is False for goal in judged_goals),
            "goals": [goal.as_plain() for goal in judged_goals],
            "named_errors": dict(found.named),
            "pending": len(self.kills) - len(judged),
            "lives": len(self._processes()),
            "rounds": sum(_latest_round(worker) for worker in self._workers),
            "disk": self._disk(),
            "kills": [one.as_plain() for one in found.outcomes],
            "accuracies": self._accuracies,
        }

    def _findings(self, judged: list[Kill]) -> Findings:
        checked = [afterwards.verified(worker) for worker in self._workers]
        unnamed, named = afterwards.complaints(self._processes())
        return Findings(
            total_s=self._ended_s,
            samples=self._samples,
            outcomes=self._outcomes(judged),
            accuracies=self._accuracies,
            last_accuracies={it.name: it.accuracy for it in self._workers if it.accuracy},
            state_sizes=self._state_sizes,
            cpu_s=self._cpu_s,
            unasked=[end for worker in self._workers for end in worker.unasked],
            bad_exits=list(filter(None, (it.bad_exit(self.interrupted) for it in self._workers))),
            wrong=[it for worker in self._workers for it in afterwards.wrong_in_lives(worker)],
            whole=sum(whole for whole, _ in checked),
            damaged=[it for _, damaged in checked for it in damaged],
            unnamed=unnamed,
            named=Counter(named),
        )

    def _disk(self) -> dict[str, int]:
        traces = afterwards.trace_bytes(self._processes())
        return {
            "total_bytes": afterwards.bytes_below(self._folder),
            "trace_bytes": sum(traces),
            "longest_trace_bytes": max(traces, default=0),
        }


def _latest_round(worker: Worker) -> int:
    return max((process.life.round for process in worker.lives), default=0)
