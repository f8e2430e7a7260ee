"""The systemd units, and the drop-in with what differs from worker to worker."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from importlib import resources

from mpls import topology
from mpls.config import ClusterConfig
from mpls.config.fields import ip_of
from mpls.config.tables import WorkerTable
from mpls.deploy import layout
from mpls.errors import BadInput, shown

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def unit_files() -> dict[str, str]:
    """Name and text of each unit, the same on every server."""
    folder = resources.files("mpls.deploy")
    names = (layout.TEMPLATE, layout.TARGET)
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in names}


def drop_in(config: ClusterConfig, worker_id: int) -> str:
    """What this worker's unit needs besides the template: whom it may talk to, and what the cluster
    file says of threads, keys and devices. Raises BadInput for a peer whose name means nothing."""
    lines = [*_heading(config, worker_id), "[Service]", *_service(config, worker_id)]
    return "\n".join(lines) + "\n"


def partners(config: ClusterConfig, worker_id: int) -> list[WorkerTable]:
    """The workers that it pulls from, and those that pull from it."""
    return [config.workers[other] for other in topology.both_ways(config.peers)[worker_id]]


def _heading(config: ClusterConfig, worker_id: int) -> Iterator[str]:
    me = config.worker(worker_id)
    yield f"# Worker {worker_id} ({me.name}) of {config.cluster.name}, at {me.address}: written by"
    yield f"# `mpls unit`, for {layout.drop_in(worker_id)}"
    yield "[Unit]"
    yield f"Description=MPLS worker {worker_id} ({me.name}) of {config.cluster.name}"
    yield ""


def _service(config: ClusterConfig, worker_id: int) -> Iterator[str]:
    for partner in partners(config, worker_id):
        yield from _allowed(partner)
    threads = config.training.threads
    yield "Environment=" + " ".join(f"{name}={threads}" for name in THREAD_VARIABLES)
    if config.security() == "plaintext" or not config.speaks("zmq"):
        yield "# Its links are not encrypted with keys: there is no secret to hand to it."
        yield "LoadCredential="
    if config.training.device != "cpu":
        yield "# It trains on an NVIDIA card, whose driver maps memory that it writes code to."
        yield "PrivateDevices=no"
        yield "DeviceAllow=char-nvidia* rw"
        yield "MemoryDenyWriteExecute=no"


def _allowed(partner: WorkerTable) -> Iterator[str]:
    """Exactly its address; all that a name means here, since the kernel knows no names."""
    ip = ip_of(partner.host)
    if ip is not None:
        yield f"IPAddressAllow={_alone(ip)}"
        return
    yield f"# {partner.name} is {partner.host}; write this anew when that moves."
    yield from (f"IPAddressAllow={_alone(found)}" for found in _resolved(partner))


def _alone(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"{ip}/{ip.max_prefixlen}"


def _resolved(partner: WorkerTable) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        answers = socket.getaddrinfo(partner.host, partner.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter for a part of more than 63 characters
        why = getattr(error, "strerror", None) or str(error)
        where = f"[[workers]] id {partner.id}: address = {shown(partner.address)}"
        raise BadInput(
            f"{where}: {partner.host} cannot be resolved here ({why}); write its IP "
            "address, or add it to /etc/hosts"
        ) from None
    return sorted({ipaddress.ip_address(answer[4][0]) for answer in answers}, key=str)
