"""Which servers a cluster has, as its file says: where ssh reaches each, and who works there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mpls.config import ClusterConfig
from mpls.config.tables import WorkerTable
from mpls.errors import BadInput, shown

_TARGET = re.compile(
    r"(?:(?P<user>[A-Za-z_][\w.-]{0,63})@)?"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[A-Za-z0-9_][\w.-]*))"
    r"(?::(?P<port>\d{1,5}))?"
)


@dataclass(frozen=True)
class Server:
    """One machine. `user` and `port` are None where ssh's configuration is to say them."""

    host: str
    user: str | None
    port: int | None
    workers: tuple[WorkerTable, ...]

    @property
    def name(self) -> str:
        """As reports name it."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def who(self) -> str:
        """Its workers."""
        return " ".join(worker.name for worker in self.workers)


def servers(config: ClusterConfig) -> list[Server]:
    """Each once, in the order of their first workers; who has left is nowhere. Raises BadInput for
    a worker that has no server, and for what ssh would not understand."""
    users: dict[tuple[str, int | None], str | None] = {}
    workers: dict[tuple[str, int | None], list[WorkerTable]] = {}
    for worker in config.present:
        user, host, port = _target(worker)
        if users.setdefault((host, port), user) != user:
            raise BadInput(
                f"[[workers]] id {worker.id}: ssh = {shown(worker.ssh)}: {host} has another user in"
                f" {workers[host, port][0].name}'s table; one is enough"
            )
        workers.setdefault((host, port), []).append(worker)
    found = [
        Server(host, users[host, port], port, tuple(its)) for (host, port), its in workers.items()
    ]
    if not found:
        raise BadInput("[[workers]]: there is none to deploy")
    return found


def _target(worker: WorkerTable) -> tuple[str | None, str, int | None]:
    where = f"[[workers]] id {worker.id}: ssh"
    if not worker.ssh:
        raise BadInput(f'{where} is not given; say where it runs: ssh = "user@host"')
    match = _TARGET.fullmatch(worker.ssh)
    if match is None:
        raise BadInput(f"{where} = {shown(worker.ssh)}: must be host, user@host or user@host:port")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise BadInput(f"{where} = {shown(worker.ssh)}: a port is from 1 to 65535")
    return match["user"], match["v6"] or match["host"], port
