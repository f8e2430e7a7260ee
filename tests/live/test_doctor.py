"""`mpls doctor` beside real workers on hosts of their own, encrypted: before they start, while some
run, and while all do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.live.fleet import MPLS, ROOT, Fleet
from tests.live.netns import Network

RATE_Bps = 5e6
TABLES = {"metrics": {"port": 9100}}


def asked(fleet: Fleet, network: Network, host: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its exit code on this host, and what it found, by what was looked at."""
    worker = str(fleet.names.index(host))
    command = [*MPLS, "doctor", str(fleet.file), "--id", worker, "--json"]
    done = subprocess.run(network.inside(host, *command), cwd=ROOT, capture_output=True, text=True)
    plain = json.loads(done.stdout)
    return done.returncode, {finding["what"]: finding for finding in plain["findings"]}


def test_a_doctor_on_each_server_sees_the_federation_come_up(
    network_of: type[Network], tmp_path: Path
) -> None:
    with network_of(["w0", "w1", "w2"], rate_Bps=RATE_Bps) as network:
        addresses = {host: f"{network.address(host)}:7000" for host in network.hosts}
        with Fleet(tmp_path, addresses, network.inside, TABLES) as fleet:
            code, found = asked(fleet, network, "w0")
            assert code == 0
            assert found["port of w0"]["value"].endswith("is free")
            assert {found[f"w0 -> {peer}"]["level"] for peer in ("w1", "w2")} == {"warn"}

            fleet.start("w1")
            fleet.wait_until_training("w1")
            code, found = asked(fleet, network, "w0")
            link = found["w0 -> w1"]
            assert (code, link["model"]) == (0, found["model"]["manifest"])
            assert 0.5 * RATE_Bps < link["rate_Bps"] < RATE_Bps
            assert found["w0 -> w2"]["level"] == "warn"

            fleet.start("w0", "w2")
            fleet.wait_until_training("w0", "w2")
            fleet.wait_until_all_pull()
            code, found = asked(fleet, network, "w0")
            assert code == 0
            assert found["port of w0"]["health"]["peers"] == {"w1": "ready", "w2": "ready"}
            assert "w0 itself runs" in found["w0 -> w1"]["value"]

            network.silence_both("w0", "w2")
            code, found = asked(fleet, network, "w0")
            assert code == 1
            assert "does not answer within" in found["w0 -> w2"]["value"]
            network.heal()
            fleet.wait_until_all_pull()
            # Nobody was put out by being asked.
            refused = [life.output() for life in (fleet["w1"], fleet["w2"])]
            assert not any("refused (" in output for output in refused)
            for name in fleet.names:
                assert fleet[name].end() == 0, fleet[name].output()
