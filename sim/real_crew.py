"""Who does the training: this process, or several with one torch thread each.

Worker i is always served by process i mod P, where its momentum and its order of samples are.
Weights are in memory that all processes see, so a job and its result are a few numbers. The
processes come from a fork server that has imported torch once; they end with `close`, and when this
process dies.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, sharedctypes
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mpls.errors import MplsError, RunFailed
from sim.real_bench import Bench, Done, Job, Task

Weights = NDArray[Any]
END_S = 5.0
"""A process that closed its pipe has ended after this long."""


class Crew(Protocol):
    """Does jobs. The results of one worker come in the order of its jobs."""

    weights: list[Weights]
    """Of each worker, flat; not to be touched while a job of that worker is under way."""

    def ask(self, job: Job) -> None:
        """Have a job done, now or when its result is asked for."""

    def result(self, worker: int) -> Done:
        """Of the worker's oldest job; waits for it. Raises what training raised."""

    def close(self) -> None:
        """End all processes."""


def warm_up() -> None:
    """Begin to import what the processes need, in the background."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["sim.real_crew", "mpls.model.nets", "mpls.model.training"]
    )
    forkserver.ensure_running()


def hire(task: Task, initial: Weights, jobs: int) -> Crew:
    """A crew of so many processes, each worker's weights as `initial`; one is this process."""
    jobs = min(jobs, len(task.shards))
    return Alone(task, initial) if jobs == 1 else Processes(task, initial, jobs)


class Alone:
    """Everything here: a job is done when its result is asked for, and with it others that wait."""

    def __init__(self, task: Task, initial: Weights) -> None:
        self.weights = [initial.copy() for _ in task.shards]
        self.bench = Bench(task, dict(enumerate(self.weights)))
        self._waiting: list[Job] = []
        self._done: list[deque[Done]] = [deque() for _ in task.shards]

    def ask(self, job: Job) -> None:
        """See `Crew`."""
        self._waiting.append(job)

    def result(self, worker: int) -> Done:
        """See `Crew`."""
        while not self._done[worker]:
            # The job that is waited for, and with it whatever fits.
            self._waiting.sort(key=lambda job: job.worker != worker)
            for done in self.bench.work(self._waiting):
                self._done[done.worker].append(done)
        return self._done[worker].popleft()

    def close(self) -> None:
        """Nothing to end."""


class Processes:
    """Each with a bench of its own."""

    def __init__(self, task: Task, initial: Weights, jobs: int) -> None:
        warm_up()
        context = multiprocessing.get_context("forkserver")
        size = initial.nbytes * len(task.shards)
        # Memory without a name: nothing is left behind, however this ends.
        shared = sharedctypes.RawArray(ctypes.c_byte, size)
        self.weights = _rows(shared, initial.dtype, len(task.shards))
        for own in self.weights:
            own[:] = initial
        self._done: list[deque[Done]] = [deque() for _ in task.shards]
        self._connections: list[Connection] = []
        self._processes: list[ForkServerProcess] = []
        for number in range(jobs):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(there, task, shared, initial.dtype, range(number, len(task.shards), jobs)),
                name=f"training {number}",
                daemon=True,
            )
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)

    def ask(self, job: Job) -> None:
        """See `Crew`."""
        self._talk(job.worker, lambda to: to.send(job))

    def result(self, worker: int) -> Done:
        """See `Crew`."""
        while not self._done[worker]:
            answer = self._talk(worker, lambda to: to.recv())
            if isinstance(answer, MplsError):
                raise answer
            self._done[answer.worker].append(answer)
        return self._done[worker].popleft()

    def close(self) -> None:
        """See `Crew`."""
        for pipe in self._connections:
            pipe.close()
        for process in self._processes:
            process.kill()  # nothing that it still does is needed
            process.join()
            process.close()
        self._connections, self._processes = [], []

    def _talk(self, worker: int, do: Callable[[Connection], Any]) -> Any:
        number = worker % len(self._processes)
        try:
            return do(self._connections[number])
        except (EOFError, ConnectionError):
            process = self._processes[number]
            process.join(END_S)
            raise RunFailed(
                f"the process of {process.name} ended unexpectedly (exit {process.exitcode})"
            ) from None


def _rows(shared: Any, dtype: np.dtype[Any], count: int) -> list[Weights]:
    return list(np.frombuffer(shared, dtype).reshape(count, -1))


def _serve(
    pipe: Connection, task: Task, shared: Any, dtype: np.dtype[Any], workers: Sequence[int]
) -> None:
    """The life of a training process. Ctrl-C is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    rows = _rows(shared, dtype, len(task.shards))
    bench = Bench(task, {worker: rows[worker] for worker in workers})
    jobs: list[Job] = []
    try:
        while True:
            while not jobs or pipe.poll():
                jobs.append(pipe.recv())
            for done in bench.work(jobs):
                pipe.send(done)
    except MplsError as error:
        pipe.send(error)
    except (EOFError, ConnectionError):
        return  # nobody asks any more


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
