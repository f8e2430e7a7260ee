"""Those who are attacked, each in a process of its own whose death and memory show: a worker's
server, in plaintext or with CURVE, and a worker's puller.

A victim sends what its attacker has to know, and then answers `refusals`, `usage` and `fds`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path

from mpls.core import protocol
from mpls.core.messages import (
    CancelRequest,
    Event,
    LayerReceived,
    LayerRefused,
    Progress,
    Replied,
    RequestFailed,
    SendRequest,
)
from mpls.core.serving import Condition, Serving
from mpls.runtime.journal import Clock
from mpls.runtime.keys import Keychain, KeyFiles
from mpls.runtime.limits import Rates
from mpls.runtime.mailbox import Bell
from mpls.runtime.server import Listening, Server
from mpls.runtime.zmq_transport import ZmqTransport
from tests.bench.ends import obey
from tests.runtime.rig import UNPACED, Model, listening_socket

MODEL = Model(conv=4_000, fc=100_000)
SERVER = MODEL.spec("w0", "w1")
PULLER = MODEL.spec("w1", "w0")
CREDIT = 256 * 1024
UNBOUNDED = Rates(peer=1e12, strangers=1e12)
"""What bounds a flood would only slow down the attack, and refuse it for the wrong reason."""
PATIENCE_S = 0.2


def hello(request_id: int) -> protocol.Hello:
    """With which the puller is welcome."""
    return protocol.Hello(request_id, PULLER.name, PULLER.model, PULLER.histogram, PULLER.samples)


def server(pipe: Connection, key_folder: Path | None) -> None:
    """Serves what it publishes; with keys in that folder, or in plaintext; sends its port."""
    logging.disable()
    listener = listening_socket()
    port = listener.getsockname()[1]
    victim = Server(
        Serving(SERVER),
        MODEL.store(MODEL.weights()),
        lambda: Condition("running", 3, 0.25),
        Listening("127.0.0.1", port, listener.detach(), key_folder and keychain(key_folder, "w0")),
        UNPACED,
        Clock(),
        UNBOUNDED,
    )
    ready = threading.Event()
    _or_die(victim.run, ready.set)
    ready.wait()
    pipe.send(port)
    obey(pipe, {"refusals": lambda: dict(victim.refusals), "fds": _fds})


def puller(pipe: Connection, port: int) -> None:
    """Asks the server at this port for everything, again and again, whatever it answers."""
    logging.disable()
    heard: Counter[str] = Counter()
    _or_die(_ask_for_ever, port, heard)
    pipe.send("asking")
    obey(pipe, {"refusals": lambda: Counter(heard), "fds": _fds})


def _ask_for_ever(port: int, heard: Counter[str]) -> None:
    transport = ZmqTransport({"w0": f"127.0.0.1:{port}"}, MODEL.layer_bytes, 3.0)
    transport.open()
    bell: Bell[Event] = Bell()
    layers = tuple(MODEL.layer_bytes)
    for request_id, kind in enumerate(cycle(("hello", "status", "pull", "probe", "pull")), 1):
        request: protocol.Message = protocol.Status(request_id)
        if kind == "hello":
            request = hello(request_id)
        elif kind == "pull":
            request = protocol.Pull(request_id, layers, 0, 0, CREDIT)
        elif kind == "probe":
            request = protocol.Probe(request_id, 1000)
        transport.send(SendRequest("w0", request))
        end_s, ended = time.monotonic() + PATIENCE_S, False
        while not ended and (left_s := end_s - time.monotonic()) > 0:
            events = transport.wait(left_s, bell.fileno())
            heard.update(map(_name, events))
            ended = any(_ends(event, kind) for event in events)
        transport.cancel(CancelRequest("w0", request_id))
        transport.forget()
        heard["dropped"] = transport.dropped


def _name(event: Event) -> str:
    if isinstance(event, (RequestFailed, LayerRefused)):
        return event.reason
    return type(event.reply if isinstance(event, Replied) else event).__name__


def _ends(event: Event, kind: str) -> bool:
    """Whether a request of this kind ended with this."""
    last = isinstance(event, LayerReceived) and event.layer == "fc"
    last = last or (isinstance(event, Progress) and kind == "probe")
    return last or isinstance(event, (Replied, RequestFailed, LayerRefused))


def keychain(folder: Path, name: str) -> Keychain:
    """The keys of one of the two, made if they are not there yet."""
    files = KeyFiles(folder / "victim.toml")
    files.make(["w0", "w1"])
    return Keychain(files, name, ["w0", "w1"])


def _or_die(job: object, *args: object) -> None:
    """In a thread, without which the process is not to live on as if nothing had happened."""

    def run() -> None:
        try:
            job(*args)  # type: ignore[operator]
        finally:
            os._exit(70)

    threading.Thread(target=run, daemon=True).start()


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))
