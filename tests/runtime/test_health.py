"""Who is stuck, who is only waiting, and how others hear of it."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mpls.core.bandwidth import BandwidthEstimator
from mpls.core.peers import Peer
from mpls.core.serving import Condition
from mpls.errors import BadInput
from mpls.runtime.endpoint import Endpoint
from mpls.runtime.health import STUCK_S, Health, Pulse


class Hand:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> float:
        return self.s


class Kept:
    """What a Keeper tells."""

    saved_round = 10
    trouble = ""


def health(clock: Any, pulse: Pulse, step_s: float = 0.01, **kept: str) -> Health:
    peers = [Peer("w1", BandwidthEstimator(1e6), "ready"), Peer("w2", BandwidthEstimator(1e6))]
    keeper = Kept()
    vars(keeper).update(kept)
    condition = Condition("running", 12, step_s)
    return Health("w0", 100, pulse, lambda: condition, lambda: peers, keeper, clock)


def test_a_thread_that_gets_nowhere_is_named_with_how_long() -> None:
    clock = Hand()
    pulse = Pulse(clock)
    pulse.beat("training")
    clock.s = STUCK_S
    assert health(clock, pulse).stuck() == ""
    clock.s += 1
    assert health(clock, pulse).stuck() == "training: stuck for 61 s"
    assert health(clock, pulse).report()["healthy"] is False


def test_twenty_slow_steps_are_not_stuck_but_a_network_loop_is() -> None:
    clock = Hand()
    pulse = Pulse(clock)
    pulse.beat("training")
    clock.s = 150.0
    assert health(clock, pulse, step_s=10.0).stuck() == ""
    pulse.beat("aggregation")
    clock.s += STUCK_S + 1
    assert health(clock, pulse, step_s=1e9).stuck() == "aggregation: stuck for 61 s"


def test_a_first_pass_may_have_steps_of_any_length() -> None:
    clock = Hand()
    pulse = Pulse(clock)
    pulse.beat("training")
    clock.s = 1e6
    assert health(clock, pulse, step_s=0.0).stuck() == ""


def test_who_ended_or_waits_is_not_stuck_and_a_frozen_process_is_forgiven() -> None:
    clock = Hand()
    pulse = Pulse(clock)
    pulse.beat("training")
    pulse.end("training")
    clock.s = 1e6
    assert health(clock, pulse).stuck() == ""
    pulse.beat("training")
    clock.s = 2e6
    pulse.forgive()
    assert health(clock, pulse).stuck() == ""


def test_a_report_names_what_is_not_as_it_should_be() -> None:
    clock = Hand()
    report = health(clock, Pulse(clock), trouble="disk: No space left on device").report()
    assert report["troubles"] == ["checkpoint: disk: No space left on device", "peer w2: unknown"]
    assert report["healthy"] is True
    assert (report["round"], report["rounds"], report["checkpoint_round"]) == (12, 100, 10)


@contextmanager
def served(report: dict[str, Any]) -> Iterator[str]:
    endpoint = Endpoint(0, lambda: report)
    try:
        yield f"http://127.0.0.1:{endpoint.port}"
    finally:
        endpoint.close()


def test_the_endpoint_says_how_the_worker_is_and_503_when_it_should_be_started_again() -> None:
    clock = Hand()
    report = health(clock, Pulse(clock)).report()
    with served(report) as url:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            assert json.load(answer) == report
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        assert 'mpls_round{worker="w0"} 12' in lines
        assert 'mpls_peer_ready{worker="w0",peer="w2"} 0' in lines
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/etc/passwd", timeout=5)
    stuck = served({**report, "healthy": False})
    with stuck as url, pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{url}/health", timeout=5)


def test_a_port_in_use_is_bad_input() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"\[metrics\] port: cannot listen on .*{port}"):
            Endpoint(port, dict)


def test_a_port_beyond_the_last_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"cannot listen on 127\.0\.0\.1:65536"):
        Endpoint(65_536, dict)
