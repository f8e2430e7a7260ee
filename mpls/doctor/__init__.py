"""Everything that can be known of a cluster from one of its machines before it starts.

Nothing is changed here or there: what is bound is closed again, and nobody is greeted in the name
of a worker that runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mpls import preflight
from mpls.config import ClusterConfig, load
from mpls.config.tables import WorkerTable
from mpls.core import protocol
from mpls.doctor import cluster, links, machine, places
from mpls.doctor.findings import FAIL, WARN, Finding, count, fail, warn
from mpls.doctor.parallel import all_within
from mpls.runtime.keys import Keychain, KeyFiles

__all__ = ["Doctor", "Finding"]

logging.getLogger("mpls").addHandler(logging.NullHandler())  # findings say it instead
"""Else Python itself would print what connections log."""


@dataclass
class Doctor:
    """Of one cluster file on this machine. `worker_id` says which worker is to run here; else
    whoever has an address of this machine. `say` is told what is done next, when that may take
    seconds. Raises BadInput for a file or an id that cannot be used."""

    file: Path
    worker_id: int | None = None
    say: Callable[[str], None] = lambda what: None
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config: ClusterConfig = load(self.file)
        if self.worker_id is not None:
            self.config.worker(self.worker_id)
        self._keys: dict[int, Keychain] = {}
        self._running: set[int] = set()
        self._learned: cluster.Learned | None = None

    def examine(self) -> list[Finding]:
        """All of it, in the order in which one thing needs the other."""
        parts: list[Callable[[], Iterable[Finding]]] = [
            lambda: machine.versions(self.config),
            lambda: cluster.settings(self.config),
            self._addresses,
            self._known_keys,
            self._ports,
            self._data_and_model,
            self._room,
            self._links,
            self._rounds,
        ]
        for part in parts:
            self.findings += part()
        return self.findings

    def as_plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "cluster": str(self.file),
            "name": self.config.cluster.name,
            "workers": [worker.name for worker in self._here],
            "failures": count(self.findings, FAIL),
            "warnings": count(self.findings, WARN),
            "findings": [finding.as_plain() for finding in self.findings],
        }

    # --- who and where ---

    @cached_property
    def _places(self) -> dict[int, places.Place]:
        self.say("looking up addresses")
        return places.look_up(self.config)

    @cached_property
    def _here(self) -> list[WorkerTable]:
        """The workers that are to run on this machine."""
        if self.worker_id is not None:
            return [self.config.worker(self.worker_id)]
        found = self._places
        return [w for w in self.config.workers if found[w.id].is_here and not found[w.id].trouble]

    def _is_here(self, worker: WorkerTable) -> bool:
        return self._places[worker.id].is_here and not self._places[worker.id].trouble

    def _addresses(self) -> Iterator[Finding]:
        yield from places.names(self.config, self._places)
        if not self._here:
            yield warn("this machine", "no worker of this cluster lives here", "--id N says which")
        for worker in self._here:
            found = places.lives_here(worker, self._places[worker.id])
            if found:
                yield found

    def _known_keys(self) -> Iterator[Finding]:
        ids = [worker.id for worker in self._here]
        yield from cluster.certificates(self.config, ids)
        if not preflight.wants_keys(self.config):
            return
        files = KeyFiles(self.file)
        everybodys = cluster.public_keys(self.config, files)
        yield everybodys
        if everybodys.level == FAIL:
            return
        for worker in self._here:
            chain, found = cluster.secret_key(self.config, files, worker.name)
            if chain is not None:
                self._keys[worker.id] = chain
            yield found
        yield from cluster.foreign_secrets(self.config, files, [w.name for w in self._here])

    # --- ports ---

    def _ports(self) -> Iterator[Finding]:
        for worker in filter(self._is_here, self._here):
            yield from self._port(worker)

    def _port(self, worker: WorkerTable) -> Iterator[Finding]:
        what = f"port of {worker.name}"
        if worker.port == 0:
            remedy = "workers in other processes cannot find it: name one, or use `mpls run`"
            yield warn(what, "0, any free one", remedy)
            return
        trouble = places.port(worker)
        if trouble and self._is_ours(worker):
            self._running.add(worker.id)
            yield places.running(worker, places.health(self.config, worker))
        elif trouble and self.config.transport_of(worker.id) != "zmq":
            yield warn(what, trouble, f"if that is not {worker.name} itself, end who has it")
        elif trouble:
            remedy = f"end who has it (ss -ltnp 'sport = :{worker.port}'), or choose another"
            yield fail(what, trouble, remedy)
        else:
            yield Finding("ok", what, f"{worker.address} is free")
        if worker.id not in self._running:
            yield from places.side_ports(self.config, worker)

    def _is_ours(self, worker: WorkerTable) -> bool:
        """Whether who listens there is a worker: its health says so, or it answers a ping."""
        if places.health(self.config, worker) is not None:
            return True
        keys = self._keys.get(worker.id)
        if self.config.transport_of(worker.id) != "zmq":
            return False
        if preflight.wants_keys(self.config) and keys is None:
            return False
        with closing(links.Caller(worker, keys)) as caller:
            return not caller.connect() and links.ping(caller) is not None

    # --- what is learned, and what that needs ---

    def _data_and_model(self) -> Iterator[Finding]:
        self.say("loading the data and building the model")
        self._learned, found = cluster.learned(self.config)
        yield from found

    def _room(self) -> Iterator[Finding]:
        config, learned, workers = self.config, self._learned, max(1, len(self._here))
        peers = max(len(config.peers_of(worker.id)) for worker in config.workers)
        if learned is not None:
            yield machine.memory(workers, learned.model_bytes, learned.data_bytes, peers)
            yield machine.disk(config, workers, learned.model_bytes, len(learned.layers))
        yield machine.open_files(peers)
        yield machine.clock(self.file)

    def _rounds(self) -> Iterator[Finding]:
        if self._learned is not None:
            ids = [worker.id for worker in self._here or self.config.workers]
            measured = self._measured()
            yield from cluster.rounds(self.config, self._learned, ids, measured)

    # --- links ---

    def _links(self) -> list[Finding]:
        pairs = {pair.what: pair for pair in self._pairs()}
        if pairs:
            self.say(f"trying {len(pairs)} links")
        probing = links.Probing()
        jobs = {what: lambda p=pair: links.talk(p, probing) for what, pair in pairs.items()}
        found = all_within(jobs, links.TALK_S)
        return [_told(what, result) for what, result in found.items()]

    def _pairs(self) -> Iterator[links.Pair]:
        """From everybody here to each peer; if nobody is, to everybody as far as that goes."""
        speakers = [worker for worker in self._here if self._is_here(worker)]
        for me in speakers:
            for peer in map(self.config.worker, self.config.peers_of(me.id)):
                if self._can_be_tried(peer):
                    hello, why = self._hello(me)
                    keys = self._keys.get(me.id)
                    yield links.Pair(self.config, self.file, me, peer, keys, hello, why)
        if not speakers:
            why = "no worker that lives here could"
            for peer in filter(self._can_be_tried, self.config.workers):
                if peer.id != self.worker_id:
                    yield links.Pair(self.config, self.file, None, peer, why=why)

    def _can_be_tried(self, worker: WorkerTable) -> bool:
        place = self._places[worker.id]
        return worker.port != 0 and place.ip != "" and not place.trouble

    def _hello(self, me: WorkerTable) -> tuple[protocol.Hello | None, str]:
        """What this worker would say, or why it is not said."""
        if me.id in self._running:
            return None, f"{me.name} itself runs"
        if self._learned is None:
            return None, "without data and model there is nothing to say"
        learned = self._learned
        histogram, samples = learned.histograms[me.id], learned.samples[me.id]
        return protocol.Hello(0, me.name, learned.model, histogram, samples), ""

    def _measured(self) -> dict[tuple[int, int], float]:
        """Bytes per second by (worker, peer)."""
        ids = {worker.name: worker.id for worker in self.config.workers}
        rates: dict[tuple[int, int], float] = {}
        for finding in self.findings:
            if "rate_Bps" in finding.numbers:
                me, _, peer = finding.what.partition(" -> ")
                rates[ids[me], ids[peer]] = finding.numbers["rate_Bps"]
        return rates


def _told(what: str, result: Finding | BaseException) -> Finding:
    if isinstance(result, TimeoutError):
        return fail(what, str(result), "look at that machine and the way to it")
    if isinstance(result, BaseException):
        raise result
    return result
