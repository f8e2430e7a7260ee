"""Where everything lies on a server: what the unit names, and what whoever deploys fills
(docs/decisions/016)."""

from __future__ import annotations

from pathlib import PurePosixPath

RELEASES = PurePosixPath("/opt/mpls/releases")
"""A folder for each version that was ever deployed and may be gone back to."""
CURRENT = PurePosixPath("/opt/mpls/current")
"""A link to the release that runs. It is swapped by a rename, so that there always is one."""
MPLS = CURRENT / "venv" / "bin" / "mpls"
"""The command, as the unit calls it."""

CONFIG = PurePosixPath("/etc/mpls")
"""For everybody to read, but for the secrets."""
CLUSTER = CONFIG / "cluster.toml"
PUBLIC_KEYS = CONFIG / "cluster.keys.toml"
SECRETS = CONFIG / "keys"
"""root's, mode 700; only systemd reads it, and hands a worker its own secret."""

STATE = PurePosixPath("/var/lib/mpls")
"""A folder for each worker, with its checkpoints in `state` and its runs in `runs`."""

UNITS = PurePosixPath("/etc/systemd/system")
TEMPLATE = "mpls-worker@.service"
TARGET = "mpls.target"
DROP_IN = "cluster.conf"


def release(version: str) -> PurePosixPath:
    """The folder of one version; its `venv` has the command."""
    return RELEASES / version


def unit(worker_id: int) -> str:
    """The name of a worker's unit."""
    return TEMPLATE.replace("@", f"@{worker_id}")


def drop_in(worker_id: int) -> PurePosixPath:
    """The file with what differs from worker to worker, of `mpls unit`."""
    return UNITS / f"{unit(worker_id)}.d" / DROP_IN


def secret(worker_id: int) -> PurePosixPath:
    """The secret key of one worker: a copy of CLUSTER.keys/NAME.secret, root's, mode 600."""
    return SECRETS / f"{worker_id}.secret"


def state(worker_id: int) -> PurePosixPath:
    """Of one worker."""
    return STATE / str(worker_id)


ROOT = PurePosixPath("/opt/mpls")
WHEELS = ROOT / "wheels"
"""Every wheel once, in a folder named after its digest; releases are installed from here."""
LIBRARIES = ROOT / "libraries"
"""A venv for each set of wheels that releases were made of, without our own; most releases share
theirs with the one before."""
INCOMING = ROOT / "incoming"
"""The ssh user's own, for uploads."""
STAGED = ROOT / "staged"
"""root's alone: cluster file, keys and units of a deployment before they are switched to."""
BEFORE = ROOT / "before"
"""root's alone: what a server had before it was switched, to go back to."""
KEPT = BEFORE / "files.tar"
APPLIED = ROOT / "applied"
"""For each worker the digest of all that it was last started with."""
HISTORY = ROOT / "history"
"""The releases that were switched to, the latest last."""
MARK = "release.json"
"""In a release's folder once it is complete: its wheels."""


def mark(version: str) -> PurePosixPath:
    """The file that makes a release complete."""
    return release(version) / MARK


def applied(worker_id: int) -> PurePosixPath:
    """See APPLIED."""
    return APPLIED / str(worker_id)
