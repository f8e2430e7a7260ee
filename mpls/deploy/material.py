"""What a deployment brings to each server, read and checked before anybody is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpls.config import ClusterConfig, load
from mpls.config.tables import WorkerTable
from mpls.deploy import layout
from mpls.deploy.inventory import Server, servers
from mpls.deploy.unit import drop_in, unit_files
from mpls.errors import BadInput
from mpls.runtime.keys import KeyFiles


@dataclass(frozen=True)
class Material:
    """Of one cluster file."""

    file: Path
    config: ClusterConfig
    servers: list[Server]
    cluster: str
    public_keys: str
    """Empty where the links are not encrypted with keys."""
    secrets: dict[int, str]
    drop_ins: dict[int, str]
    units: dict[str, str]

    def stamp(self, server: Server, worker_id: int, release: str) -> str:
        """Of all that a worker is started with: it is started anew when this changes."""
        content = [release, self.secrets.get(worker_id, "")]
        content += [f"{path}\n{text}" for path, text in sorted(self.files(server).items())]
        return hashlib.sha256("\0".join(content).encode()).hexdigest()

    def is_new_to(self, server: Server, release: str, found: dict[str, Any]) -> bool:
        """Whether some worker there was last started with anything else."""
        return any(
            found["applied"].get(str(it.id)) != self.stamp(server, it.id, release)
            for it in server.workers
        )

    def files(self, server: Server) -> dict[str, str]:
        """Path on the server -> text, of all that is for everybody to read."""
        files = {str(layout.CLUSTER): self.cluster}
        if self.public_keys:
            files[str(layout.PUBLIC_KEYS)] = self.public_keys
        files |= {str(layout.UNITS / name): text for name, text in self.units.items()}
        return files | {str(layout.drop_in(it.id)): self.drop_ins[it.id] for it in server.workers}


def take(file: Path) -> Material:
    """Read the cluster file, its keys, and all that follows from them. Raises BadInput or Refused:
    a worker on this list without a key of its own is found here, not on its server."""
    config = load(file)
    found = servers(config)
    workers = [worker for server in found for worker in server.workers]
    for worker in workers:
        if worker.port == 0 or worker.is_loopback:
            raise BadInput(
                f"[[workers]] id {worker.id}: address = {worker.address}: peers on other servers "
                "cannot reach it; give the server's own address, and a port"
            )
    public, secrets = _keys(file, config, workers)
    return Material(
        file,
        config,
        found,
        file.read_text(encoding="utf-8"),
        public,
        secrets,
        {worker.id: drop_in(config, worker.id) for worker in workers},
        unit_files(),
    )


def _keys(
    file: Path, config: ClusterConfig, workers: list[WorkerTable]
) -> tuple[str, dict[int, str]]:
    if config.security() == "plaintext" or not config.speaks("zmq"):
        return "", {}
    keys = KeyFiles(file)
    ring = keys.ring([worker.name for worker in config.workers if not getattr(worker, "left", 0)])
    secrets = {worker.id: f"{keys.own_secret(worker.name, ring)}\n" for worker in workers}
    return keys.public.read_text(encoding="utf-8"), secrets
