"""The other process of `mpls calibrate`, and how this one talks to it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from mpls.errors import RunFailed
from mpls.model.training import Learner
from mpls.runtime.allocator import keep_freed_memory
from mpls.runtime.calibrate_ends import Addresses, Puller, PullingThread, paced_Bps, serving
from mpls.runtime.calibrate_training import images_for, make_learner
from mpls.runtime.federation import warm_up

NEAR, FAR = "near", "far"
"""Who asks: this process and the other one."""
END_S = 10.0


class Peer:
    """The other process, as seen from here. It serves `addresses`."""

    def __init__(self, pipe: Connection, here: Addresses) -> None:
        self._pipe = pipe
        self.addresses: Addresses = self._receive()
        pipe.send(here)

    def train(self, model: str) -> None:
        """Train this model from now on; none if empty."""
        self._call("train", model)

    def pull(self, pulls: bool) -> None:
        """Pull from here over the paced link from now on, or no more."""
        self._call("pull", pulls)

    def rate_Bps(self, pulls: int) -> float:
        """The `paced_Bps` of pulling from here."""
        return float(self._call("rate_Bps", pulls))

    def _call(self, what: str, argument: object) -> Any:
        self._pipe.send((what, argument))
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise RunFailed("calibrate: the other process ended unexpectedly") from None


@contextmanager
def peer(here: Addresses) -> Iterator[Peer]:
    """Start the other process; it ends with the context. It pulls from `here`."""
    warm_up()
    context = multiprocessing.get_context("forkserver")
    near, far = context.Pipe()
    process = context.Process(target=_live, args=(far,), name="calibrate", daemon=True)
    process.start()
    far.close()
    try:
        with near:
            yield Peer(near, here)
    finally:
        process.join(END_S)
        if process.is_alive():
            process.kill()
            process.join()


def _live(pipe: Connection) -> None:
    """The other process's whole life. Ctrl-C is the first one's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()
    with serving(NEAR) as addresses:
        pipe.send(addresses)
        life = _Life(pipe.recv())
        try:
            while True:
                life.train_until(pipe)
                what, argument = pipe.recv()
                pipe.send(getattr(life, what)(argument))
        except (EOFError, ConnectionError):
            life.pull(False)


class _Life:
    """What the other process does when it is told to."""

    def __init__(self, theirs: Addresses) -> None:
        self._theirs = theirs
        self._learner: Learner | None = None
        self._pulling: PullingThread | None = None

    def train_until(self, pipe: Connection) -> None:
        """Take local steps, if any are to be taken, until there is something else to do."""
        while self._learner is not None and not pipe.poll():
            self._learner.step()

    def train(self, model: str) -> None:
        self._learner = make_learner(model, images_for(model), 32) if model else None

    def pull(self, pulls: bool) -> None:
        if self._pulling is not None:
            self._pulling.stop()
        self._pulling = PullingThread(FAR, self._theirs) if pulls else None

    def rate_Bps(self, pulls: int) -> float:
        puller = Puller(FAR, self._theirs)
        rate_Bps = paced_Bps(puller, pulls)
        puller.close()
        return rate_Bps
