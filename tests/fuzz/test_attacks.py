"""A short run of what `make fuzz` does for longer: live processes under attack stay alive, answer,
keep nothing open and do not grow."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz.attacks import Hung, attacked_server, await_pong, dealer
from tests.fuzz.messages import Spoiler
from tests.fuzz.sessions import Sessions

MESSAGES = 1_500
SESSIONS = 150


def test_row_45_and_46_and_48_a_server_outlives_malformed_requests() -> None:
    assert fuzz.attack_server(MESSAGES, seed=1)


def test_row_49_a_puller_outlives_malformed_answers() -> None:
    assert fuzz.attack_puller(MESSAGES, seed=1)


def test_row_44_a_port_outlives_broken_sessions() -> None:
    assert fuzz.attack_port(SESSIONS, 1, None)


def test_row_44_a_port_with_curve_outlives_broken_sessions(tmp_path: Path) -> None:
    assert fuzz.attack_port(SESSIONS, 1, tmp_path)


def test_a_seed_makes_the_same_attack_again() -> None:
    first, again = (Spoiler(random.Random(5)) for _ in range(2))
    assert [first.make() for _ in range(200)] == [again.make() for _ in range(200)]
    one, other = (Sessions(random.Random(5)) for _ in range(2))
    assert [one.make() for _ in range(200)] == [other.make() for _ in range(200)]


def test_a_dead_server_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.attacks.HANG_S", 0.3)
    with attacked_server() as victim, dealer(victim) as socket:
        await_pong(socket, 1)
        victim.end.__exit__()
        with pytest.raises(Hung):
            await_pong(socket, 2)
