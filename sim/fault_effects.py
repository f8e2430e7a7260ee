"""What each fault does to a simulation, as TCP, ZeroMQ and the kernel would have it.

Over a link that is cut, even one way, and to a process that is stopped, nothing is acknowledged:
flows stand still both ways and keep their position. Small messages differ: a cut link loses those
of the directions that it cuts, a stopped process finds them when it goes on. After
`Timing.detect_s` of this, heartbeats give the connections up at both ends; a process that dies
takes its connections with it at once. The puller connects again and again, with pauses from
`Timing.reconnect_s` that double up to LONGEST_PAUSE_S.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, inf, prod

from mpls.core.links import Link
from mpls.core.streams import Stream
from sim.clock import Timer
from sim.driver import VirtualWorker
from sim.fault_hosts import fail_disk, jump_clock, rebooted, set_clocks, tear
from sim.fault_members import join, keep_away, leave
from sim.faults import Fault, demand_known
from sim.twin import Twin

LONGEST_PAUSE_S = 5.0
NEED_CHECKPOINTS = frozenset({"restart", "disk", "torn"})
FLAP_S = 1.0
"""A flapping link is cut for so long, then whole for so long."""
DUPLICATE_S = 0.01
"""The second copy of a reply is that much later."""
ON_TIME = (0.0,)
LATE_AFTER_STALL_S = 1.0
"""A late reply comes that long after its puller's patience is over."""


