"""A worker's process: logging, signals and the exit code around `runtime.worker`.

Imports no torch before the worker itself is run.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mpls.config import ClusterConfig, load
from mpls.errors import INTERRUPTED, MplsError
from mpls.runtime import logs
from mpls.runtime.allocator import keep_freed_memory
from mpls.runtime.keys import KeyFiles
from mpls.runtime.notify import Notifier
from mpls.runtime.shortages import raise_limit
from mpls.runtime.sockets import listener_at

if TYPE_CHECKING:
    from mpls.runtime.outfit import Adapter
    from mpls.runtime.worker import Worker


def child_process(
    file: Path,
    number: int,
    folder: Path,
    listener: socket.socket,
    keys: KeyFiles | None,
    adapter: Adapter | None = None,
) -> None:
    """The whole life of a worker's process under `mpls run`. Ctrl-C is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = load(file)
    log_path = folder / f"{config.workers[number].name}.log"
    with log_path.open("a", encoding="utf-8", buffering=1) as log_file:
        os.dup2(log_file.fileno(), 1)
        os.dup2(log_file.fileno(), 2)
        faulthandler.enable(log_file)
        sys.exit(run_worker(config, number, folder, listener, keys, adapter, cluster=file))


def run_worker(
    config: ClusterConfig,
    number: int,
    folder: Path,
    listener: socket.socket | None = None,
    keys: KeyFiles | None = None,
    adapter: Adapter | None = None,
    state: Path | None = None,
    fresh: bool = False,
    cluster: Path | None = None,
) -> int:
    """Run one worker in this process, here and now; returns its exit code. `listener` is given to
    a worker of a federation, which ends with its parent; one without also writes its log into its
    folder. `state` is where its checkpoints are, in `folder` if not given; with `fresh` it does not
    go on with the newest. At SIGHUP the file `cluster` is read anew for who the peers are. Raises
    BadInput for an address in use."""
    from mpls.runtime.worker import Place, Worker

    me, parent = config.worker(number), multiprocessing.parent_process() if listener else None
    by_hand = listener is None
    if listener is None:
        by_grpc = config.transport_of(number) == "grpc"
        listener = listener_at(me.name, me.host, me.port, shared=by_grpc)
    _begin_log(config, me.name, folder, by_hand)
    raise_limit()
    keep_freed_memory()
    for warning in config.warnings:
        logging.getLogger("mpls").warning("%s", warning)
    notifier = Notifier() if by_hand else None
    place = Place(folder, listener.detach(), parent, keys, adapter, state, fresh, cluster, notifier)
    worker = Worker(config, number, place)
    heard = _drain_on_signals(worker)
    signal.signal(signal.SIGHUP, lambda *_: worker.reload())
    # A federation's workers are born with these blocked, and hear them now that they can drain.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    try:
        code = worker.run()
    except MplsError as error:
        logging.getLogger("mpls").error("%s", error)
        return error.exit_code
    return INTERRUPTED if code == 0 and signal.SIGINT in heard else code


def _begin_log(config: ClusterConfig, worker: str, folder: Path, by_hand: bool) -> None:
    """On stderr, which for a worker of a federation is a file in the run's folder already, and in a
    file of its own."""
    with_file = by_hand or config.logging.dir
    file = logs.file_of(config, worker, folder) if with_file else None
    handlers = logs.handlers(worker, file)
    logging.basicConfig(level=config.logging.level.upper(), handlers=handlers)


def say_draining() -> None:
    """What the first Ctrl-C did; for a signal handler, which may come amid any print."""
    with suppress(OSError):  # nobody may be there to read it
        os.write(2, b"draining; Ctrl-C again kills\n")


def _drain_on_signals(worker: Worker) -> list[int]:
    """SIGTERM and Ctrl-C let the worker drain, another Ctrl-C kills it; returns what was heard."""
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        if number == signal.SIGINT:
            say_draining()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hear)
    return heard
