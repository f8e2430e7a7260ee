"""Encrypted links with real sockets: who gets in, who does not, and what each is told.

The names of the tests begin with the row of the table of faults that they are about.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from mpls.core import protocol
from mpls.core.messages import Event, Replied, RequestFailed
from mpls.runtime import sockets
from mpls.runtime.connection import LONGEST_PAUSE_S
from mpls.runtime.emulation import Pacing
from mpls.runtime.keys import Keychain, prefix
from mpls.runtime.server import Server
from mpls.runtime.sockets import dealer, router
from mpls.runtime.zap import Door, Session
from tests.runtime.keyrings import Keys, stranger
from tests.runtime.proxy import Proxy
from tests.runtime.rig import (
    DEADLINE_S,
    Model,
    Puller,
    assert_bits,
    listening_socket,
    received,
    serving,
    until,
)

MODEL = Model(conv=400_000, fc=4_000_000)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="mpls")
    return caplog


@contextmanager
def encrypted(keychain: Keychain) -> Iterator[tuple[Server, int]]:
    """w0's server."""
    spec = MODEL.spec("w0", "w1", "w2")
    with serving(spec, MODEL.store(MODEL.weights()), keys=keychain) as (server, port):
        yield server, port


def puller(name: str, port: int, keychain: Keychain | None) -> Puller:
    """Somebody who calls itself that, and asks w0."""
    return Puller(MODEL.spec(name, "w0"), {"w0": port}, keys=keychain)


def lines(log: pytest.LogCaptureFixture, *words: str) -> list[str]:
    """Those with all of these words."""
    return [line for line in log.messages if all(word in line for word in words)]


def turn(puller: Puller, seconds: float = 0.01) -> None:
    """Let it notice what happened."""
    puller.transport.wait(seconds, puller.bell.fileno())


def is_failure(event: Event) -> bool:
    return isinstance(event, RequestFailed)


def hello(puller: Puller) -> Any:
    """What a hello brings: the reply, or why there is none."""
    spec = puller.spec
    message = protocol.Hello(puller.new_id(), spec.name, spec.model, spec.histogram, spec.samples)
    answer = puller.ask_connected(message)
    assert isinstance(answer, Replied)
    return answer.reply


def test_with_keys_layers_arrive_bit_by_bit(keys: Keys) -> None:
    store = MODEL.store(MODEL.weights())
    spec = MODEL.spec("w0", "w1")
    with (
        serving(spec, store, keys=keys.of("w0")) as (server, port),
        puller("w1", port, keys.of("w1")) as w1,
    ):
        w1.greet()
        assert_bits(w1.layers(w1.pull("fc", "conv")), store.latest(), "fc", "conv")
    assert server.refusals == {}


def test_what_travels_cannot_be_read(keys: Keys) -> None:
    """The same bytes through a tap on the wire: no layer's content, no name of a layer."""

    class Tap(Proxy):
        seen = b""

        def _pass_on(self, source: socket.socket) -> None:
            self.seen += source.recv(2**20, socket.MSG_PEEK)
            super()._pass_on(source)

    store = MODEL.store(MODEL.weights())
    content = bytes(store.latest().layer("conv"))[1000:1016]
    for keychains, readable in (((None, None), True), ((keys.of("w0"), keys.of("w1")), False)):
        with (
            serving(MODEL.spec("w0", "w1"), store, keys=keychains[0]) as (_, port),
            Tap(port) as tap,
            puller("w1", tap.port, keychains[1]) as w1,
        ):
            w1.greet()
            assert len(received(w1.pull("conv"))) == 1
        assert (content in tap.seen, b"conv" in tap.seen) == (readable, readable)


# --- row 30 ---


def test_row_30_an_unknown_key_is_refused_and_logged_with_its_prefix(
    keys: Keys, log: pytest.LogCaptureFixture
) -> None:
    unknown = stranger(keys, "w1")
    with encrypted(keys.of("w0")) as (server, port), puller("w1", port, unknown) as w1:
        until(lambda: turn(w1) or server.refusals, "a refusal")
        assert server.refusals.keys() == {"key"}
        assert isinstance(w1.ask(protocol.Status(1)), RequestFailed)
        (said, *_) = lines(log, "refused (key)")
        assert f"unknown key, {prefix(unknown.public)} from 127.0.0.1" in said
        assert unknown.public not in log.text
        (told,) = lines(log, "no connection to w0")
        assert f"does not let in this worker's key, {prefix(unknown.public)}" in told
    assert server.received.messages == {}


