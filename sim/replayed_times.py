"""What a recorded run says about times: of messages, mixing and tests, and of transfers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import fsum
from statistics import median

from mpls.core.links import Link
from mpls.errors import BadInput
from sim.network import Links
from sim.network.capacity import Constant
from sim.network.replayed import SHORTEST_S, Duration
from sim.recorded import RecordedRun, Transfer
from sim.timing import Timing


def recorded_delays(run: RecordedRun, otherwise: Timing) -> Timing:
    """`otherwise`, with the run's median of half a status request's round trip and of a server's
    wait before the first byte, where it recorded any."""
    round_trips_s = [seconds for worker in run.workers for seconds in worker.round_trips_s]
    waits_s = [one.wait_s for worker in run.workers for one in worker.transfers if one.whole]
    return replace(
        otherwise,
        one_way_s=median(round_trips_s) / 2 if round_trips_s else otherwise.one_way_s,
        serve_s=median(waits_s) if waits_s else otherwise.serve_s,
    )


def recorded_timings(run: RecordedRun, otherwise: Timing) -> list[Timing]:
    """Of each worker: the means of what mixing, publishing and testing took it."""
    return [
        replace(
            otherwise,
            mix_s=_mean(worker.mix_s, otherwise.mix_s),
            publish_s=_mean(worker.publish_s, otherwise.publish_s),
            evaluate_s=_mean([test.seconds for test in worker.tests], otherwise.evaluate_s),
        )
        for worker in run.workers
    ]


class RecordedTransfers:
    """How long transfers took from one worker to another, between the first byte's leaving and the
    last one's arrival: without the request's way to the server (`one_way_s`) and its wait there.

    The n-th transfer from a worker to another lasts as long as the n-th recorded one if it has as
    many bytes; any other moves at the mean rate of that direction's recorded transfers. Where that
    direction has none, the mean rate is that of all that were sent by the same worker, or else of
    the whole run. Means weigh by bytes.
    """

    def __init__(self, run: RecordedRun, one_way_s: float) -> None:
        self._one_way_s = one_way_s
        self._of: defaultdict[Link, list[Transfer]] = defaultdict(list)
        ids = {worker.spec.name: index for index, worker in enumerate(run.workers)}
        for puller, worker in enumerate(run.workers):
            for transfer in worker.transfers:
                if transfer.peer in ids:
                    self._of[ids[transfer.peer], puller].append(transfer)
        self._every = [one for those in self._of.values() for one in those if one.whole]
        self._means_Bps: dict[Link, float] = {}

    def seconds(self, src: int, dst: int, total_bytes: float, nth: int) -> float:
        """See `sim.network.replayed.Duration`."""
        recorded = self._of.get((src, dst), ())
        if nth < len(recorded):
            transfer = recorded[nth]
            if transfer.whole and transfer.bytes == total_bytes:
                return self._moving_s(transfer)
        return total_bytes / self.mean_Bps(src, dst)

    def mean_Bps(self, src: int, dst: int) -> float:
        """The mean rate from one worker to another."""
        known = self._means_Bps.get((src, dst))
        if known is None:
            known = self._means_Bps[src, dst] = self._rate_Bps(src, dst)
        return known

    def _rate_Bps(self, src: int, dst: int) -> float:
        direction = [one for one in self._of.get((src, dst), ()) if one.whole]
        sent = [one for link, those in self._of.items() if link[0] == src for one in those]
        chosen = direction or [one for one in sent if one.whole] or self._every
        assert chosen, "see demand_transfers"
        return fsum(one.bytes for one in chosen) / fsum(map(self._moving_s, chosen))

    def _moving_s(self, transfer: Transfer) -> float:
        return max(SHORTEST_S, transfer.seconds - transfer.wait_s - self._one_way_s)


def demand_transfers(run: RecordedRun) -> None:
    """Raises BadInput, one line that names the run, where it has none."""
    if not any(one.whole for worker in run.workers for one in worker.transfers):
        raise BadInput(
            f"{run.place}: no transfer was recorded, so nothing tells how fast links are; give "
            "--bw and another --net than trace"
        )


def recorded_durations(run: RecordedRun, one_way_s: float) -> Duration:
    """For `--net trace`."""
    return RecordedTransfers(run, one_way_s).seconds


def recorded_links(run: RecordedRun, one_way_s: float, payload_share: float) -> Links:
    """Constant links whose payload moves at the recorded mean rates."""
    transfers = RecordedTransfers(run, one_way_s)
    return lambda src, dst: Constant(transfers.mean_Bps(src, dst) / payload_share)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return fsum(values) / len(values) if values else otherwise
