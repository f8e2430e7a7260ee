"""The network that the other live tests stand on: its links carry what they are told to, lose what
they are told to, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.netns import PREFIX, Network, sweep

HOSTS = ["w0", "w1", "w2"]
PAYLOAD = 1448 / 1514
RECEIVER = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
connection, _ = server.accept()
began_s = None
arrived = 0
while data := connection.recv(2**20):
    if began_s is None:
        began_s, arrived = time.monotonic(), -len(data)
    arrived += len(data)
    now_s = time.monotonic()
print(arrived / (now_s - began_s), flush=True)
"""
SENDER = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 5000))
connection.sendall(bytes(int(sys.argv[2])))
connection.close()
"""
OWNER = """
import sys
from tests.live.netns import Network
with Network(["w0", "w1"]) as network:
    print(network.address("w1"), flush=True)
    sys.stdin.read()
"""
ROOT = Path(__file__).parents[2]


def goodput_Bps(network: Network, source: str, target: str, sent_bytes: int) -> float:
    """Of one TCP connection that sends so much, between its first byte and its last."""
    address = network.address(target)
    receiving = network.inside(target, sys.executable, "-c", RECEIVER, address)
    sending = network.inside(source, sys.executable, "-c", SENDER, address, str(sent_bytes))
    with subprocess.Popen(receiving, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        subprocess.run(sending, check=True)
        return float(receiver.stdout.readline())


def reaches(network: Network, source: str, target: str) -> bool:
    """Whether a connection can be made within 0.7 s."""
    address = network.address(target)
    listening = f"import socket; s = socket.create_server(({address!r}, 6000)); print(); s.accept()"
    connecting = f"import socket; socket.create_connection(({address!r}, 6000), 0.7)"
    command = network.inside(target, sys.executable, "-c", listening)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        attempt = network.inside(source, sys.executable, "-c", connecting)
        done = subprocess.run(attempt, capture_output=True)
        listener.kill()
    return done.returncode == 0


@pytest.mark.parametrize("rate_MBps", [0.5, 5.0, 12.5, 25.0])
def test_a_link_carries_what_it_was_told_to(network_of, rate_MBps, measured):
    with network_of(HOSTS, rate_MBps * 1e6) as network:
        goodput = goodput_Bps(network, "w0", "w1", int(rate_MBps * 1e6))
    ratio = goodput / (rate_MBps * 1e6 * PAYLOAD)
    measured(f"goodput of a {rate_MBps:g} MB/s link, to what it should be", ratio, 1.03, unit="")
    assert ratio > 0.9, "less only where the machine is busy"


def test_each_pair_has_a_rate_of_its_own_and_it_may_change(network_of):
    with network_of(HOSTS, 10e6) as network:
        network.set_rate("w0", "w1", 1e6)
        assert goodput_Bps(network, "w0", "w1", 1_000_000) < 1.05e6
        assert goodput_Bps(network, "w1", "w0", 5_000_000) > 6e6
        assert goodput_Bps(network, "w2", "w1", 5_000_000) > 6e6
        network.set_rate("w0", "w1", 5e6)
        assert 3.5e6 < goodput_Bps(network, "w0", "w1", 5_000_000) < 5e6


def test_a_card_is_shared_by_its_links(network_of):
    with network_of(HOSTS, 20e6, card_Bps=5e6) as network:
        assert 3.5e6 < goodput_Bps(network, "w0", "w1", 5_000_000) < 5.1e6
        before = network.carried_bytes("w0", "w1")
        assert before > 5_000_000


def test_what_is_silenced_one_way_is_heard_the_other_way(network_of):
    with network_of(HOSTS) as network:
        assert reaches(network, "w0", "w1")
        before = network.carried_bytes("w1", "w0")
        network.silence("w0", "w1")
        assert not reaches(network, "w0", "w1")
        assert network.carried_bytes("w1", "w0") == before, "nothing reached w1, so it is silent"
        assert reaches(network, "w0", "w2")
        network.heal()
        assert reaches(network, "w0", "w1")


def test_an_unplugged_host_reaches_nobody_until_it_is_plugged_in(network_of):
    with network_of(HOSTS) as network:
        network.unplug("w1")
        assert not reaches(network, "w0", "w1")
        assert not reaches(network, "w1", "w2")
        assert reaches(network, "w0", "w2")
        network.heal()
        assert reaches(network, "w0", "w1")


def namespaces(maker: int) -> int:
    """How many there are of a process."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    return listed.count(f"{PREFIX}-{maker}-")


def test_nothing_stays_behind_and_processes_inside_end(network_of):
    inside: list[subprocess.Popen[bytes]] = []
    with pytest.raises(ZeroDivisionError):
        break_off(network_of, inside)
    assert inside[0].wait(10) == -signal.SIGKILL
    assert namespaces(os.getpid()) == 0


def break_off(network_of, inside) -> None:
    with network_of(HOSTS) as network:
        inside.append(subprocess.Popen(network.inside("w0", "sleep", "60")))
        assert namespaces(os.getpid()) == 4
        assert 1 / 0


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_has_is_not(network_of):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline()
        sweep()
        assert namespaces(owner.pid) == 3
        owner.kill()
    assert namespaces(owner.pid) == 3
    sweep()
    assert namespaces(owner.pid) == 0
