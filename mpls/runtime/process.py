"""A worker's process: logging, signals and the exit code around `runtime.worker`.

Imports no torch before the worker itself is run.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from mpls.config import ClusterConfig, load
from mpls.errors import MplsError
from mpls.runtime.sockets import listener_at


def child_process(file: Path, number: int, folder: Path, listener: socket.socket) -> None:
    """The whole life of a worker's process under `mpls run`. Ctrl-C is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = load(file)
    log_path = folder / f"{config.workers[number].name}.log"
    with log_path.open("a", encoding="utf-8", buffering=1) as log_file:
        os.dup2(log_file.fileno(), 1)
        os.dup2(log_file.fileno(), 2)
        faulthandler.enable(log_file)
        sys.exit(run_worker(config, number, folder, listener))


def run_worker(
    config: ClusterConfig, number: int, folder: Path, listener: socket.socket | None = None
) -> int:
    """Run one worker in this process, here and now; returns its exit code. `listener` is given to
    a worker of a federation, which ends with its parent. Raises BadInput for an address in use."""
    from mpls.runtime.worker import Place, Worker

    me, parent = config.worker(number), os.getppid() if listener else None
    listener = listener or listener_at(me.name, me.host, me.port)

    logging.basicConfig(
        level=config.logging.level.upper(),
        format=f"%(asctime)s %(levelname)s {me.name} %(message)s",
        stream=sys.stderr,
    )
    worker = Worker(config, number, Place(folder, listener.detach(), parent))
    for name in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, lambda *_: worker.stop())
    # A federation's workers are born with both blocked, and hear them now that they can drain.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        return worker.run()
    except MplsError as error:
        logging.getLogger("mpls").error("%s", error)
        return error.exit_code
