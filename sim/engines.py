"""Who does a sweep's work: joblib's processes on this machine, or a cluster of Dask or Ray."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from mpls.errors import BadInput

PATIENCE_S = 10
"""With a cluster that does not answer."""
Parallel = Callable[[Iterable[Any]], Iterable[Any]]
"""Runs joblib's tasks and yields their results, in whatever order."""


@dataclass(frozen=True)
class Engine:
    """joblib's backend, how many points at a time (-1: as many as there are cores), and where a
    cluster's scheduler is."""

    backend: str = "loky"
    jobs: int = -1
    scheduler_address: str | None = None

    def demand_possible(self) -> None:
        """Raises BadInput for a cluster whose package or address is missing."""
        if self.backend == "dask" and self.scheduler_address is None:
            raise BadInput(
                "--backend dask: needs --scheduler-address, such as tcp://192.0.2.1:8786"
            )
        if self.backend == "dask" and not _is_installed("distributed"):
            raise BadInput('--backend dask: needs the extra: pip install "mpls-dfl[cluster]"')
        if self.backend == "ray" and not _is_installed("ray"):
            raise BadInput("--backend ray: needs Ray, which is in no extra: pip install ray")

    def at_once(self, points: int) -> int:
        """How many of so many points run at a time on this machine."""
        import joblib

        return max(1, min(points, int(joblib.effective_n_jobs(self.jobs))))

    def jobs_for_each(self, points: int) -> int:
        """How many processes are left for the training of each: all, where there is one point."""
        import joblib

        if self.backend != "loky":
            return 1
        return max(1, int(joblib.effective_n_jobs(self.jobs)) // self.at_once(points))

    def parallel(self, points: int) -> AbstractContextManager[Parallel]:
        """What runs the tasks, within this context."""
        import joblib

        self.demand_possible()
        if self.backend == "dask":
            return _dask(self.scheduler_address)
        if self.backend == "ray":
            return _ray(self.scheduler_address, self.jobs)
        if self.at_once(points) == 1:
            return nullcontext(joblib.Parallel(n_jobs=1, **_AS_THEY_END))
        return _processes(self.at_once(points))


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


_AS_THEY_END = {"return_as": "generator_unordered", "pre_dispatch": "n_jobs"}


@contextmanager
def _processes(jobs: int) -> Iterator[Parallel]:
    import joblib

    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        yield joblib.Parallel(n_jobs=jobs, **_AS_THEY_END)


@contextmanager
def _dask(address: str | None) -> Iterator[Parallel]:
    import joblib

    with _client(address), joblib.parallel_config(backend="dask"):
        yield joblib.Parallel(**_AS_THEY_END)


def _client(address: str | None) -> Any:
    """A connection to Dask, which joblib's backend finds by itself."""
    from dask.distributed import Client

    try:
        return Client(address, timeout=PATIENCE_S)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise BadInput(f"--scheduler-address {address}: no Dask scheduler there: {error}") from None


@contextmanager
def _ray(address: str | None, jobs: int) -> Iterator[Parallel]:
    import joblib
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    _join_ray(ray, address)
    try:
        at_once = jobs if jobs > 0 else int(ray.cluster_resources()["CPU"])
        with joblib.parallel_config(backend="ray", n_jobs=at_once):
            yield lambda tasks: _in_batches(tasks, at_once)
    finally:
        ray.shutdown()


def _join_ray(ray: Any, address: str | None) -> None:
    """A cluster that runs somewhere or, without an address, one of this machine's cores."""
    here = {} if address or "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
    _knock(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"--scheduler-address {address}: no Ray cluster there: {error}") from None


def _knock(address: str | None) -> None:
    """BadInput where nobody listens: Ray itself goes on trying for minutes."""
    match = re.fullmatch(r"(?:ray://)?([^/]+):([0-9]{1,5})", address or "")
    try:
        if match:
            socket.create_connection((match[1].strip("[]"), int(match[2])), PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"--scheduler-address {address}: no Ray cluster there: {error}") from None


def _in_batches(tasks: Iterable[Any], at_once: int) -> Iterator[Any]:
    """Ray's backend gives no result before it has all: so that finished points are kept, it gets no
    more at a time than it can work on."""
    import joblib

    left = iter(tasks)
    while batch := list(itertools.islice(left, at_once)):
        yield from joblib.Parallel()(batch)
