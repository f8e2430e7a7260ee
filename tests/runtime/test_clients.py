"""What is on its way to a connection."""

from __future__ import annotations

from mpls.core import protocol
from mpls.core.serving import Transfer
from mpls.runtime.clients import COPIED_BYTES, COPIES_LIMIT_BYTES, Client, Leaving, Sending
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
