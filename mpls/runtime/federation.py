"""All workers of a cluster on this machine, each in a process of its own.

The processes are forked from a server that has imported torch once, so that a worker starts in a
fraction of a second. This file itself imports no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

from mpls.config import ClusterConfig, WorkerTable, dumps, loads
from mpls.errors import BadInput, Refused
from mpls.runtime.keys import KeyFiles
from mpls.runtime.membership import demand_same_place, demand_same_ways
from mpls.runtime.process import child_process
from mpls.runtime.sockets import listener_at

if TYPE_CHECKING:
    from mpls.runtime.outfit import Adapter

ENDS = (0, BadInput.exit_code, Refused.exit_code)
"""Exit codes after which a worker is not started again: it would end in the same way."""
DRAIN_S = 28.0
"""A worker that was told to end and has not after this long is killed."""


def warm_up() -> None:
    """Begin to import what workers need, in the background."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mpls.runtime.worker"])
    resource_tracker.ensure_running()
    # Inherited by every worker: else one that is told to end before it can drain would be killed,
    # and Ctrl-C in the first seconds would be heard by the server that is to make them.
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    )
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Federation:
    """The workers' processes. `config` has the ports that were really bound. `keys` are needed
    where the links are encrypted, an `adapter` where some worker speaks gRPC. A worker that dies is
    started again up to `restarts` times, unless bad input or a refusal ended it."""

    def __init__(
        self,
        config: ClusterConfig,
        folder: Path,
        keys: KeyFiles | None = None,
        adapter: Adapter | None = None,
        restarts: int = 0,
    ) -> None:
        self.folder = folder
        self.restarted: list[tuple[str, int]] = []
        """Name of each worker that was started again, and the exit code before."""
        self.interrupted = False
        self._kill_at_s = float("inf")
        self._sockets: dict[int, socket.socket] = {}
        self._processes: dict[int, ForkServerProcess] = {}
        self._file = folder / "cluster.toml"
        self._keys = keys
        self._adapter = adapter
        self._restarts = restarts
        self._restarts_left = dict.fromkeys(_ids(config), restarts)
        with ExitStack() as listeners:
            self.config = self._listen(config, _ids(config), listeners)
            self._write()
            self._listeners = listeners.pop_all()

    def start(self) -> None:
        """One process for each worker that has not left."""
        for worker in self.config.present:
            self._processes[worker.id] = self._launch(worker.id)
        self._let_go_of_listeners()

    def reload(self, file: ClusterConfig) -> tuple[list[int], list[int]]:
        """Take up the workers of the cluster file as it is now: those who joined are started, the
        others told to read it anew, upon which those who left drain. Returns the ids of both.
        Raises BadInput for an address in use, or what cannot be taken up while workers run, Refused
        where they cannot change or somebody still drains; and then nothing has changed."""
        bound = {worker.id: worker.address for worker in self.config.workers}
        workers = [_at(worker, bound.get(worker.id, "")) for worker in file.workers]
        members = self.config.with_members(file.model_copy(update={"workers": tuple(workers)}))
        joined = sorted(_ids(file) - _ids(self.config))
        self._demand_reloadable(members, joined)
        with ExitStack() as listeners:
            config = self._listen(members, joined, listeners)
            self._listeners.push(listeners.pop_all())
        left = sorted(_ids(self.config) - _ids(config))
        for number in left:
            self._sockets[number].close()
            self._restarts_left[number] = 0
        self.config = config
        self._write()
        self.tell_to_reload()
        for number in joined:
            self._restarts_left[number] = self._restarts
            self._processes[number] = self._launch(number)
        self._let_go_of_listeners()
        return joined, left

    def _demand_reloadable(self, members: ClusterConfig, joined: list[int]) -> None:
        """Of the running cluster with the workers of the file."""
        demand_same_ways(self.config, members)
        loads(dumps(members), "the running cluster with these workers")
        for number in sorted(_ids(members) - {*joined}):
            demand_same_place(self.config.workers[number], members.workers[number])
        for number in joined:
            process = self._processes.get(number)
            if process is not None and process.is_alive():
                raise Refused(f"[[workers]] id {number}: {process.name} has not ended yet; wait")

    def _let_go_of_listeners(self) -> None:
        if not self._restarts:
            self._listeners.close()

    def _write(self) -> None:
        """Whole or not at all: workers may be reading it."""
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(dumps(self.config), encoding="utf-8")
        unfinished.replace(self._file)

    def wait(self, seconds: float) -> bool:
        """Whether some worker still runs, after at most that long. Those that were told to drain
        and take longer than DRAIN_S are killed."""
        alive = [process for process in self._processes.values() if process.is_alive()]
        if alive:
            connection.wait([process.sentinel for process in alive], seconds)
        if time.monotonic() > self._kill_at_s:
            self.kill()
        return self._restart_the_dead() or bool(alive)

    def _restart_the_dead(self) -> bool:
        """Whether there was one."""
        before = len(self.restarted)
        for number, process in self._processes.items():
            code = process.exitcode
            if code in (None, *ENDS) or self.interrupted or not self._restarts_left[number]:
                continue
            self._restarts_left[number] -= 1
            self.restarted.append((process.name, code or 0))
            self._processes[number] = self._launch(number)
        return len(self.restarted) > before

    def _launch(self, number: int) -> ForkServerProcess:
        listener = self._sockets[number]
        process = multiprocessing.get_context("forkserver").Process(
            target=child_process,
            args=(self._file, number, self.folder, listener, self._keys, self._adapter),
            name=self.config.workers[number].name,
        )
        process.start()
        if self.interrupted:  # while it was being started
            process.terminate()
        return process

    def interrupt(self) -> None:
        """Let every worker drain; when asked a second time, kill."""
        if self.interrupted:
            self.kill()
            return
        self.interrupted = True
        self._kill_at_s = time.monotonic() + DRAIN_S
        for process in self._processes.values():
            if process.is_alive():
                process.terminate()

    def tell_to_reload(self) -> None:
        """Have all workers read their cluster file anew, and their keys."""
        for process in self._processes.values():
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)

    def kill(self) -> None:
        """End whatever is left, at once."""
        for process in self._processes.values():
            if process.is_alive():
                process.kill()

    def exits(self) -> dict[int, int]:
        """Exit code of each worker that was started, by rising id; minus the signal of one that was
        killed."""
        self._listeners.close()
        for process in self._processes.values():
            process.join()
        return {number: self._processes[number].exitcode or 0 for number in sorted(self._processes)}

    def _listen(
        self, config: ClusterConfig, ids: Iterable[int], listeners: ExitStack
    ) -> ClusterConfig:
        """Bind these workers' addresses now: a port in use is an error before anything starts, and
        nobody can take a free port away before its worker is up."""
        addresses = {worker.id: worker.address for worker in config.workers}
        for worker in map(config.worker, ids):
            by_grpc = config.transport_of(worker.id) == "grpc"
            listener = listeners.enter_context(
                listener_at(worker.name, worker.host, worker.port, shared=by_grpc)
            )
            self._sockets[worker.id] = listener
            addresses[worker.id] = f"{_host(worker)}:{listener.getsockname()[1]}"
        workers = tuple(_at(worker, addresses[worker.id]) for worker in config.workers)
        return config.model_copy(update={"workers": workers})


def _ids(config: ClusterConfig) -> set[int]:
    """Of those who have not left."""
    return {worker.id for worker in config.present}


def _host(worker: WorkerTable) -> str:
    return worker.address.rpartition(":")[0]


def _at(worker: WorkerTable, address: str) -> WorkerTable:
    """The worker where it was bound, if it was and its port was free to choose."""
    free = worker.port == 0 and bool(address)
    return worker.model_copy(update={"address": address}) if free else worker
