"""What carries messages between virtual workers: the other half of the driver.

Small messages take one way's latency. The answer to a pull is a flow of the network model, with a
mark at the end of each layer. A connection goes from a puller to a server, as a DEALER's does;
faults take it down and bring it up again (`sim.faults`), and the puller learns of it as it would
live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from mpls.core import protocol
from mpls.core.messages import (
    CancelRequest,
    Event,
    LayerReceived,
    Progress,
    Replied,
    RequestFailed,
    SendRequest,
    Source,
)
from mpls.core.serving import Transfer
from mpls.core.streams import Stream
from sim.clock import Clock
from sim.driver import VirtualWorker
from sim.in_flight import Pulling
from sim.network import Network
from sim.timing import Timing
from sim.traffic import Traffic, chunk_and_credit_bytes, count, message_bytes

Passage = Callable[[int, int, bool], Sequence[float]]
"""From worker to worker: by how many seconds each copy of a message that arrives is late. True for
a small one, which faults may lose; requests are lost or on time."""


def on_time(_: int, __: int, ___: bool) -> Sequence[float]:
    """The passage without faults."""
    return (0.0,)


class Fabric:
    """All connections of a simulation."""

    def __init__(
        self,
        clock: Clock,
        network: Network,
        timing: Timing,
        seed: int = 0,
        counts_bytes: bool = True,
    ) -> None:
        """Without `counts_bytes` nobody wants to know its `traffic`, which costs time."""
        self._clock = clock
        self._counts_bytes = counts_bytes
        self._draws = Stream(seed, "slowdown")
        self._network = network
        self._timing = timing
        self._workers: dict[str, VirtualWorker] = {}
        self._waiting: dict[int, dict[int, Pulling]] = {}
        """Puller -> request id -> what is in flight."""
        self._received: dict[int, dict[tuple[int, str], Any]] = {}
        """Puller -> (request id, layer) -> snapshot."""
        self._down: set[tuple[int, int]] = set()
        """Connections (puller, server) that are not there."""
        self.traffic: dict[int, Traffic] = {}
        self.passage: Passage = on_time

    def join(self, workers: Sequence[VirtualWorker]) -> None:
        """These workers can be reached."""
        for worker in workers:
            self._workers[worker.name] = worker
            self.traffic[worker.index] = Traffic()
            self._received[worker.index] = {}
            self._waiting[worker.index] = {}

    def replace(self, worker: VirtualWorker) -> None:
        """It takes the place of one that has crashed."""
        self._workers[worker.name] = worker
        self._received[worker.index].clear()

    def in_flight(self) -> int:
        """Requests that have not ended."""
        return sum(map(len, self._waiting.values()))

    def is_down(self, puller: int, server: int) -> bool:
        """Whether there is no connection."""
        return (puller, server) in self._down

    # --- what the driver asks for ---

    def send(self, worker: VirtualWorker, command: SendRequest) -> list[Event]:
        """See `sim.carrier.Carrier`."""
        server, message = self._workers[command.peer], command.message
        if (worker.index, server.index) in self._down:
            return [RequestFailed(message.id, "unreachable")]
        self._count(worker, server, message)
        pulling = Pulling(worker, server, message)
        self._waiting[worker.index][message.id] = pulling
        if self.passage(worker.index, server.index, True):
            due_s = self._clock.now + self._timing.one_way_s
            self._clock.at(due_s, partial(self._reach, pulling))
        return []

    def cancel(self, worker: VirtualWorker, command: CancelRequest) -> None:
        """See `sim.carrier.Carrier`."""
        self._count(worker, self._workers[command.peer], protocol.Cancel(command.request_id))
        pulling = self._waiting[worker.index].pop(command.request_id, None)
        if pulling is not None:
            self._stop(pulling)

    def copy(self, worker: VirtualWorker, source: Source) -> Any:
        """See `sim.carrier.Carrier`."""
        snapshot = self._received[worker.index].pop((source.request_id, source.layer))
        assert snapshot.version == source.version, f"{source} is of version {snapshot.version}"
        return snapshot

    def forget(self, worker: VirtualWorker) -> None:
        """See `sim.carrier.Carrier`."""
        self._received[worker.index].clear()

    def settle(self, worker: VirtualWorker) -> None:
        """See `sim.carrier.Carrier`."""
        waiting = self._waiting[worker.index]
        for pulling in list(waiting.values()) if waiting else ():
            self._report(pulling)

    # --- a request's way there and back ---

    def _reach(self, pulling: Pulling) -> None:
        """The request is at its server's socket."""
        if pulling.server.frozen:
            pulling.server.when_awake(partial(self._arrive, pulling))
        else:
            self._arrive(pulling)

    def _arrive(self, pulling: Pulling) -> None:
        """The request is at its server."""
        server, message = pulling.server, pulling.message
        if not self._is_waiting(pulling) or not server.alive:
            return
        now = self._clock.now
        answer = server.serving.answer(
            pulling.puller.name, message, server.snapshot, server.condition, server.now
        )
        if isinstance(answer, Transfer):
            pulling.transfer, pulling.asked_s = answer, now
            self._later(self._timing.serve_s, pulling, self._begin_pull)
        elif isinstance(answer, protocol.ProbeData):
            self._begin(pulling, [float(message.bytes)], lambda _: self._end_probe(pulling))
        elif answer is not None:
            self._count(server, pulling.puller, answer)
            self._deliver(
                self._timing.one_way_s, pulling, lambda it: self._answer(it, answer), True
            )

    def _answer(self, pulling: Pulling, reply: Any) -> None:
        self._forget(pulling)
        pulling.puller.handle(Replied(reply))

    def _begin_pull(self, pulling: Pulling) -> None:
        """The first byte leaves."""
        transfer = pulling.transfer
        assert transfer is not None
        resumed = transfer.pull.version == transfer.snapshot.version
        pulling.started_at = transfer.pull.offset if resumed else 0
        pulling.wait_s = self._clock.now - pulling.asked_s
        ends = list(accumulate(size for _, size in transfer.layers))
        pulling.slowdown = self._slowdown(pulling)
        marks = [(end - pulling.started_at) * pulling.slowdown for end in ends]
        if self.passage is not on_time:
            self._begin(pulling, marks, lambda index: self._layer_sent(pulling, index))
            return
        # Without faults a layer surely is there `deliver_s` later: the network can wait so long.
        last = len(marks) - 1
        self._begin(
            pulling,
            marks,
            lambda index: (self._layer_sent if index == last else self._layer_came)(pulling, index),
            self._timing.deliver_s,
        )

    def _begin(
        self, pulling: Pulling, marks: list[float], reached: Any, lag_s: float = 0.0
    ) -> None:
        source, target = pulling.server.index, pulling.puller.index
        pulling.flow = self._network.start(source, target, marks, reached, lag_s)
        self._schedule_report(pulling)

    def _layer_came(self, pulling: Pulling, index: int) -> None:
        """A layer that is not the last is there."""
        if self._is_waiting(pulling):
            event, puller = _received(pulling, index, None), pulling.puller
            self._keep(puller, event, pulling)
            puller.handle(event)

    def _layer_sent(self, pulling: Pulling, index: int) -> None:
        """A layer's last byte arrived; with the last layer comes g since the last pull."""
        transfer, progress = pulling.transfer, None
        assert transfer is not None
        ends = index + 1 == len(transfer.layers)
        if ends:
            self._note_moved(pulling)
            progress = pulling.server.serving.progress_for(pulling.puller.name, transfer.snapshot)
            self._count_pull(pulling, progress)
        event = _received(pulling, index, progress)
        self._deliver(
            self._timing.deliver_s, pulling, lambda it: self._layer_here(it, event, ends), False
        )

    def _layer_here(self, pulling: Pulling, event: LayerReceived, ends: bool) -> None:
        transfer, puller = pulling.transfer, pulling.puller
        assert transfer is not None
        if self._is_waiting(pulling):
            self._keep(puller, event, pulling)
            if ends:
                self._forget(pulling)
                self._confirm(puller, pulling.server, transfer.snapshot)
        puller.handle(event)

    def _keep(self, puller: VirtualWorker, event: LayerReceived, pulling: Pulling) -> None:
        """Until the puller asks for it, or forgets it."""
        assert pulling.transfer is not None
        kept = self._received[puller.index]
        kept[event.request_id, event.layer] = pulling.transfer.snapshot

    def _confirm(self, puller: VirtualWorker, server: VirtualWorker, snapshot: Any) -> None:
        """The credit for the last byte tells the server that the pull succeeded."""
        serving, arrives_s = server.serving, self._clock.now + self._timing.one_way_s
        self._clock.at(arrives_s, lambda: serving.confirm(puller.name, snapshot))

    def _end_probe(self, pulling: Pulling) -> None:
        message = pulling.message
        self._forget(pulling)
        kind = protocol.ProbeData(message.id, bytes(message.bytes))
        self._count(pulling.server, pulling.puller, kind)
        pulling.puller.handle(Progress(message.id, message.bytes, 1))

    def _slowdown(self, pulling: Pulling) -> float:
        """Of the pull that begins now."""
        timing = self._timing
        likely = timing.slowdown
        if timing.met_slowdown != likely and self._is_met(pulling):
            likely = timing.met_slowdown
        return likely[0] if len(likely) == 1 else self._draws.pick(likely)

    def _is_met(self, pulling: Pulling) -> bool:
        """Whether its server pulls from its puller, too."""
        of_server = self._waiting[pulling.server.index].values()
        return any(p.server is pulling.puller and p.flow is not None for p in of_server)

    # --- progress ---

    def _schedule_report(self, pulling: Pulling) -> None:
        """Live, progress is reported at most twice per `stall_s`."""
        due_s = self._clock.now + pulling.puller.spec.pull.stall_s / 2
        pulling.report = self._clock.at(due_s, lambda: self._report_regularly(pulling))

    def _report_regularly(self, pulling: Pulling) -> None:
        if self._is_waiting(pulling):
            self._schedule_report(pulling)
            self._report(pulling)

    def _report(self, pulling: Pulling) -> None:
        position = pulling.position(self._network)
        if position > pulling.reported:
            pulling.reported = position
            version = pulling.version() or 1
            pulling.puller.handle(Progress(pulling.message.id, position, version))

    # --- connections, for faults ---

    def disconnect(self, puller: VirtualWorker, server: VirtualWorker) -> None:
        """The puller learns that its connection is lost: nothing in flight will be answered."""
        self._down.add((puller.index, server.index))
        lost = [p for p in self._waiting[puller.index].values() if p.server is server]
        for pulling in lost:
            self._forget(pulling)
            self._stop(pulling)
        for pulling in lost:
            position = pulling.position(self._network) if pulling.version() else 0
            failure = RequestFailed(pulling.message.id, "disconnected", position, pulling.version())
            puller.handle(failure)

    def connect(self, puller: VirtualWorker, server: VirtualWorker) -> None:
        """The connection is there again, as a new one: the server asks for a hello first."""
        self._down.discard((puller.index, server.index))
        server.serving.part(puller.name)

    # --- helpers ---

    def _deliver(self, seconds: float, pulling: Pulling, do: Any, small: bool) -> None:
        """Have each copy of an answer arrive after that long. A copy that is late is delivered even
        if its request has ended by then; none overtakes another of the same answer."""
        if self.passage is on_time:
            self._later(seconds, pulling, do)
            return
        for late_s in self.passage(pulling.server.index, pulling.puller.index, small):
            due_s = self._clock.now + seconds + late_s
            if late_s == 0.0 and pulling.due_s <= due_s:
                self._later(seconds, pulling, do)
            else:
                pulling.due_s = max(pulling.due_s, due_s)
                self._clock.at(pulling.due_s, partial(do, pulling))

    def _later(self, seconds: float, pulling: Pulling, do: Any) -> None:
        """After that long, unless the request has ended by then."""
        if seconds <= 0:
            do(pulling)
            return
        due_s = self._clock.now + seconds
        self._clock.at(due_s, lambda: do(pulling) if self._is_waiting(pulling) else None)

    def _is_waiting(self, pulling: Pulling) -> bool:
        return self._waiting[pulling.puller.index].get(pulling.message.id) is pulling

    def _forget(self, pulling: Pulling) -> None:
        if self._is_waiting(pulling):
            del self._waiting[pulling.puller.index][pulling.message.id]
        if pulling.report is not None:
            pulling.report.cancel()

    def _stop(self, pulling: Pulling) -> None:
        if pulling.report is not None:
            pulling.report.cancel()
        if pulling.flow is not None:
            self._note_moved(pulling)
            self._network.cancel(pulling.flow)

    def _note_moved(self, pulling: Pulling) -> None:
        """The flow of a pull has ended, or ends here."""
        moved_bytes = pulling.puller.moved_bytes
        if moved_bytes is not None and pulling.transfer is not None:
            moved = pulling.position(self._network) - pulling.started_at
            moved_bytes.setdefault(pulling.message.id, moved)

    def _count(self, sender: VirtualWorker, receiver: VirtualWorker, message: Any) -> None:
        if not self._counts_bytes:
            return
        kind = type(message).__name__.lower()
        self._count_bytes(sender, receiver, kind, message_bytes(message))

    def _count_bytes(
        self, sender: VirtualWorker, receiver: VirtualWorker, kind: str, size: int
    ) -> None:
        names = (sender.name, receiver.name)
        count(self.traffic[sender.index], self.traffic[receiver.index], names, kind, size)

    def _count_pull(self, pulling: Pulling, progress: protocol.Vector | None) -> None:
        if not self._counts_bytes:
            return
        transfer = pulling.transfer
        assert transfer is not None
        sizes = tuple(size for _, size in transfer.layers)
        chunk_bytes, credit_bytes = chunk_and_credit_bytes(
            transfer.pull,
            sizes,
            transfer.snapshot.version,
            transfer.snapshot.round,
            None if progress is None else len(progress),
        )
        self._count_bytes(pulling.server, pulling.puller, "chunk", chunk_bytes)
        self._count_bytes(pulling.puller, pulling.server, "credit", credit_bytes)


def _received(pulling: Pulling, index: int, progress: protocol.Vector | None) -> LayerReceived:
    """What the core hears of a layer."""
    transfer = pulling.transfer
    assert transfer is not None
    name, size = transfer.layers[index]
    version, of_round = transfer.snapshot.version, transfer.snapshot.round
    return LayerReceived(transfer.pull.id, name, size, version, of_round, pulling.wait_s, progress)
