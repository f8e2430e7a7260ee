"""A server that lies, or talks nonsense, spoils the request that it answers and nothing else.

Method: a real transport, and behind it a ROUTER that answers whatever the test wants.
"""

from __future__ import annotations

from typing import Any

import pytest

from mpls.core import protocol
from mpls.core.messages import (
    LayerRefused,
    Replied,
    RequestFailed,
)
from mpls.wire import encode
from tests.runtime.rig import (
    CREDIT,
    Model,
    Puller,
    fake_server,
    welcome,
)

MODEL = Model(conv1=4_000, conv2=600_000, fc=1_500_000, out=400)
SPEC = MODEL.spec("w0", "w1")
W1 = MODEL.spec("w1", "w0")


def chunk_of(pull: protocol.Pull, **changes: Any) -> Any:
    """The one chunk that answers a pull of `out`, with something else in it."""
    fields = {
        "layer": "out",
        "version": 3,
        "round": 2,
        "offset": 0,
        "total": 400,
        "wait_s": 0.0,
        "data": bytes(400),
        "sum": 123,
        "last": True,
    }
    return encode(protocol.Chunk(pull.id, **(fields | changes)))


LIES = {
    "another layer": lambda pull: chunk_of(pull, layer="fc"),
    "a layer larger than it is": lambda pull: chunk_of(pull, total=800),
    "more data than there is": lambda pull: chunk_of(pull, data=bytes(404)),
    "less data than there is": lambda pull: chunk_of(pull, data=bytes(396)),
    "an offset in the middle": lambda pull: chunk_of(pull, offset=8, data=bytes(392)),
    "the end missing": lambda pull: chunk_of(pull, last=False),
    "a welcome": lambda pull: encode(protocol.Welcome(pull.id, "w0", "m", (1.0,), 1)),
    "a status": lambda pull: encode(protocol.StatusOk(pull.id, "running", 1, 1, None, 0.1)),
    "a probe's bytes": lambda pull: encode(protocol.ProbeData(pull.id, b"data")),
    "a request": lambda pull: encode(protocol.Status(pull.id)),
    "a chunk of version 0": lambda pull: [
        encode(protocol.Chunk(pull.id, "out", 1, 1, 0, 400, 0.0, b"x", sum=1, last=True))[
            0
        ].replace(b"version\x01", b"version\x00"),
        b"x",
    ],
}


@pytest.mark.parametrize("what", LIES)
def test_row_49_a_lie_ends_the_request_that_it_answers_and_no_other(what):
    asked: list[protocol.Status] = []

    def lie(message: Any) -> list[Any]:
        """The status is answered after the pull."""
        if isinstance(message, protocol.Status):
            asked.append(message)
            return []
        if isinstance(message, protocol.Pull):
            return [LIES[what](message), *(reply for m in asked for reply in welcome(m))]
        return welcome(message)

    with fake_server(lie) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        status = protocol.Status(puller.new_id())
        assert puller.send(status) == []
        pull = protocol.Pull(puller.new_id(), ("out",), 0, 0, CREDIT)
        assert puller.send(pull) == []
        events = puller.events(lambda events: len(events) >= 2, "both ends")
        failure, answer = events
        assert isinstance(failure, RequestFailed)
        assert failure.request_id == pull.id
        assert failure.reason.startswith("protocol-")
        assert isinstance(answer, Replied)
        assert answer.reply.id == status.id


def test_row_55_a_layer_with_a_wrong_sum_is_refused_and_the_server_is_told_to_stop():
    got: list[Any] = []

    def lie(message: Any) -> list[Any]:
        got.append(message)
        return [chunk_of(message)] if isinstance(message, protocol.Pull) else welcome(message)

    with fake_server(lie) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        (event,) = puller.pull("out")
        assert event == LayerRefused(event.request_id, "out", "checksum")
        puller.ask(protocol.Status(puller.new_id()))
    assert protocol.Cancel(event.request_id) in got
    assert not [message for message in got if isinstance(message, protocol.Credit)]


@pytest.mark.parametrize(
    "garbage", [[b""], [b"\xc1"], [b"x"] * 5, [b"\x91\x81\xa1t\xa5chunk"], [bytes(20_000)]]
)
def test_garbage_that_names_no_request_is_dropped_counted_and_disturbs_nobody(garbage):
    def answer(message: Any) -> list[Any]:
        return [garbage, *welcome(message)]

    with fake_server(answer) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        dropped = puller.transport.dropped
        assert dropped >= 1
        for _ in range(3):
            assert isinstance(puller.ask(protocol.Status(puller.new_id())), Replied)
        assert puller.transport.dropped == dropped + 3


def test_answers_to_requests_that_nobody_waits_for_are_dropped_and_counted():
    def answer(message: Any) -> list[Any]:
        return [*welcome(message), *welcome(message)]

    with fake_server(answer) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        puller.ask(protocol.Status(puller.new_id()))
        puller.ask(protocol.Status(puller.new_id()))
        assert puller.transport.dropped >= 2
