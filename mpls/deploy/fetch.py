"""Bringing a run from its servers into one folder, as `mpls run` leaves it: what `mpls status` and
`python -m sim compare` read."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mpls.config.tables import WorkerTable
from mpls.deploy import layout
from mpls.deploy.session import Remote
from mpls.errors import BadInput, RunFailed

CLUSTER_FILE = "cluster.toml"


def fetch(remote: Remote, folder: Path, with_state: bool) -> list[str]:
    """Everything of this server's workers; returns the names of the traces. The latest life of w0
    is w0.trace.jsonl, lives before it are w0.trace.1.jsonl and so on, the first one first; logs and
    summaries in the same way. Raises RunFailed for a worker that has no run."""
    traces: list[str] = []
    for worker in remote.server.workers:
        runs = _lives(remote, worker)
        for number, run in enumerate(runs, 1):
            life = "" if number == len(runs) else f".{number}"
            traces += _fetch_life(remote, worker, run, life, folder, with_state)
        _journal(remote, worker, folder)
        if with_state:
            _unpack(remote, layout.state(worker.id), "state", folder / f"{worker.name}.state")
    return traces


def new_folder(path: Path) -> Path:
    """Made, or there and empty; BadInput if there is something in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise BadInput(f"{path}: is not empty; -o is a folder of its own for each run")
    except OSError as error:
        raise BadInput(f"{path}: {(error.strerror or str(error)).lower()}") from None
    return path


def _lives(remote: Remote, worker: WorkerTable) -> list[str]:
    python = layout.CURRENT / "venv" / "bin" / "python"
    command = f"{python} -m mpls.deploy.lives {layout.state(worker.id)} {worker.name}"
    found = json.loads(remote.checked(f"runs of {worker.name}", command))
    if not found:
        raise RunFailed(f"{remote.server.name}: {worker.name} has no run yet")
    return [str(run) for run in found]


def _fetch_life(
    remote: Remote, worker: WorkerTable, run: str, life: str, folder: Path, with_weights: bool
) -> Iterable[str]:
    place = folder / f".{worker.name}{life}"
    _unpack(remote, layout.state(worker.id) / "runs", run, place)
    for path in sorted(place.iterdir()):
        name = _named(worker, path.name, life)
        if name == CLUSTER_FILE and (folder / name).exists():
            continue
        if path.suffix == ".safetensors" and not with_weights:
            continue
        path.replace(folder / name)
        if name.endswith(".jsonl"):
            yield name
    shutil.rmtree(place)


def _named(worker: WorkerTable, name: str, life: str) -> str:
    """w0.trace.jsonl -> w0.trace.1.jsonl, summary.json -> w0.summary.json."""
    if name in (CLUSTER_FILE, "calibration.json"):
        return name
    name = name if name.startswith(f"{worker.name}.") else f"{worker.name}.{name}"
    stem, _, suffix = name.rpartition(".")
    return f"{stem}{life}.{suffix}"


def _journal(remote: Remote, worker: WorkerTable, folder: Path) -> None:
    """What systemd and the worker said."""
    ran = remote.run(f"journalctl -q --no-pager -o short-iso -u {layout.unit(worker.id)}")
    (folder / f"{worker.name}.journal.log").write_text(ran.out + "\n", encoding="utf-8")


def _unpack(remote: Remote, parent: PurePosixPath, name: str, folder: Path) -> None:
    """The files of a folder there; what is no file of its own is left where it is."""
    folder.mkdir(exist_ok=True)
    command = f"tar -cz -C {parent}/ {name} 2>/dev/null"
    with remote.stream(command) as stream, tarfile.open(fileobj=stream, mode="r|gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                with (folder / PurePosixPath(member.name).name).open("wb") as target:
                    shutil.copyfileobj(content, target)
