"""Malformed messages end nothing: a few thousand each time, a million in `make test-slow`.

Method: `fuzz.py` mutates good messages and hands them to both ends; here a few also go through real
sockets, and the largest and shortest of them with them.
"""

from __future__ import annotations

import random

import grpc
import pytest

from mpls.adapters import contract
from mpls.adapters.conformance import Target
from tests.adapters.fuzz import REQUESTS, fuzz, mutated, random_message
from tests.adapters.rig import serving_grpc


def test_row_56_and_57_thousands_of_mutated_messages_end_nothing() -> None:
    ends = fuzz(8_000, seed=2)
    assert ends["answered"] > 500
    assert ends["INVALID_ARGUMENT"] > 500
    assert ends["read"] > 500
    kinds = {"message", "peer", "layers", "value"}
    assert {f"protocol-{kind}" for kind in kinds} <= ends.keys()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_row_56_and_57_a_million_mutated_messages_end_nothing() -> None:
    assert fuzz(1_000_000, seed=1).total() == 1_000_000


def test_row_57_through_real_sockets_every_request_ends_with_a_status() -> None:
    chance = random.Random(3)
    with serving_grpc() as (server, port), Target(f"127.0.0.1:{port}", 1) as target:
        for _ in range(300):
            method, kind = chance.choice(list(REQUESTS.items()))
            content = mutated(random_message(kind, chance).SerializeToString(), chance)
            call = target.channel.unary_unary(f"/{contract.SERVICE}/{method}")
            status = target.status(lambda call=call, c=content: call(c, timeout=10.0))
            assert status in EXPECTED, (method, content)
        for size in (2**16, 2**20, 2**26):
            call = target.channel.unary_unary(f"/{contract.SERVICE}/PullLayers")
            status = target.status(lambda call=call, s=size: call(bytes(s), timeout=10.0))
            assert status in EXPECTED - {grpc.StatusCode.OK}
        assert target.heartbeat().alive
        assert not any(server._answers.values())


EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
