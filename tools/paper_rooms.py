"""Writes configs/paper-testbed-rooms.csv: what 30 devices in three rooms can send each other.

    python tools/paper_rooms.py > configs/paper-testbed-rooms.csv

The paper has devices in three rooms, five of each mode in the rooms A, B and C in
turn, and a router in room A. It gives 5 to 25 Mbit/s and no rate of a room. Ours is one way to
read that: each device reaches the router at a rate drawn from its room's range, and a link is as
fast as the slower of its two ends.
"""

from __future__ import annotations

from collections.abc import Iterator

from mpls.core.streams import Stream

DEVICES, BLOCK = 30, 5
ROOMS_BPS = {"A": (15e6 / 8, 25e6 / 8), "B": (8e6 / 8, 15e6 / 8), "C": (5e6 / 8, 10e6 / 8)}
"""Our choice, within the paper's 5 to 25 Mbit/s."""


def room(device: int) -> str:
    """Of a device, by its number from 0."""
    return tuple(ROOMS_BPS)[device // BLOCK % len(ROOMS_BPS)]


def lines() -> Iterator[str]:
    """Of the file of rates."""
    own_Bps = [
        round(Stream(1, "paper-rooms", device).between(*ROOMS_BPS[room(device)]))
        for device in range(DEVICES)
    ]
    yield "t_s,src,dst,rate_Bps"
    for src in range(DEVICES):
        for dst in range(DEVICES):
            if src != dst:
                yield f"0,{src},{dst},{min(own_Bps[src], own_Bps[dst])}"


if __name__ == "__main__":
    print("\n".join(lines()))
