"""Every input of the corpus, by name: messages to `decode`, sessions to live servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest

from mpls.core.protocol import ERROR_CODES
from mpls.errors import ProtocolError
from mpls.wire import decode, encode, refusal
from tests.fuzz import corpus
from tests.fuzz.attacks import HANG_S, Server, assert_alive, attacked_server

MESSAGES = corpus.messages()
SESSIONS = corpus.sessions()
READ_S = 0.05
"""How long a stranger listens, who mostly hears nothing."""


@pytest.mark.parametrize("name", MESSAGES)
def test_row_45_and_47_a_message_is_refused_as_its_file_says(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(MESSAGES[name])
    assert name.startswith(f"{caught.value.kind}--")
    assert caught.value.code in ERROR_CODES
    assert encode(refusal(caught.value))


def test_the_corpus_has_something_of_every_kind() -> None:
    kinds = {name.partition("--")[0] for name in MESSAGES}
    assert kinds == {"frames", "msgpack", "keys", "value", "unsupported"}
    assert len(SESSIONS) >= 50


def test_a_file_holds_frames_exactly() -> None:
    for frames in ([], [b""], [b"a", b"", b"\xff" * 300]):
        assert corpus.unpacked(corpus.packed(frames)) == frames


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with attacked_server() as server:
        yield server


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with attacked_server(tmp_path_factory.mktemp("keys")) as server:
        yield server


def heard(server: Server, pieces: Sequence[bytes], patience_s: float = READ_S) -> bytes:
    """What a stranger who writes these, one after the other, reads until nothing more comes."""
    with socket.create_connection(("127.0.0.1", server.port), HANG_S) as stranger:
        got = b""
        stranger.settimeout(patience_s)
        with suppress(OSError):  # it may be thrown out at any point
            for piece in pieces:
                stranger.sendall(piece)
                with suppress(TimeoutError):
                    got += stranger.recv(4096)
        return got


def handled(server: Server) -> int:
    """How many messages reached the application, and were refused there."""
    return sum(server.end.ask("refusals").result.values())


@pytest.mark.parametrize("name", SESSIONS)
def test_row_43_and_44_a_session_without_a_key_reaches_nobody(name: str, encrypted: Server) -> None:
    before = handled(encrypted)
    assert b"pong" not in heard(encrypted, SESSIONS[name])
    assert_alive(encrypted)
    assert handled(encrypted) == before


def test_row_44_no_session_in_plaintext_is_the_end(plain: Server) -> None:
    for written in SESSIONS.values():
        heard(plain, written)
    assert_alive(plain)


def test_a_stranger_who_speaks_zmtp_is_answered_in_plaintext(plain: Server) -> None:
    """So that the others are turned away for what they are, and not by the harness."""
    assert b"pong" in heard(plain, SESSIONS["valid-session"], HANG_S)
