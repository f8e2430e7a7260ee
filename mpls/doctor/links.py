"""A real conversation with each peer: ZeroMQ, the keys, a hello, and how fast the link is.

Whoever says hello takes the place of the worker in whose name it speaks, so it is said only for
workers that live here and do not run. For one that runs, its peers are pinged, which anybody may.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from mpls.config import ClusterConfig
from mpls.config.tables import WorkerTable
from mpls.core import protocol
from mpls.doctor.cluster import HASH_CHARACTERS
from mpls.doctor.findings import Finding, fail, ok, warn
from mpls.errors import ProtocolError
from mpls.runtime.connection import Connection
from mpls.runtime.keys import Keychain
from mpls.wire import decode, encode

REACH_S = 3.0
CONNECT_S = 3.0
ANSWER_S = 3.0
PROBE_S = 5.0
PROBES_S = 20.0
"""All probes together; what was not probed by then is not measured."""
TALK_S = REACH_S + CONNECT_S + 4 * ANSWER_S + PROBES_S + 2 * PROBE_S
"""One conversation takes no longer than that."""
PINGS = 3
FIRST_PROBE_BYTES = 100_000
PROBE_RUNS_S = 2.0
"""The second probe is to take about that long, if a megabyte is enough."""
POLL_MS = 50


class Caller:
    """A DEALER for one peer, in the thread that made it."""

    def __init__(self, peer: WorkerTable, keys: Keychain | None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.setsockopt(zmq.BLOCKY, False)
        self._connection = Connection(self._context, peer.name, peer.address, keys)
        self._poller = zmq.Poller()
        self._poller.register(self._connection.socket, zmq.POLLIN)
        self._poller.register(self._connection.monitor, zmq.POLLIN)
        self._last_id = 0

    def connect(self) -> str:
        """Why there is no connection; empty if there is one."""
        end_s = time.monotonic() + CONNECT_S
        while time.monotonic() < end_s and not self._connection.is_up:
            if self._connection.trouble:
                return self._connection.trouble
            self._poller.poll(POLL_MS)
            self._connection.look()
        return "" if self._connection.is_up else f"no ZeroMQ handshake within {CONNECT_S:g} s"

    def ask(
        self, make: Callable[[int], protocol.Message], bound_s: float = ANSWER_S
    ) -> protocol.Message | None:
        """The answer to the message that is made with an id; None if none came. Raises
        ProtocolError for one that breaks the protocol."""
        self._last_id += 1
        self._connection.socket.send_multipart(encode(make(self._last_id)), zmq.NOBLOCK)
        end_s = time.monotonic() + bound_s
        while (left_s := end_s - time.monotonic()) > 0:
            readable = dict(self._poller.poll(min(POLL_MS, 1 + int(left_s * 1000))))
            if self._connection.socket in readable:
                frames = self._connection.socket.recv_multipart(copy=False)
                answer = decode([frame.buffer for frame in frames])
                if answer.id == self._last_id:
                    return answer
            elif self._connection.look():
                return None
        return None

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
        self._context.term()


@dataclass
class Probing:
    """Links are probed one after the other: two at once would share this machine's card."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    began_s: float = field(default_factory=time.monotonic)

    def measure(self, caller: Caller, round_trip_s: float) -> float | None:
        """Bytes per second that come from the peer; None if there was no time, or no answer."""
        left_s = self.began_s + PROBES_S - time.monotonic()
        if left_s <= 0 or not self.turn.acquire(timeout=left_s):
            return None
        try:
            first_Bps = _probe(caller, FIRST_PROBE_BYTES, round_trip_s)
            if first_Bps is None:
                return None
            # The first one also opens TCP's window.
            wanted = int(min(protocol.PROBE_LIMIT_BYTES, first_Bps * PROBE_RUNS_S))
            return _probe(caller, max(FIRST_PROBE_BYTES, wanted), round_trip_s) or first_Bps
        finally:
            self.turn.release()


def _probe(caller: Caller, size: int, round_trip_s: float) -> float | None:
    began_s = time.monotonic()
    answer = caller.ask(lambda number: protocol.Probe(number, size), PROBE_S)
    took_s = time.monotonic() - began_s
    if not isinstance(answer, protocol.ProbeData):
        return None
    return len(answer.data) / max(took_s - round_trip_s, took_s / 10)


@dataclass(frozen=True)
class Pair:
    """Who asks whom. Without `me` only the way is tried; without a `hello`, which has id 0, `why`
    says why nobody is greeted."""

    config: ClusterConfig
    file: Path
    me: WorkerTable | None
    peer: WorkerTable
    keys: Keychain | None = None
    hello: protocol.Hello | None = None
    why: str = ""

    @property
    def what(self) -> str:
        """As a finding names it."""
        return f"{self.me.name} -> {self.peer.name}" if self.me else f"way to {self.peer.name}"


