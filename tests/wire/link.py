"""A server and a puller with a link between them, in memory.

Every message passes as real frames. Who asks is the core's own Receipt, and what it hears of is as
little as the Conductor may hear; so this is the live path without its sockets, clocks and threads.
What happens next, and where each fault strikes, is drawn from a seed.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from xxhash import xxh3_64_intdigest

from mpls.core.effects import Outcome
from mpls.core.messages import LayerReceived, LayerRefused
from mpls.core.protocol import Cancel, Chunk, Credit, Error, Message, Pull, Vector
from mpls.core.receipt import Receipt
from mpls.wire import Incoming, LayerArrived, Outgoing, decode, encode
from mpls.wire import LayerRefused as Refused

FAULTS = ("cut", "publish", "expire", "corrupt", "repeat", "miss")
"""The connection is lost; new weights are published; the server forgets the version that a pull
began with; a byte changes on its way; a chunk comes again; the asker misses an event."""
ROUND = 7


def named(sizes: Sequence[int]) -> dict[str, int]:
    """Layers of these sizes, in bytes."""
    return {f"layer{index}": size for index, size in enumerate(sizes)}


class Line:
    """One direction of the link, and what the latest attempt put on it."""

    def __init__(self) -> None:
        self.queue: deque[list[bytes]] = deque()
        self.forget()

    def forget(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes = 0

    def put(self, message: Message) -> None:
        frames = [bytes(frame) for frame in encode(message)]
        self.queue.append(frames)
        self.messages[type(message).__name__.lower()] += 1
        self.bytes += sum(map(len, frames))

    def get(self) -> Message:
        return decode(self.queue.popleft())

    def data_bytes(self) -> int:
        """Data on its way."""
        return sum(len(frames[1]) for frames in self.queue if len(frames) == 2)


class Server:
    """Serves one pull at a time, whole, from one of the versions it published."""

    def __init__(self, sizes: Mapping[str, int], draw: random.Random, progress: Vector | None):
        self.published: list[dict[str, bytes]] = []
        self.outgoing: Outgoing | None = None
        self.succeeded: list[Pull] = []
        self._sizes = sizes
        self._draw = draw
        self._progress = progress
        self._held = 0
        self.publish()

    def publish(self) -> None:
        weights = {layer: self._draw.randbytes(size) for layer, size in self._sizes.items()}
        self.published.append(weights)

    def expire(self) -> None:
        self._held = 0

    def accept(self, request: Message) -> Error | None:
        """Take in a pull, credit or cancel; the answer to a pull that cannot be continued is
        sometimes that its version is gone, and sometimes to begin anew with the latest."""
        if isinstance(request, Pull):
            return self._begin(request)
        if self.outgoing is None or request.id != self.outgoing.pull.id:
            return None
        if isinstance(request, Credit):
            self.outgoing.grant(request.bytes)
            if self.outgoing.confirmed:
                self.succeeded.append(self.outgoing.pull)
        if isinstance(request, Cancel) or self.outgoing.confirmed:
            self.outgoing = None
        return None

    def next_chunk(self) -> Chunk | None:
        plan = self.outgoing.next_chunk() if self.outgoing else None
        if self.outgoing is None or plan is None:
            return None
        layer = self.published[self.outgoing.version - 1][plan.layer]
        return Chunk(
            self.outgoing.pull.id,
            plan.layer,
            self.outgoing.version,
            ROUND,
            plan.offset,
            plan.total,
            0.001,
            memoryview(layer)[plan.offset : plan.offset + plan.length],
            sum=xxh3_64_intdigest(layer) if plan.ends_layer else None,
            progress=self._progress if plan.ends_pull else None,
            last=plan.ends_pull,
        )

    def _begin(self, pull: Pull) -> Error | None:
        latest = len(self.published)
        version = pull.version or latest
        if version not in (self._held, latest):
            if self._draw.random() < 0.5:
                return Error(pull.id, "gone", "")
            version = latest
        self._held = version
        sizes = [self._sizes[layer] for layer in pull.layers]
        self.outgoing = Outgoing(pull, sizes, version)
        return None


class Play:
    """Everything from the first pull until each layer arrived, with `faults` at random moments."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        credit: int,
        seed: int,
        faults: Sequence[str] = (),
        progress: Vector | None = None,
    ) -> None:
        self.draw = random.Random(seed)
        self.server = Server(sizes, self.draw, progress)
        self.to_server, self.to_puller = Line(), Line()
        self.receipt = Receipt("server", tuple(sizes), sizes)
        self.arrived: dict[str, LayerArrived] = {}
        self.asks: list[Pull] = []
        self.seen: Counter[str] = Counter()
        """How attempts ended, and how they went on from those before."""
        self.moved_bytes = 0
        self.incoming: Incoming | None = None
        self._sizes = sizes
        self._credit = credit
        self._faults = deque(faults)
        self._known = Outcome("", 0.0, 0.0)
        """What the asker heard of the attempt under way."""
        self._missing_events = False
        self._beyond_bytes = 0

    def run(self) -> None:
        while self.receipt.missing():
            ask = replace(self.receipt.next_pull(self._credit), id=len(self.asks) + 1)
            self.asks.append(ask)
            outcome = self._attempt(ask)
            self.moved_bytes += self.receipt.take(ask, outcome)
            self.seen[outcome.reason] += 1

    def settle(self) -> None:
        """Let the server hear the rest of what the puller said."""
        while self.to_server.queue:
            self._serve()

    def _attempt(self, ask: Pull) -> Outcome:
        can_continue = self._expect(ask)
        self._known = Outcome("", 0.0, 0.0)
        self._missing_events = False
        if not can_continue:
            return self._known._replace(reason="gone")
        self.to_server.forget()
        self.to_puller.forget()
        self.to_server.put(ask)
        reason = None
        while reason is None:
            reason = self._fault() if self._faults and self.draw.random() < 0.1 else self._step()
            self._check_window()
        return self._known._replace(reason=reason)

    def _expect(self, ask: Pull) -> bool:
        """Make ready for what was asked for; False if it cannot be continued from here."""
        if self.incoming is None:
            self.incoming = Incoming(ask, self._sizes)
            return True
        if not self.incoming.can_resume(ask):
            self.seen["lost"] += 1
            return False
        if ask.offset:
            rewinds = self._known.received_bytes < self.incoming.received_bytes
            self.seen["rewound" if rewinds else "resumed"] += 1
        self.incoming.resume(ask)
        return True

    def _step(self) -> str | None:
        """One thing happens, of all that can; why the attempt ended, if it did."""
        moves: list[Callable[[], str | None]] = []
        if self.to_server.queue:
            moves.append(self._serve)
        if self.to_puller.queue:
            moves.append(self._receive)
        if self.server.outgoing and not self.server.outgoing.sent_all:
            moves.append(self._send)
        assert moves, "the pull is stuck"
        return self.draw.choice(moves)()

    def _serve(self) -> None:
        answer = self.server.accept(self.to_server.get())
        if answer is not None:
            self.to_puller.put(answer)

    def _send(self) -> None:
        chunk = self.server.next_chunk()
        if chunk is not None:
            self.to_puller.put(chunk)
        else:
            assert self.to_server.queue or self.to_puller.queue, "the window is shut for ever"

    def _receive(self) -> str | None:
        message = self.to_puller.get()
        assert self.incoming is not None
        if isinstance(message, Error):
            return message.code if message.id == self.asks[-1].id else None
        assert isinstance(message, Chunk)
        credit_bytes, layer = self.incoming.accept(message)
        if credit_bytes:
            self.to_server.put(Credit(message.id, credit_bytes))
        if self._missing_events and layer is not None:
            return self._break()
        self._hear(message.id, layer)
        if not self.incoming.ended:
            return None
        if not self.incoming.complete:
            self.to_server.put(Cancel(message.id))
        return self._known.refused[0].reason if self._known.refused else ""

    def _hear(self, request_id: int, layer: LayerArrived | Refused | None) -> None:
        """What the core is told: every layer that ends, and now and then how far the pull came."""
        assert self.incoming is not None
        known, version = self._known, self.incoming.version
        if isinstance(layer, LayerArrived):
            self.arrived[layer.layer] = layer
            heard = LayerReceived(request_id, layer.layer, layer.buffer.nbytes, version, ROUND, 0.0)
            known = known._replace(layers=(*known.layers, heard), version=version)
            known = known._replace(arrivals_s=(*known.arrivals_s, 0.0))
        elif layer is not None:
            refused = LayerRefused(request_id, layer.layer, layer.reason)
            known = known._replace(refused=(*known.refused, refused))
        elif version and self.draw.random() < 0.3 and not self._missing_events:
            known = known._replace(received_bytes=self.incoming.received_bytes, version=version)
        self._known = known

    def _fault(self) -> str | None:
        fault = self._faults.popleft()
        if fault == "publish":
            self.server.publish()
        elif fault == "expire":
            self.server.expire()
        elif fault == "miss":
            self._missing_events = True
        elif fault == "cut":
            return self._break()
        elif self.to_puller.queue and len(self.to_puller.queue[-1]) == 2:
            self._tamper(fault, *self.to_puller.queue[-1])
        return None

    def _tamper(self, fault: str, header: bytes, data: bytes) -> None:
        """Repeat or corrupt the chunk that was sent last."""
        if fault == "repeat":
            self.to_puller.queue.append([header, data])
            self._beyond_bytes += len(data)
        else:
            spoilt = bytearray(data)
            spoilt[self.draw.randrange(len(data))] ^= 1 << self.draw.randrange(8)
            self.to_puller.queue[-1] = [header, bytes(spoilt)]

    def _break(self) -> str:
        """The connection is lost, with all that was on its way; a chunk may still come late."""
        late = [frames for frames in self.to_puller.queue if len(frames) == 2][:1]
        self.to_puller.queue = deque(late if self.draw.random() < 0.5 else ())
        self._beyond_bytes = self.to_puller.data_bytes()
        self.to_server.queue.clear()
        self.server.outgoing = None
        return "disconnected"

    def _check_window(self) -> None:
        """What comes twice, or late from the attempt before, is beyond what the server sent."""
        outgoing = self.server.outgoing
        assert outgoing is None or 0 <= outgoing.in_flight_bytes <= self._credit
        assert self.to_puller.data_bytes() <= self._credit + self._beyond_bytes
