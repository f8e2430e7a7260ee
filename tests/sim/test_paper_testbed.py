"""configs/paper-testbed.toml: the paper's thirty devices."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mpls.config import changed, load
from sim import calibration
from sim.point import Point, simulate
from sim.variation import parse_variation
from tools.paper_rooms import lines, room

CONFIGS = Path(__file__).parents[2] / "configs"
TESTBED = load(CONFIGS / "paper-testbed.toml")
ROOMS = CONFIGS / "paper-testbed-rooms.csv"


def test_thirty_devices_run_at_the_speeds_of_six_modes() -> None:
    speeds = [worker.speed for worker in TESTBED.workers]
    blocks = [set(speeds[first : first + 5]) for first in range(0, 30, 5)]
    assert blocks == [{0.79}, {0.68}, {0.52}, {1.0}, {0.73}, {0.73}]


def test_each_room_has_two_blocks_of_five() -> None:
    assert [room(device) for device in range(0, 30, 5)] == ["A", "B", "C", "A", "B", "C"]
    assert Counter(map(room, range(30))) == {"A": 10, "B": 10, "C": 10}


def test_the_rates_by_room_are_what_the_tool_writes() -> None:
    assert ROOMS.read_text() == "\n".join(lines()) + "\n"


def test_it_runs_on_drawn_links_and_on_those_of_the_rooms() -> None:
    config = changed(TESTBED, {"training": {"rounds": 2}})
    drawn = Point(config, calibration.load(), "model")
    rooms = Point(config, calibration.load(), "model", vary=parse_variation(f"file:{ROOMS}"))
    rows = [simulate(point) for point in (drawn, rooms)]
    assert [row["rounds"] for row in rows] == [2, 2]
    assert rows[0]["trace_sha256"] != rows[1]["trace_sha256"]