def talk(pair: Pair, probing: Probing) -> Finding:
    """As far as it goes."""
    trouble = _reach(pair)
    if trouble is not None:
        return trouble
    if pair.config.transport_of(pair.peer.id) != "zmq":
        return ok(pair.what, f"{pair.peer.address} is open; gRPC is not spoken here")
    if pair.me is None:
        return ok(pair.what, f"{pair.peer.address} is open; not greeted: {pair.why}")
    if pair.keys is None and pair.config.security() == "curve":
        value = f"{pair.peer.address} is open; not greeted: {pair.me.name} has no key to show"
        return warn(pair.what, value, "mend its key first")
    with closing(Caller(pair.peer, pair.keys)) as caller:
        try:
            return _converse(pair, caller, probing)
        except ProtocolError as error:
            return fail(pair.what, f"answers, but breaks the protocol: {error}", _SAME_VERSION)


_SAME_FILE = "use the same cluster file and the same mpls on both machines"
_SAME_VERSION = "use the same version of mpls on both machines"


def _reach(pair: Pair) -> Finding | None:
    """None if its port is open."""
    peer = pair.peer
    try:
        socket.create_connection((peer.host.strip("[]"), peer.port), REACH_S).close()
    except ConnectionRefusedError:
        start = f"start it: mpls worker {pair.file.name} --id {peer.id}"
        return warn(pair.what, f"nobody listens at {peer.address} yet", start)
    except TimeoutError:
        value = f"{peer.address} does not answer within {REACH_S:g} s"
        return fail(
            pair.what, value, "is the machine on, and does a firewall let this port through?"
        )
    except OSError as error:
        value = f"{peer.address}: {(error.strerror or str(error)).lower()}"
        return fail(pair.what, value, "look at the address, the route and the firewall")
    return None


def _converse(pair: Pair, caller: Caller, probing: Probing) -> Finding:
    trouble = caller.connect()
    if trouble:
        what_then = f"compare `mpls keys {pair.file.name}` and [network] security on both machines"
        return fail(pair.what, trouble, what_then)
    round_trip_s = ping(caller)
    if round_trip_s is None:
        remedy = "is that another program? else look into its log"
        return fail(pair.what, f"{pair.peer.address} is open, but answers no ping", remedy)
    there = f"{pair.peer.name} answers in {round_trip_s * 1000:.1f} ms"
    numbers: dict[str, Any] = {"round_trip_s": round_trip_s}
    if pair.hello is None:
        return ok(pair.what, f"{there}; not greeted: {pair.why}", **numbers)
    hello = pair.hello
    answer = caller.ask(
        lambda number: protocol.Hello(
            number, hello.name, hello.model, hello.histogram, hello.samples
        )
    )
    if not isinstance(answer, protocol.Welcome):
        return _no_welcome(pair, answer)
    wrong = _misfit(pair, answer)
    if wrong:
        return wrong
    numbers |= {"protocol": answer.v, "model": answer.model}
    same = f"{there}, protocol {answer.v}, same model {answer.model[:HASH_CHARACTERS]}"
    return _with_rate(pair, same, probing.measure(caller, round_trip_s), numbers)


def ping(caller: Caller) -> float | None:
    """The shortest round trip in seconds; None without an answer."""
    trips = []
    for _ in range(PINGS):
        began_s = time.monotonic()
        answer = caller.ask(lambda number: protocol.Ping(number, 0.0))
        if not isinstance(answer, protocol.Pong):
            return None
        trips.append(time.monotonic() - began_s)
    return min(trips)


def _no_welcome(pair: Pair, answer: protocol.Message | None) -> Finding:
    if not isinstance(answer, protocol.Error):
        return fail(pair.what, "a hello is not answered", "look into its log")
    value = f"{pair.peer.name} says {answer.code}: {answer.message}"
    if answer.code == "busy":
        return warn(pair.what, value, "ask again in a while")
    return fail(pair.what, value, _SAME_VERSION if answer.code == "unsupported" else _SAME_FILE)


def _misfit(pair: Pair, welcome: protocol.Welcome) -> Finding | None:
    """Of one that let us in."""
    assert pair.hello is not None
    if welcome.name != pair.peer.name:
        value = f"{pair.peer.address} is answered by {welcome.name}"
        return fail(pair.what, value, "correct the addresses in the cluster file")
    if welcome.model != pair.hello.model:
        both = [model[:HASH_CHARACTERS] for model in (welcome.model, pair.hello.model)]
        value = f"another model: {both[0]} there, {both[1]} here"
        return fail(pair.what, value, _SAME_FILE)
    return None


def _with_rate(pair: Pair, there: str, rate_Bps: float | None, numbers: dict[str, Any]) -> Finding:
    if rate_Bps is None:
        return ok(pair.what, f"{there}, its link was not measured", **numbers)
    numbers["rate_Bps"] = rate_Bps
    value = f"{there}, sends {rate_Bps / 1e6:.3g} MB/s"
    network = pair.config.network
    if network.emulate is None and rate_Bps < network.prior_bw.low_Bps / 2:
        remedy = f'less than half of prior_bw = "{network.prior_bw}": correct that, or the link'
        return warn(pair.what, value, remedy, **numbers)
    return ok(pair.what, value, **numbers)
