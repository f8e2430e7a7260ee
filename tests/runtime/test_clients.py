"""What is on its way to a connection."""

from __future__ import annotations

import threading

import zmq

from mpls.core import protocol
from mpls.core.serving import Transfer
from mpls.runtime.clients import COPIED_BYTES, COPIES_LIMIT_BYTES, Client, Leaving, Sending
from mpls.wire import CREDIT_LIMIT_BYTES
from tests.runtime.rig import Model

MODEL = Model(fc=COPIED_BYTES // 4)
FITS = COPIES_LIMIT_BYTES // COPIED_BYTES


def chunk_of(client: Client, number: int) -> tuple[Sending, Leaving]:
    """The only chunk of a pull that has just begun."""
    store = MODEL.store()
    snapshot = store.publish(MODEL.weights(), 1, keep_path=False)
    pull = protocol.Pull(number, ("fc",), 0, 0, 4 * COPIED_BYTES)
    sending = Sending(Transfer(pull, snapshot, (("fc", COPIED_BYTES),)), snapshot, 0.0)
    client.sendings.append(sending)
    return sending, Leaving([], "chunk", 0.0, COPIED_BYTES, sending)


def test_larger_chunks_are_handed_over_as_they_lie() -> None:
    client = Client(b"route")
    assert client.may_copy(Leaving([], "chunk", data_bytes=COPIED_BYTES))
    assert not client.may_copy(Leaving([], "chunk", data_bytes=COPIED_BYTES + 1))


def test_copies_end_at_their_limit_until_something_sent_after_them_was_read() -> None:
    """Pulls that are cancelled one after the other leave no more in the queue than that."""
    client = Client(b"route")
    for number in range(FITS):
        sending, message = chunk_of(client, number)
        assert client.may_copy(message)
        client.note_sent(message, None, copied=True)
        client.end(sending)  # cancelled
    sending, message = chunk_of(client, FITS)
    assert not client.may_copy(message)
    client.note_sent(message, None, copied=False)
    client.note_read(sending)
    assert client.may_copy(message)


# --- what ZeroMQ still has -----------------------------------------------------------------------


class Handing:
    """Stands for ZeroMQ: what it was given is on its way until `done`."""

    def __init__(self) -> None:
        self.handed_on = threading.Event()
        self.tracker = zmq.MessageTracker(self.handed_on)

    def done(self) -> None:
        self.handed_on.set()


WINDOW = CREDIT_LIMIT_BYTES // COPIED_BYTES
"""So many chunks fill a connection's window."""


def a_pull(client: Client, chunks: int) -> Sending:
    """Of one layer of so many chunks; not begun."""
    model = Model(fc=chunks * COPIED_BYTES // 4)
    snapshot = model.store().publish(model.weights(), 1, keep_path=False)
    size = chunks * COPIED_BYTES
    sending = Sending(
        Transfer(protocol.Pull(1, ("fc",), 0, 0, size), snapshot, (("fc", size),)), snapshot, 0.0
    )
    client.sendings.append(sending)
    return sending


def cancelled(client: Client, zmq_has: Handing, chunks: int = WINDOW) -> None:
    """A pull that filled its window, and is over; ZeroMQ still has it all."""
    sending = a_pull(client, chunks)
    while (plan := client.next_chunk()) is not None:
        assert plan[0] is sending
        message = Leaving([], "chunk", 0.0, plan[1].length, sending)
        client.note_sent(message, zmq_has.tracker, copied=False)
    client.end(sending)


def test_what_is_left_of_a_cancelled_pull_takes_its_room_until_zeromq_has_handed_it_on() -> None:
    client, zmq_has = Client(b"route"), Handing()
    cancelled(client, zmq_has)
    a_pull(client, 1)
    assert client.next_chunk() is None
    assert client.waits, "nobody gives credit for it: it has to be looked after"
    zmq_has.done()
    assert client.next_chunk() is not None


def test_a_copied_chunk_does_not_hide_those_before_it_that_were_not_copied() -> None:
    client, zmq_has = Client(b"route"), Handing()
    sending = a_pull(client, WINDOW)
    trackers = iter([zmq_has.tracker])
    while (plan := client.next_chunk()) is not None:
        message, tracker = Leaving([], "chunk", 0.0, plan[1].length, sending), next(trackers, None)
        client.note_sent(message, tracker, copied=tracker is None)
    client.end(sending)
    a_pull(client, 1)
    assert client.next_chunk() is None


def test_a_chunk_of_a_pull_that_ended_while_it_left_takes_room_too() -> None:
    client, zmq_has = Client(b"route"), Handing()
    sending = a_pull(client, WINDOW)
    client.end(sending)
    client.note_sent(Leaving([], "chunk", 0.0, CREDIT_LIMIT_BYTES, sending), zmq_has.tracker, False)
    a_pull(client, 1)
    assert client.next_chunk() is None
    zmq_has.done()
    assert client.next_chunk() is not None


def test_a_pull_that_waits_for_another_s_credit_is_not_looked_after() -> None:
    client = Client(b"route")
    a_pull(client, WINDOW)
    while client.next_chunk() is not None:
        pass
    a_pull(client, 1)
    assert client.next_chunk() is None
    assert not client.waits


def test_a_probe_waits_until_what_was_sent_before_has_left_and_chunks_do_not_hide_that() -> None:
    client, zmq_has = Client(b"route"), Handing()
    client.note_sent(Leaving([], "probe-data", 0.0, 1), zmq_has.tracker, copied=False)
    client.probes.append(protocol.ProbeData(1, b"x"))
    assert client.next_probe() is None
    a_pull(client, 1)
    assert client.next_chunk() is not None
    assert client.waits
    zmq_has.done()
    assert client.next_probe() is not None
    assert client.next_probe() is None
    assert not client.waits


def test_who_has_room_beside_what_is_queued_is_not_looked_after() -> None:
    client, zmq_has = Client(b"route"), Handing()
    client.note_sent(Leaving([], "probe-data", 0.0, 1), zmq_has.tracker, copied=False)
    a_pull(client, 1)
    assert client.next_chunk() is not None
    assert not client.waits