def test_row_30_strangers_fill_neither_the_log_nor_the_way_in(
    keys: Keys, log: pytest.LogCaptureFixture
) -> None:
    """A hundred attempts: ten lines, an exact count, and peers are answered all the while."""
    with encrypted(keys.of("w0")) as (server, port), puller("w1", port, keys.of("w1")) as w1:
        w1.greet()
        for number in range(100):
            with zmq.Context() as context, dealer(context, "", stranger(keys, "w2")) as knocking:
                assert outcome(knocking, port, keys) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
            if number % 10 == 0:
                assert isinstance(w1.ask(protocol.Status(w1.new_id())), Replied)
        assert server.refusals == {"key": 100}
        assert len(lines(log, "refused (key)")) == 10
    assert lines(log, "and 90 more")


ENDS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


def outcome(socket: zmq.Socket[bytes], port: int, keys: Keys) -> int:
    """How the handshake of this DEALER with w0 ends."""
    monitor = socket.get_monitor_socket(ENDS)
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.of("w0").public.encode())
    socket.connect(f"tcp://127.0.0.1:{port}")
    try:
        assert monitor.poll(DEADLINE_S * 1000), "no end of the handshake"
        return int(recv_monitor_message(monitor)["event"])
    finally:
        socket.disable_monitor()
        monitor.close(0)


# --- row 31 ---


