"""What befalls a worker's host: its disk and its clocks. As `sim.fault_effects`, which calls this.

A disk that fails (full, EIO, read-only) takes no checkpoint, and leaves those it has as they are. A
torn checkpoint is noticed when the worker is started again: it is set aside, and the one before is
used. Where the wall clock jumps, the host is rebooted with the worker's next restart: its monotonic
clock, the only one that decisions may see, begins anew at 0. In the first life it begins elsewhere,
as on a host that has been up for long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.clock import HostClocks
from sim.faults import Fault

if TYPE_CHECKING:
    from sim.fault_effects import Faults


def set_clocks(faults: Faults) -> None:
    """Before any worker begins."""
    for fault in faults.listed:
        if fault.kind == "clock":
            clocks = faults.twin.workers[fault.worker or 0].clocks
            clocks.zero_s = min(clocks.zero_s, -abs(fault.jump_s))


def rebooted(faults: Faults, index: int) -> HostClocks | None:
    """The clocks of a worker that is started again now; None if they go on."""
    if not any(fault.kind == "clock" and fault.worker == index for fault in faults.listed):
        return None
    return HostClocks(faults.twin.clock.now, faults.twin.workers[index].clocks.wall_off_s)


def jump_clock(faults: Faults, fault: Fault) -> None:
    """The wall clock shows another time at once."""
    worker = faults.twin.workers[fault.worker or 0]
    faults.befell[fault.kind] += worker.alive
    worker.clocks.wall_off_s += fault.jump_s


def fail_disk(faults: Faults, fault: Fault) -> None:
    """Nothing can be written for a while."""
    worker = faults.twin.workers[fault.worker or 0]
    generations = worker.generations
    if generations is None:
        return
    faults.befell[fault.kind] += worker.alive
    generations.failing += 1

    def heal() -> None:
        generations.failing -= 1

    faults.after(fault.for_s, heal)


def tear(faults: Faults, fault: Fault) -> None:
    """The newest checkpoint is damaged, whether its worker is up or down."""
    worker = faults.twin.workers[fault.worker or 0]
    if worker.generations is not None and worker.generations.damage():
        faults.befell[fault.kind] += 1
        faults.tears[worker.name].append(faults.twin.clock.now)
