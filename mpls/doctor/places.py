"""Where workers are: names, addresses and ports, and who has them."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from mpls.config import ClusterConfig
from mpls.config.tables import WorkerTable
from mpls.doctor.findings import Finding, fail, ok, warn
from mpls.doctor.parallel import all_within
from mpls.errors import BadInput
from mpls.runtime.endpoint import HOST
from mpls.runtime.sockets import listener_at

LOOK_UP_S = 5.0
HEALTH_S = 3.0


@dataclass(frozen=True)
class Place:
    """What a worker's host comes to from here."""

    ip: str = ""
    """Empty if it comes to nothing."""
    is_here: bool = False
    trouble: str = ""


def look_up(config: ClusterConfig) -> dict[int, Place]:
    """Each worker's, by id."""
    jobs = {worker.id: lambda w=worker: _ip(w) for worker in config.workers}
    found = all_within(jobs, LOOK_UP_S)
    return {worker_id: _place(result) for worker_id, result in found.items()}


def _ip(worker: WorkerTable) -> str:
    """As a worker binds and connects: IPv6 only where it is written so."""
    family = socket.AF_INET6 if worker.host.startswith("[") else socket.AF_INET
    host = worker.host.strip("[]")
    return str(socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)[0][4][0])


def _place(found: str | BaseException) -> Place:
    if isinstance(found, str):
        return Place(found, _is_here(found), _broadcast(found))
    if not isinstance(found, (OSError, UnicodeError)):
        raise found
    return Place(trouble=f"no address: {getattr(found, 'strerror', None) or found}")


def _is_here(ip: str) -> bool:
    """Only what a card of this machine has can be bound."""
    with socket.socket(_family(ip), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
    return True


def _broadcast(ip: str) -> str:
    """What the kernel, which knows the masks, has against it. Nothing is sent."""
    with socket.socket(_family(ip), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, 9))
        except PermissionError:
            return "the broadcast address of a network of this machine"
        except OSError:
            return ""  # no way there: whoever tries to reach it will say so
    return ""


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def names(config: ClusterConfig, places: dict[int, Place]) -> Iterator[Finding]:
    """One line for each worker's host."""
    for worker in config.workers:
        place, what = places[worker.id], f"address of {worker.name}"
        if not place.ip:
            remedy = "correct it, or give the name an address (DNS, /etc/hosts)"
            yield fail(what, f"{worker.host}: {place.trouble}", remedy)
        elif place.trouble:
            yield fail(what, f"{place.ip}: {place.trouble}", "write the host's own address")
        elif place.ip.startswith("127.") and not worker.is_loopback:
            value = f"{worker.host} is {place.ip} here: no other machine can reach that"
            yield warn(what, value, "take the line out of /etc/hosts, or write the address")
        else:
            here = ", this machine" if place.is_here else ""
            yield ok(what, f"{place.ip}{here}", ip=place.ip)


def lives_here(worker: WorkerTable, place: Place) -> Finding | None:
    """For a worker that is to run here: what speaks against it."""
    if place.is_here or not place.ip or place.trouble:
        return None
    value = f"no card of this machine has {place.ip}"
    remedy = "run it on its own machine, or correct its address (an address that a router "
    remedy += "translates is none of the machine's)"
    return fail(f"address of {worker.name}", value, remedy)


def port(worker: WorkerTable) -> str:
    """Why a worker could not listen; empty if it could."""
    try:
        listener_at(worker.name, worker.host, worker.port).close()
    except BadInput as error:
        return str(error).partition("; ")[0]
    return ""


def side_ports(config: ClusterConfig, worker: WorkerTable) -> Iterator[Finding]:
    """Those for health and gRPC, of a worker that does not run yet."""
    wanted = {"health port": (HOST, config.metrics.port and config.metrics.port + worker.id)}
    wanted["gRPC port"] = (worker.host, worker.grpc_port)
    for kind, (host, number) in wanted.items():
        what = f"{kind} of {worker.name}"
        if number > 65535:
            yield fail(what, f"{number}: the last one is 65535", "choose a lower [metrics] port")
        elif number:
            try:
                listener_at(worker.name, host, number).close()
            except BadInput as error:
                yield fail(what, str(error).partition("; ")[0], "choose another, or end who has it")
            else:
                yield ok(what, f"{host}:{number} is free")


def health(config: ClusterConfig, worker: WorkerTable) -> dict[str, Any] | None:
    """What the worker, if it runs on this machine and serves its health, says of itself."""
    if not config.metrics.port:
        return None
    try:
        url = f"http://{HOST}:{config.metrics.port + worker.id}/health"
        with urlopen(url, timeout=HEALTH_S) as answer:
            body = answer.read()
    except HTTPError as error:  # 503 has a report, too
        body = error.read()
    except (OSError, HTTPException, ValueError):
        return None
    try:
        report = json.loads(body)
    except ValueError:
        return None
    ours = isinstance(report, dict) and report.get("worker") == worker.name
    return report if ours else None


def running(worker: WorkerTable, report: dict[str, Any] | None) -> Finding:
    """Of a worker that listens already."""
    what = f"port of {worker.name}"
    if report is None:
        return ok(what, f"{worker.address}: a worker of this cluster runs there already")
    at = f"{worker.address}: {worker.name} runs there, round {report['round']}"
    numbers = {"health": report}
    if report["troubles"]:
        return warn(what, f"{at}; {'; '.join(report['troubles'])}", "see its log", **numbers)
    peers: Sequence[str] = [name for name, how in report["peers"].items() if how == "ready"]
    return ok(what, f"{at}, ready: {', '.join(peers) or 'no peer'}", **numbers)
