"""What a server has when somebody deployed: a venv with the dependencies, made once, as a layer for
`Servers`; and this checkout's own wheel, which is installed over ssh in a moment."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mpls.config import ClusterConfig, dumps
from mpls.config.files import tomllib
from mpls.deploy import layout
from mpls.deploy.unit import drop_in, unit_files
from mpls.runtime.keys import KeyFiles
from tests.rehearsal import tree
from tests.rehearsal.machine import OVERLAY, PRIVATE_MOUNTS
from tests.rehearsal.servers import Servers

ROOT = Path(__file__).parents[2]
VERSION = "rehearsal"
PYTHON = "3.11"
"""Of the base tree, which the wheels are for."""
INSTALL = (
    f"python3 -m venv {layout.release(VERSION)}/venv && {layout.release(VERSION)}/venv/bin/pip "
    "install -q --no-index --find-links /wheelhouse -r /wheelhouse/requirements.txt "
    f"&& ln -s {layout.release(VERSION)} {layout.CURRENT}"
)


def wheelhouse() -> Path:
    """A folder with the wheels of all that we need, at the versions that we are tested with; made
    now, if it is not there. Its requirements.txt names them."""
    wanted = _requirements()
    folder = tree.CACHE / f"wheelhouse-{_digest(wanted, _constraints())}"
    with tree.locked(folder):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            (unfinished / "requirements.txt").write_text(wanted)
            _pip("download", "-r", unfinished / "requirements.txt", "-d", unfinished)
            unfinished.rename(folder)
    return folder


def layer() -> Path:
    """A tree with the venv in it, to lie over the base tree; made now, if it is not there."""
    wheels, base = wheelhouse(), tree.base()
    folder = tree.CACHE / f"release-{_digest(wheels.name, base.name, INSTALL)}"
    with tree.locked(folder):
        if not folder.exists():
            _install(wheels, base, folder)
    return folder


def wheel(folder: Path) -> Path:
    """Ours, of this checkout, built into this folder."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (found,) = folder.glob("mpls_dfl-*.whl")
    return found


def _requirements() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return "".join(f"{line}\n" for line in project["dependencies"])


def _constraints() -> str:
    return (ROOT / "constraints.txt").read_text()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    only = ["-q", "--only-binary=:all:", f"--python-version={PYTHON}"]
    done = subprocess.run(
        [*command, *only, "-c", str(ROOT / "constraints.txt")], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise tree.TreeError(f"pip {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")


def _install(wheels: Path, base: Path, folder: Path) -> None:
    """Run pip in the tree; what it wrote is the layer."""
    place = folder.with_suffix(".unfinished")
    shutil.rmtree(place, ignore_errors=True)
    for part in ("upper", "work", "root"):
        (place / part).mkdir(parents=True)
    flags = "-q --register=no --keep-unit --console=pipe --private-network --resolv-conf=off"
    inside = f'systemd-nspawn {flags} -D "$PLACE/root" --bind-ro="$WHEELS:/wheelhouse" sh -c "$DO"'
    given = {"LOWER": str(base), "PLACE": str(place), "WHEELS": str(wheels), "DO": INSTALL}
    done = subprocess.run(
        [*PRIVATE_MOUNTS, OVERLAY + inside],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise tree.TreeError(f"no release could be installed: {done.stderr.strip()[-500:]}")
    (place / "upper" / "wheelhouse").rmdir()
    (place / "upper").rename(folder)
    shutil.rmtree(place)


def install(servers: Servers, config: ClusterConfig, folder: Path) -> None:
    """All that a server needs before its unit is started, of server i for worker i. `servers` have
    our `layer`, and are off; `folder` is for the files of the cluster."""
    cluster = folder / "cluster.toml"
    cluster.write_text(dumps(config))
    keys = KeyFiles(cluster)
    keys.make([worker.name for worker in config.workers])
    ours = wheel(folder)
    for name, worker in zip(servers.names, config.workers):
        machine = servers.machines[name]
        machine.write(str(layout.CLUSTER), cluster.read_text())
        machine.write(str(layout.PUBLIC_KEYS), keys.public.read_text())
        machine.write(str(layout.secret(worker.id)), keys.secret(worker.name).read_text(), 0o600)
        machine.write(str(layout.drop_in(worker.id)), drop_in(config, worker.id))
        for unit, text in unit_files().items():
            machine.write(str(layout.UNITS / unit), text)
    servers.start(*servers.names)
    pip = f"{layout.CURRENT}/venv/bin/pip install -q --no-index --no-deps /root/{ours.name}"
    for name in servers.names:
        servers.copy_to(name, ours, "/root/")
        servers.run(name, pip)
