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
from contextlib import ExitStack
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

from mpls.config import ClusterConfig, dumps
from mpls.errors import BadInput, Refused
from mpls.runtime.keys import KeyFiles
from mpls.runtime.process import child_process
from mpls.runtime.sockets import listener_at

if TYPE_CHECKING:
    from mpls.runtime.outfit import Adapter

ENDS = (0, BadInput.exit_code, Refused.exit_code)
"""Exit codes after which a worker is not started again: it would end in the same way."""
DRAIN_S = 20.0
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
        self._sockets: list[socket.socket] = []
        self._processes: list[ForkServerProcess] = []
        self._file = folder / "cluster.toml"
        self._keys = keys
        self._adapter = adapter
        self._restarts = [restarts] * len(config.workers)
        with ExitStack() as listeners:
            self.config = self._listen(config, listeners)
            self._file.write_text(dumps(self.config), encoding="utf-8")
            self._listeners = listeners.pop_all()

    def start(self) -> None:
        """One process for each worker."""
        for worker in self.config.workers:
            self._processes.append(self._launch(worker.id))
        if not any(self._restarts):
            self._listeners.close()

    def wait(self, seconds: float) -> bool:
        """Whether some worker still runs, after at most that long. Those that were told to drain
        and take longer than DRAIN_S are killed."""
        alive = [process for process in self._processes if process.is_alive()]
        if alive:
            connection.wait([process.sentinel for process in alive], seconds)
        if time.monotonic() > self._kill_at_s:
            self.kill()
        return self._restart_the_dead() or bool(alive)

    def _restart_the_dead(self) -> bool:
        """Whether there was one."""
        before = len(self.restarted)
        for number, process in enumerate(self._processes):
            code = process.exitcode
            if code in (None, *ENDS) or self.interrupted or not self._restarts[number]:
                continue
            self._restarts[number] -= 1
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
        for process in self._processes:
            if process.is_alive():
                process.terminate()

    def reload_keys(self) -> None:
        """Let every worker read the public keys anew."""
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)

    def kill(self) -> None:
        """End whatever is left, at once."""
        for process in self._processes:
            if process.is_alive():
                process.kill()

    def exits(self) -> list[int]:
        """Exit code of each worker; minus the signal of one that was killed."""
        self._listeners.close()
        for process in self._processes:
            process.join()
        return [process.exitcode or 0 for process in self._processes]

    def _listen(self, config: ClusterConfig, listeners: ExitStack) -> ClusterConfig:
        """Bind every worker's address now: a port in use is an error before anything starts, and
        nobody can take a free port away before its worker is up."""
        workers = []
        for worker in config.workers:
            by_grpc = config.transport_of(worker.id) == "grpc"
            listener = listeners.enter_context(
                listener_at(worker.name, worker.host, worker.port, shared=by_grpc)
            )
            self._sockets.append(listener)
            host = worker.address.rpartition(":")[0]
            address = f"{host}:{listener.getsockname()[1]}"
            workers.append(worker.model_copy(update={"address": address}))
        return config.model_copy(update={"workers": tuple(workers)})