class Faults:
    """The faults of one simulation. `befell` counts those that found what they befall alive; `ups`
    and `downs` list when each connection (puller, server) was there again, and when it was lost."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self.befell: Counter[str] = Counter()
        self.ups: defaultdict[Link, list[float]] = defaultdict(list)
        self.downs: defaultdict[Link, list[float]] = defaultdict(list)
        self.rests: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        """Worker's name -> from when to when it was frozen."""
        self.tears: defaultdict[str, list[float]] = defaultdict(list)
        """Worker's name -> when its newest checkpoint was damaged."""
        self.newcomers: set[int] = set()
        """Those who have not joined yet."""
        self.listed = faults
        self._seed = seed
        self.draws = Stream(seed, "loss")
        self._silences: Counter[Link] = Counter()
        """Link (lower id first) -> reasons why nothing is acknowledged."""
        self._silence_numbers: Counter[Link] = Counter()
        self._cuts: Counter[Link] = Counter()
        """Direction -> reasons why small messages are lost."""
        self._losses: defaultdict[Link, list[float]] = defaultdict(list)
        self._odd: dict[str, Counter[Link]] = {"duplicate": Counter(), "late": Counter()}
        self._disturbances = 0
        """Cuts, losses and oddities under way now."""
        self._link_factors: defaultdict[Link, list[float]] = defaultdict(list)
        self._slow: defaultdict[int, list[float]] = defaultdict(list)
        self._freezes: Counter[int] = Counter()
        self._retries: dict[Link, Timer] = {}

    def apply(self, twin: Twin) -> None:
        """Have them happen. Raises BadInput for a worker or link that the cluster has not."""
        self.twin, self._clock = twin, twin.clock
        self._links = twin.config.links()
        self._late_s = twin.config.pull_settings().stall_s + LATE_AFTER_STALL_S
        demand_known(self.listed, twin.config)
        keep_away(self)
        set_clocks(self)
        twin.fabric.passage = self._passage
        if any(fault.kind in NEED_CHECKPOINTS for fault in self.listed):
            twin.keep_checkpoints()
        for fault in self.listed:
            self._clock.at(fault.at_s, partial(_BEGIN[fault.kind], self, fault))

    # --- processes ---

    def _crash(self, fault: Fault) -> None:
        index, comes_back = fault.worker or 0, fault.kind == "restart"
        worker = self.twin.workers[index]
        if not worker.alive:
            return
        self.befell[fault.kind] += 1
        self.twin.crash(index, comes_back)
        self._wake(worker)
        for link in self.links_of(index):
            self.drop(link)
        if comes_back:
            self.after(fault.for_s, lambda: self._restart(index))

    def _restart(self, index: int) -> None:
        worker = self.twin.restart(index, rebooted(self, index))
        worker.slowness = prod(self._slow[index])
        for peer in self.twin.config.peers_of(index):
            self.retry((index, peer), 0.0)

    def _freeze(self, fault: Fault) -> None:
        worker = self.twin.workers[fault.worker or 0]
        if not worker.alive:
            return
        self.befell[fault.kind] += 1
        self._freezes[worker.index] += 1
        if self._freezes[worker.index] == 1:
            worker.freeze()
            self.rests[worker.name].append((self._clock.now, inf))
            for link in self.links_of(worker.index):
                self._silence(link)
        self.after(fault.for_s, lambda: self._thaw(worker))

    def _thaw(self, worker: VirtualWorker) -> None:
        if worker.alive and self._freezes[worker.index] > 1:
            self._freezes[worker.index] -= 1
        elif worker.alive:
            self._wake(worker)

    def _wake(self, worker: VirtualWorker) -> None:
        """No more freeze holds it, if any did."""
        if self._freezes.pop(worker.index, 0):
            begun_s, _ = self.rests[worker.name].pop()
            self.rests[worker.name].append((begun_s, self._clock.now))
            for link in self.links_of(worker.index):
                self._break_silence(link)
            worker.thaw()

    def _slow_down(self, fault: Fault) -> None:
        index = fault.worker or 0
        self.befell[fault.kind] += self.twin.workers[index].alive
        self._slow[index].append(fault.factor)
        self._set_pace(index)
        self.after(fault.for_s, lambda: self._slow[index].remove(fault.factor))
        self.after(fault.for_s, lambda: self._set_pace(index))

    def _set_pace(self, index: int) -> None:
        self.twin.workers[index].slowness = prod(self._slow[index])

    # --- links ---

    def _cut(self, fault: Fault) -> None:
        self.befell[fault.kind] += 1
        if fault.kind == "cut-one-way":
            assert fault.link is not None
            self._cut_for([fault.link], fault.for_s)
        else:
            self._cut_for(self._both_ways(fault), fault.for_s)

    def _flap(self, fault: Fault) -> None:
        self.befell[fault.kind] += 1
        directions = self._both_ways(fault)
        for number in range(ceil(fault.for_s / (2 * FLAP_S))):
            begins_s = number * 2 * FLAP_S
            lasts_s = min(FLAP_S, fault.for_s - begins_s)
            self.after(begins_s, partial(self._cut_for, directions, lasts_s))

    def _swizzle(self, fault: Fault) -> None:
        """Those named are cut off one by one, in this order, in the first half of the time, and
        come back one by one, in another order, in the second."""
        self.befell[fault.kind] += 1
        (clogged, *_), draws = fault.groups, Stream(self._seed, "swizzle", repr(fault))
        half_s = fault.for_s / 2
        begins_s = sorted(draws.between(0.0, half_s) for _ in clogged)
        ends_s = [draws.between(half_s, fault.for_s) for _ in clogged]
        for worker, begin_s, end_s in zip(clogged, begins_s, ends_s):
            directions = [way for link in self.links_of(worker) for way in (link, _reversed(link))]
            self.after(begin_s, partial(self._cut_for, directions, end_s - begin_s))

    def _cut_for(self, directions: Sequence[Link], seconds: float) -> None:
        self._disturbances += 1
        for direction in directions:
            self._cuts[direction] += 1
            self._silence(_sorted(direction))
        self.after(seconds, lambda: self._heal(directions))

    def _heal(self, directions: Sequence[Link]) -> None:
        self._disturbances -= 1
        for direction in directions:
            self._cuts[direction] -= 1
            self._break_silence(_sorted(direction))

    def _slow_links(self, fault: Fault) -> None:
        self.befell[fault.kind] += 1
        for link in self._links_befallen(fault):
            self._link_factors[link].append(fault.factor)
            self._set_rate(link)
        self.after(fault.for_s, lambda: self._speed_up(fault))

    def _speed_up(self, fault: Fault) -> None:
        for link in self._links_befallen(fault):
            self._link_factors[link].remove(fault.factor)
            self._set_rate(link)

    def _set_rate(self, link: Link) -> None:
        self.twin.network.scale(link, prod(self._link_factors[link]))

    # --- messages ---

    def _disturb(self, fault: Fault) -> None:
        self.befell[fault.kind] += 1
        self._disturbances += 1
        for direction in self._both_ways(fault):
            if fault.kind == "loss":
                self._losses[direction].append(fault.factor)
            else:
                self._odd[fault.kind][direction] += 1
        self.after(fault.for_s, lambda: self._calm(fault))

    def _calm(self, fault: Fault) -> None:
        self._disturbances -= 1
        for direction in self._both_ways(fault):
            if fault.kind == "loss":
                self._losses[direction].remove(fault.factor)
            else:
                self._odd[fault.kind][direction] -= 1

    def _passage(self, src: int, dst: int, small: bool) -> Sequence[float]:
        """See `sim.fabric.Passage`."""
        if not self._disturbances:
            return ON_TIME
        direction = (src, dst)
        if small and self._is_lost(direction):
            return ()
        if self._odd["late"][direction]:
            return (self._late_s,)
        return (0.0, DUPLICATE_S) if self._odd["duplicate"][direction] else ON_TIME

    def _is_lost(self, direction: Link) -> bool:
        shares = self._losses.get(direction, ())
        return self._cuts[direction] > 0 or any(self.draws.uniform() < one for one in shares)

    # --- connections ---

    def _silence(self, link: Link) -> None:
        """One more reason why nothing is acknowledged there."""
        self._silences[link] += 1
        if self._silences[link] == 1:
            self.twin.network.pause(*link)
            self.twin.network.pause(*_reversed(link))
            self._silence_numbers[link] += 1
            number = self._silence_numbers[link]
            self.after(self.twin.timings[0].detect_s, lambda: self._detect(link, number))

    def _break_silence(self, link: Link) -> None:
        self._silences[link] -= 1
        if self._silences[link] == 0:
            self.twin.network.resume(*link)
            self.twin.network.resume(*_reversed(link))

    def _detect(self, link: Link, number: int) -> None:
        if self._silences[link] and self._silence_numbers[link] == number:
            self.drop(link)

    def drop(self, link: Link) -> None:
        """The connections over this link, one for each end that pulls, are lost."""
        workers, pause_s = self.twin.workers, self.twin.timings[0].reconnect_s
        for puller, server in self._directions(link):
            if not self.twin.fabric.is_down(puller, server):
                self.downs[puller, server].append(self._clock.now)
            self.twin.fabric.disconnect(workers[puller], workers[server])
            self.retry((puller, server), pause_s)

    def retry(self, direction: Link, pause_s: float) -> None:
        """Connect after that long, or a longer pause later."""
        if direction in self._retries:
            self._retries[direction].cancel()
        due_s = self._clock.now + pause_s
        self._retries[direction] = self._clock.at(due_s, lambda: self._connect(direction, pause_s))

    def _connect(self, direction: Link, pause_s: float) -> None:
        puller, server = (self.twin.workers[index] for index in direction)
        if not puller.alive:
            return
        if server.alive and not self._silences[_sorted(direction)]:
            self.twin.fabric.connect(puller, server)
            self.ups[direction].append(self._clock.now)
        else:
            longer_s = 2 * pause_s or self.twin.timings[0].reconnect_s
            self.retry(direction, min(LONGEST_PAUSE_S, longer_s))

    # --- helpers ---

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call so much later."""
        self._clock.at(self._clock.now + seconds, call)

    def links_of(self, worker: int) -> list[Link]:
        """Those of a worker, lower id first."""
        return [link for link in self._links if worker in link]

    def _directions(self, link: Link) -> list[Link]:
        """Those in which somebody pulls: from puller to server."""
        peers_of = self.twin.config.peers_of
        return [(a, b) for a, b in (link, _reversed(link)) if b in peers_of(a)]

    def _links_befallen(self, fault: Fault) -> list[Link]:
        if fault.worker is not None:
            return self.links_of(fault.worker)
        if fault.link is not None:
            return [_sorted(fault.link)]
        group_of = {one: number for number, group in enumerate(fault.groups) for one in group}
        return [(a, b) for a, b in self._links if group_of.get(a) != group_of.get(b)]

    def _both_ways(self, fault: Fault) -> list[Link]:
        links = self._links_befallen(fault)
        return [*links, *map(_reversed, links)]


def _sorted(link: Link) -> Link:
    return min(link), max(link)


def _reversed(link: Link) -> Link:
    return link[1], link[0]


_BEGIN: dict[str, Callable[[Faults, Fault], None]] = {
    "crash": Faults._crash,
    "restart": Faults._crash,
    "freeze": Faults._freeze,
    "slow-worker": Faults._slow_down,
    "cut": Faults._cut,
    "cut-one-way": Faults._cut,
    "slow-link": Faults._slow_links,
    "flapping": Faults._flap,
    "partition": Faults._cut,
    "loss": Faults._disturb,
    "duplicate": Faults._disturb,
    "late": Faults._disturb,
    "swizzle": Faults._swizzle,
    "join": join,
    "leave": leave,
    "disk": fail_disk,
    "torn": tear,
    "clock": jump_clock,
}
