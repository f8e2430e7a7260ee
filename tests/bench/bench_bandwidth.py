"""How well bandwidths are learned: real servers on shaped loopback links, a real puller, the core.

    .venv/bin/python tests/bench/bench_bandwidth.py

Each server paces its link to the puller at a known rate (`mpls/runtime/emulation.py`). The puller
is the aggregation's own: a Conductor with Rounds on a ZmqTransport, which pulls one layer from
every server in each round. After each round the believed bandwidth, once there is a measured one,
is compared with the link's. Goal 15 of the design: within 5 % for pulls of at least 1 MB, within
15 % for each of five at once. The last table follows a link whose rate changes tenfold between two
pulls.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from math import inf
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

from mpls.core.conductor import NEVER_S, Conductor
from mpls.core.messages import (
    CancelRequest,
    Command,
    Event,
    PublishUpdate,
    RoundDue,
    SendRequest,
    Ticked,
    UpdateTaken,
)
from mpls.core.round import Rounds
from mpls.core.settings import PlanSettings
from mpls.runtime.emulation import PacedLink, Pacing
from mpls.runtime.mailbox import Bell
from mpls.runtime.zmq_transport import ZmqTransport
from tests.runtime.rig import Model, serving

SIZES_MB = (0.25, 1.0, 5.0, 45.0)
RATES_MB = (10.0, 12.0, 15.0)
FIVE_MB = (10.0, 11.0, 12.0, 13.5, 15.0)
SECONDS = 4.0
"""Pulls of one size go on for about as long on one link."""
LEAST_ROUNDS, MOST_ROUNDS = 3, 60
GOALS = {1: 5.0, 5: 15.0}
"""Percent, by how many pull at once."""


class ShapedLink(Pacing):
    """A server's link to the puller, whose rate can be changed."""

    def __init__(self, rate_Bps: float) -> None:
        super().__init__({}, None)
        self.set(rate_Bps)

    def set(self, rate_Bps: float) -> None:
        """From now on."""
        self._links = {"w0": PacedLink(rate_Bps)}


class Experiment:
    """One puller, and a server for each rate."""

    def __init__(self, stack: ExitStack, layer_bytes: int, rates_Bps: Sequence[float]) -> None:
        names = [f"w{number}" for number, _ in enumerate(rates_Bps, 1)]
        model = Model(fc=layer_bytes // 4 * 4)
        self.links = {name: ShapedLink(rate_Bps) for name, rate_Bps in zip(names, rates_Bps)}
        ports = {}
        for name, link in self.links.items():
            store = model.store(model.weights())
            _, ports[name] = stack.enter_context(serving(model.spec(name, "w0"), store, link))
        spec = model.spec("w0", *names, plan=PlanSettings(strategy="appg"))
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        self.transport = ZmqTransport(addresses, model.layer_bytes, spec.pull.stall_s)
        self.transport.open()
        stack.callback(self.transport.close)
        self.bell: Bell[Event] = Bell()
        stack.callback(self.bell.close)
        self.rounds = Rounds(spec)
        self.conductor = Conductor(self.rounds)
        self.done = 0
        self._carry_out(self.conductor.start(time.monotonic()))
        while any(peer.standing != "ready" for peer in self.rounds.peers.values()):
            self._turn()

    def round(self) -> None:
        """Pull the layer from every server."""
        number = self.done + 1
        self._handle(RoundDue(number))
        while self.done < number:
            self._turn()

    def believed_Bps(self) -> dict[str, float]:
        """Of each peer that was measured."""
        beliefs = {name: peer.bandwidth for name, peer in self.rounds.peers.items()}
        return {name: b.value_Bps for name, b in beliefs.items() if b.measured_s is not None}

    def _turn(self) -> None:
        deadline_s = self.conductor.deadline()
        left_s = deadline_s - time.monotonic() if deadline_s < NEVER_S else 0.5
        for event in self.transport.wait(min(0.5, max(0.0, left_s)), self.bell.fileno()):
            self._handle(event)
        if time.monotonic() >= deadline_s:
            self._handle(Ticked())

    def _handle(self, event: Event) -> None:
        self._carry_out(self.conductor.handle(event, time.monotonic()))

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, SendRequest):
                for failure in self.transport.send(command):
                    self._handle(failure)
            elif isinstance(command, CancelRequest):
                self.transport.cancel(command)
            elif isinstance(command, PublishUpdate):
                self.transport.forget()
                self.done = command.round
                self._handle(UpdateTaken(command.round))


def steady(layer_bytes: int, rates_Bps: Sequence[float]) -> list[float]:
    """Errors in percent, of every link after every pull, once it was measured."""
    errors: list[float] = []
    with ExitStack() as stack:
        experiment = Experiment(stack, layer_bytes, rates_Bps)
        rates = dict(zip(experiment.links, rates_Bps))
        pulls = SECONDS * min(rates_Bps) / layer_bytes
        for _ in range(int(max(LEAST_ROUNDS, min(MOST_ROUNDS, pulls)))):
            experiment.round()
            for name, value_Bps in experiment.believed_Bps().items():
                errors.append(100 * abs(value_Bps / rates[name] - 1))
    return errors


def after_change(layer_bytes: int, before_Bps: float, after_Bps: float) -> list[float]:
    """Errors in percent after each of the first three windows since the change."""
    with ExitStack() as stack:
        experiment = Experiment(stack, layer_bytes, [before_Bps])
        for _ in range(6):
            experiment.round()
        experiment.links["w1"].set(after_Bps)
        errors: list[float] = []
        bandwidth = experiment.rounds.peers["w1"].bandwidth
        while len(errors) < 3:
            measured_s = bandwidth.measured_s
            experiment.round()
            if bandwidth.measured_s != measured_s:
                errors.append(100 * abs(bandwidth.value_Bps / after_Bps - 1))
    return errors


def main() -> None:
    """The three tables; exit 1 where a goal is missed."""
    missed = False
    print("error of the believed bandwidth, percent      median    p95   goal (median)")
    for size_MB in SIZES_MB:
        for rate_MB in RATES_MB:
            missed |= report(f"{size_MB:5.2f} MB at {rate_MB:4.1f} MB/s, alone", size_MB, [rate_MB])
        missed |= report(f"{size_MB:5.2f} MB, five at once", size_MB, FIVE_MB)
    print("\na tenfold change: error after the first, second and third window")
    for before_MB, after_MB in ((12.0, 1.2), (1.2, 12.0)):
        errors = after_change(2_000_000, before_MB * 1e6, after_MB * 1e6)
        missed |= errors[1] > GOALS[1]
        print(f"{before_MB:5.1f} -> {after_MB:4.1f} MB/s   ", *(f"{it:6.2f}" for it in errors))
    raise SystemExit(int(missed))


def report(label: str, size_MB: float, rates_MB: Sequence[float]) -> bool:
    """Print a line; whether the goal is missed."""
    errors = sorted(steady(int(size_MB * 1e6), [rate_MB * 1e6 for rate_MB in rates_MB]))
    goal = GOALS[len(rates_MB)] if size_MB >= 1 else inf
    p95 = errors[min(len(errors) - 1, int(0.95 * len(errors)))]
    print(f"{label:44} {median(errors):7.2f} {p95:6.2f} {goal:6g}", flush=True)
    return median(errors) > goal


if __name__ == "__main__":
    main()
