"""Who joins and who leaves while the others run. As `sim.fault_effects`, which calls this.

The cluster file is changed at once, and each worker told a little later, one after the other: until
then a newcomer is a stranger to it, and one who left is merely gone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sim.faults import Fault

if TYPE_CHECKING:
    from sim.fault_effects import Faults

TOLD_WITHIN_S = 1.0


def keep_away(faults: Faults) -> None:
    """Before any worker begins: who joins later is not there yet."""
    faults.newcomers = {fault.worker or 0 for fault in faults.listed if fault.kind == "join"}
    if faults.newcomers:
        faults.twin.begin_without(faults.newcomers)
    for index in faults.newcomers:
        for link in faults.links_of(index):
            faults.drop(link)


def join(faults: Faults, fault: Fault) -> None:
    """It begins, once."""
    index = fault.worker or 0
    if index not in faults.newcomers:
        return
    faults.newcomers.discard(index)
    faults.befell[fault.kind] += 1
    faults.twin.join(index)
    for peer in faults.twin.config.peers_of(index):
        faults.retry((index, peer), 0.0)
    _tell_all(faults, index)


def leave(faults: Faults, fault: Fault) -> None:
    """It drains and goes, if it is up."""
    index = fault.worker or 0
    worker = faults.twin.workers[index]
    if not worker.alive or worker.frozen:
        return
    faults.befell[fault.kind] += 1
    faults.twin.leave(index)
    for link in faults.links_of(index):
        faults.drop(link)
    _tell_all(faults, index)


def _tell_all(faults: Faults, index: int) -> None:
    """Those who talk to it read the file anew. Who is down reads it when it is started again."""
    for peer in faults.twin.config.peers_of(index):
        faults.after(faults.draws.between(0.0, TOLD_WITHIN_S), partial(_tell, faults, peer, index))


def _tell(faults: Faults, peer: int, index: int) -> None:
    if faults.twin.workers[peer].alive:
        faults.twin.tell(peer)
        if index not in faults.twin.absent:
            faults.retry((peer, index), 0.0)