def test_row_31_a_wrong_server_key_is_named_once_and_tried_ever_more_rarely(
    keys: Keys, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """w0 has a new key of which w1 has not heard."""
    late = keys.of("w1")
    expected = late.ring.public["w0"]
    keys.rotated("w0")
    connections, clock = [], Clockwork(monkeypatch)
    with encrypted(keys.of("w0")) as (_, port), puller("w1", port, late) as w1:
        connection = w1.transport._channels["w0"].connection
        for _ in range(8):
            until(lambda: turn(w1) or connection.due_s < float("inf"), "a failure")
            connections.append(round(connection.due_s - clock.now_s, 3))
            clock.now_s = connection.due_s
            turn(w1)
    assert connections == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    (told,) = lines(log, "no connection to w0")
    assert f"has not the key expected of it, {prefix(expected)}" in told


@pytest.mark.parametrize("whose", ["puller", "server"])
def test_row_31_one_that_speaks_plaintext_gets_nothing_and_is_tried_again(
    keys: Keys, log: pytest.LogCaptureFixture, whose: str
) -> None:
    """libzmq gives such an endpoint up for good now and then; after many failures a server that
    speaks as it should is found all the same."""
    right, wrong = (None, keys.of("w0")) if whose == "puller" else (keys.of("w0"), None)
    store, spec = MODEL.store(MODEL.weights()), MODEL.spec("w0", "w1")
    with ExitStack() as stack:
        server, port = stack.enter_context(serving(spec, store, keys=wrong))
        wire = stack.enter_context(Proxy(port))
        w1 = stack.enter_context(puller("w1", wire.port, right and keys.of("w1")))
        connection = w1.transport._channels["w0"].connection
        until(lambda: turn(w1) or connection._pause_s > 1.0, "several failures")
        assert isinstance(w1.send(protocol.Status(1))[0], RequestFailed)
        assert server.received.messages == {}
        (told,) = lines(log, "no connection to w0 at 127.0.0.1")
        assert ("has it [network] security?" in told) == (right is None)
        assert ("has not the key expected of it" in told) == (right is not None)
        _, wire.upstream = stack.enter_context(serving(spec, store, keys=right))
        w1.greet()


class Clockwork:
    """What connections take for the time; it stands still unless moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("mpls.runtime.connection.monotonic", lambda: self.now_s)


# --- row 32 ---


def test_row_32_without_a_handler_nobody_gets_in(keys: Keys) -> None:
    with zmq.Context() as context, listening_socket() as listener:
        port = listener.getsockname()[1]
        with (
            router(context, f"127.0.0.1:{port}", listener.detach(), keys.of("w0")) as serving,
            zmq.Context() as other,
            dealer(other, "", keys.of("w1")) as known,
        ):
            assert outcome(known, port, keys) == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            assert not serving.poll(0)


def test_row_32_a_handler_that_dies_lets_nobody_in_and_ends_the_server(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> bool:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Door, "_may_come_in", die)
    with (
        zmq.Context() as context,
        dealer(context, "", keys.of("w1")) as known,
        pytest.raises(RuntimeError, match="out of luck"),
        encrypted(keys.of("w0")) as (_, port),
    ):
        assert outcome(known, port, keys) != zmq.EVENT_HANDSHAKE_SUCCEEDED


# --- row 33 ---


def test_row_33_a_known_key_that_claims_another_name_is_refused(
    keys: Keys, log: pytest.LogCaptureFixture
) -> None:
    with encrypted(keys.of("w0")) as (server, port):
        with puller("w2", port, keys.of("w1")) as liar:
            refusal = hello(liar)
            assert (refusal.code, refusal.message) == ("refused", "your key is that of w1")
            pull = liar.ask(protocol.Pull(liar.new_id(), ("fc",), 0, 0, 2**20))
            assert (pull.reply.code, pull.reply.message) == ("refused", "say hello first")
        assert server.refusals["name"] == 1
        assert lines(log, "refused (name) w1: your key is that of w1")
        with puller("w1", port, keys.of("w1")) as honest:
            honest.greet()
    assert "w2" not in server.sent.as_plain()


# --- row 34 ---


def test_row_34_of_one_key_twice_the_second_is_refused_and_the_first_unharmed(keys: Keys) -> None:
    with encrypted(keys.of("w0")) as (server, port), puller("w1", port, keys.of("w1")) as first:
        first.greet()
        with puller("w1", port, keys.of("w1")) as second:
            for number in range(1, 4):
                refusal = hello(second)
                assert (refusal.code, refusal.message) == (
                    "busy",
                    "w1 is connected already; ask later",
                )
                assert server.refusals == {"twice": number}
                assert len(received(first.pull("fc"))) == 1
            reply = second.ask(protocol.Status(second.new_id())).reply
            assert (reply.code, reply.message) == ("refused", "say hello first")
            first.transport.close()
            until(lambda: isinstance(hello(second), protocol.Welcome), "the first to be gone")
            assert len(received(second.pull("fc"))) == 1
            first.transport.open()


def test_row_34_a_peer_whose_connection_was_cut_is_let_in_again_at_once(keys: Keys) -> None:
    with (
        encrypted(keys.of("w0")) as (server, port),
        Proxy(port) as wire,
        puller("w1", wire.port, keys.of("w1")) as w1,
    ):
        for _ in range(5):
            w1.greet()
            assert len(received(w1.pull("conv"))) == 1
            wire.cut()
            until(lambda: turn(w1) or not w1.transport._channels["w0"].connection.is_up, "the cut")
    assert server.refusals == {}


def test_row_34_what_a_vanished_peer_leaves_behind_is_not_in_its_way_for_long(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a machine loses its power: nothing comes by the old connection, nor is it closed.
    Then the server misses its heartbeats."""

    class Void(Proxy):
        vanished = False

        def _pass_on(self, source: socket.socket) -> None:
            if self.vanished:
                self._selector.unregister(source)
            else:
                super()._pass_on(source)

        def _close(self, side: socket.socket) -> None:
            for end in (side, self._other.pop(side)):
                end.close()
            self._servers.clear()

    monkeypatch.setattr(sockets, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(sockets, "SILENCE_MS", 300)
    with encrypted(keys.of("w0")) as (_, port), Void(port) as wire:
        with puller("w1", wire.port, keys.of("w1")) as before:
            before.greet()
            wire.vanished = True
        with puller("w1", port, keys.of("w1")) as after:
            assert hello(after).code == "busy"
            until(
                lambda: turn(after, 0.1) or isinstance(hello(after), protocol.Welcome),
                "the old one to be closed",
            )


# --- rows 18 and 36: keys that change while all run ---


def test_row_18_a_peer_back_with_a_new_key_is_let_in_after_a_reload(
    keys: Keys, log: pytest.LogCaptureFixture
) -> None:
    chain = keys.of("w0")
    keys.rotated("w1")
    with encrypted(chain) as (server, port), puller("w1", port, keys.of("w1")) as w1:
        until(lambda: turn(w1) or server.refusals.get("key"), "a refusal")
        chain.reload()
        w1.greet()
        assert len(received(w1.pull("fc"))) == 1
    assert lines(log, "keys reloaded: w1 changed")


def test_row_18_a_server_back_with_a_new_key_is_found_after_a_reload(keys: Keys) -> None:
    chain, store = keys.of("w1"), MODEL.store(MODEL.weights())
    with ExitStack() as stack:
        old = stack.enter_context(ExitStack())
        _, port = old.enter_context(encrypted(keys.of("w0")))
        wire = stack.enter_context(Proxy(port))
        w1 = stack.enter_context(puller("w1", wire.port, chain))
        w1.greet()
        old.close()
        keys.rotated("w0")
        spec = MODEL.spec("w0", "w1")
        _, wire.upstream = stack.enter_context(serving(spec, store, keys=keys.of("w0")))
        connection = w1.transport._channels["w0"].connection
        until(lambda: turn(w1) or connection._pause_s > 0.1, "a refusal of the new key")
        chain.reload()
        w1.greet()


def pulling_slowly(stack: ExitStack, keys: Keys, chain: Keychain) -> tuple[Server, Puller]:
    """w1 pulls 4 MB from w0 at 2 MB/s, and has a part of it."""
    pace = Pacing({"w1": 2e6}, None)
    server, port = stack.enter_context(
        serving(MODEL.spec("w0", "w1", "w2"), MODEL.store(MODEL.weights()), pace, keys=chain)
    )
    w1 = stack.enter_context(puller("w1", port, keys.of("w1")))
    w1.greet()
    assert w1.send(protocol.Pull(w1.new_id(), ("fc",), 0, 0, 2**20)) == []
    until(lambda: turn(w1) or chunk_bytes(server) > 0, "the first chunk")
    return server, w1


def chunk_bytes(server: Server) -> int:
    return server.sent.bytes["w1", "chunk"]


def test_row_36_a_key_revoked_in_mid_pull_is_served_no_further_byte(keys: Keys) -> None:
    chain = keys.of("w0")
    with ExitStack() as stack:
        server, w1 = pulling_slowly(stack, keys, chain)
        keys.revoked("w1")
        chain.reload()
        connection = w1.transport._channels["w0"].connection
        until(lambda: turn(w1) or not connection.is_up, "the connection's end")
        until(lambda: turn(w1) or server.refusals, "its next attempt to be refused")
        assert server.refusals.keys() == {"key"}
        assert chunk_bytes(server) < 4_000_000
        assert isinstance(w1.ask(protocol.Status(w1.new_id())), RequestFailed)


def test_row_36_a_revoked_key_whose_connection_lives_on_is_refused_everything(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if its connection could not be ended: then nothing comes by it all the same."""
    monkeypatch.setattr(Session, "hang_up", lambda self: None)
    chain = keys.of("w0")
    with ExitStack() as stack:
        server, w1 = pulling_slowly(stack, keys, chain)
        keys.revoked("w1")
        chain.reload()
        refusal = w1.ask(protocol.Status(w1.new_id())).reply
        assert (refusal.code, refusal.message) == ("refused", "your key is not known here any more")
        sent = chunk_bytes(server)
        for message in (protocol.Status(w1.new_id()), protocol.Probe(w1.new_id(), 10)):
            assert w1.ask(message).reply.code == "refused"
        assert hello(w1).code == "refused"
        assert all(isinstance(e, Replied) for e in w1.pull("conv"))
        assert server.refusals == {"key": 5}
        assert chunk_bytes(server) == sent < 4_000_000


def test_row_36_a_key_that_is_put_back_is_let_in_again(keys: Keys) -> None:
    chain, all_of_them = keys.of("w0"), keys.files.public.read_text()
    with encrypted(chain) as (server, port), puller("w1", port, keys.of("w1")) as w1:
        w1.greet()
        keys.revoked("w1")
        chain.reload()
        w1.ask(protocol.Status(w1.new_id()))
        connection = w1.transport._channels["w0"].connection
        until(lambda: turn(w1) or connection.due_s < float("inf"), "w1 to be refused")
        assert server.refusals["key"] > 0
        keys.files.public.write_text(all_of_them)
        chain.reload()
        w1.greet()


def test_row_36_others_keep_their_connection_and_their_pulls(keys: Keys) -> None:
    chain = keys.of("w0")
    with ExitStack() as stack:
        server, w1 = pulling_slowly(stack, keys, chain)
        keys.revoked("w2")
        chain.reload()
        events = w1.events(received, "the whole layer")
        assert [event.layer for event in received(events)] == ["fc"]
        assert server.refusals == {}


def test_row_36_from_a_revoked_peer_nothing_is_pulled_either(keys: Keys) -> None:
    chain = keys.of("w1")
    with encrypted(keys.of("w0")) as (server, port), puller("w1", port, chain) as w1:
        w1.greet()
        w1.send(protocol.Pull(w1.new_id(), ("fc",), 0, 0, 2**18))
        keys.revoked("w0")
        chain.reload()
        events = w1.events(lambda events: any(map(is_failure, events)), "the end of the pull")
        assert [event.reason for event in events if is_failure(event)] == ["disconnected"]
        assert isinstance(w1.ask(protocol.Status(w1.new_id())), RequestFailed)
    assert server.refusals == {}
