"""Whoever deploys in a rehearsal: sits on the operator's host, has a wheelhouse, a cluster file and
keys, and calls `mpls deploy` as anybody does."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpls import __version__
from mpls.config import builtin, changed, dumps
from mpls.deploy import layout, wheelhouse
from mpls.deploy.wheelhouse import Wheelhouse
from tests.rehearsal import tree
from tests.rehearsal.machine import OVERLAY, PRIVATE_MOUNTS
from tests.rehearsal.servers import Servers

ROOT = Path(__file__).parents[2]
PYTHON = "3.11"
"""Of the base tree, which the wheels are for."""
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "mpls", "sim")
BAD = "raise SystemExit('a bad release: this worker dies at its start')\n"
SEARCH = (
    "grep -rhoF -D skip -f /dev/shm/pattern --exclude=pattern --exclude-dir=proc --exclude-dir=sys"
)
TEST_INDEX = os.environ.get("MPLS_TORCH_INDEX", "")
"""Where torch comes from, besides the default index."""


class Operator:
    """Of these servers; `folder` is for the cluster file and whatever comes back."""

    def __init__(self, servers: Servers, folder: Path, tables: Mapping[str, Any]) -> None:
        self.servers = servers
        self.folder = folder
        self.cluster = folder / "cluster.toml"
        self.write_cluster(tables)
        self.mpls("keys", self.cluster)

    def write_cluster(self, tables: Mapping[str, Any]) -> None:
        """A worker on each server, and these tables."""
        workers = [
            {
                "id": number,
                "address": f"{self.servers.address(name)}:50051",
                "ssh": f"admin@{self.servers.address(name)}",
            }
            for number, name in enumerate(self.servers.names)
        ]
        config = changed(builtin(), {"workers": workers, "network": {"emulate": ""}, **tables})
        self.cluster.write_text(dumps(config))

    def deploy(self, wheels: Path | None, *flags: str) -> subprocess.CompletedProcess[str]:
        """`mpls deploy CLUSTER`."""
        return subprocess.run(self.deploying(wheels, *flags), **_CAPTURED)

    def interfere(
        self, wheels: Path, line: str, do: Callable[[subprocess.Popen[str]], object]
    ) -> tuple[int, str]:
        """Deploy, and do something to it when it first says this line; exit code, and all that it
        said."""
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        said, done = [], False
        with subprocess.Popen(self.deploying(wheels), text=True, cwd=ROOT, **streams) as process:
            for each in process.stdout or ():
                said.append(each)
                if line in each and not done:
                    done = True
                    do(process)
        return process.returncode, "".join(said)

    def deploying(self, wheels: Path | None, *flags: str) -> list[str]:
        """The command line of it."""
        house = ("--wheelhouse", str(wheels)) if wheels else ()
        return self._inside("deploy", str(self.cluster), *self._ssh, *house, *flags)

    def verb(self, verb: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """`mpls deploy VERB CLUSTER`."""
        return subprocess.run(
            self._inside("deploy", verb, str(self.cluster), *self._ssh, *flags), **_CAPTURED
        )

    def mpls(self, *arguments: str | Path) -> str:
        """Any other command; what it prints. CalledProcessError if it fails."""
        return subprocess.run(self._inside(*map(str, arguments)), check=True, **_CAPTURED).stdout

    def secrets_on(self, name: str) -> set[int]:
        """The ids of the workers whose secret is in any file of this server. What systemd hands to
        a unit lies in a memory of its own, which is looked into by the name of the unit."""
        folder = self.cluster.with_suffix(".keys")
        secrets = [
            (folder / f"w{n}.secret").read_text().strip() for n in range(len(self.servers.names))
        ]
        pattern = self.folder / "pattern"
        pattern.write_text("".join(f"{secret}\n" for secret in secrets))
        self.servers.copy_to(name, pattern, "/dev/shm/pattern")
        pattern.unlink()
        said = self.servers.run(name, f"{SEARCH} / 2>/dev/null; rm /dev/shm/pattern", check=False)
        return {number for number, secret in enumerate(secrets) if secret in said}

    def show(self, name: str, key: str) -> str:
        """A property of the worker's unit on this server."""
        unit = layout.unit(self.servers.names.index(name))
        return self.servers.run(name, f"systemctl show {unit} --value -p {key}").strip()

    @property
    def _ssh(self) -> tuple[str, str]:
        return "--ssh-config", str(self.servers.ssh_config)

    def _inside(self, *arguments: str) -> list[str]:
        return self.servers.inside(sys.executable, "-m", "mpls", *arguments)


_CAPTURED: dict[str, Any] = {
    "capture_output": True,
    "text": True,
    "stdin": subprocess.DEVNULL,
    "cwd": ROOT,
}


def build(folder: Path, source: Path = ROOT) -> Wheelhouse:
    """By `mpls deploy build`. TreeError with what it says if it fails."""
    command = [sys.executable, "-m", "mpls", "deploy", "build", "--python", PYTHON]
    where = ["--wheelhouse", str(folder), "--source", str(source), "--torch-index", TEST_INDEX]
    done = subprocess.run([*command, *where], **_CAPTURED)
    if done.returncode != 0:
        raise tree.TreeError(f"mpls deploy build: {done.stderr}")
    return wheelhouse.read(folder)


def kept_wheelhouse() -> Wheelhouse:
    """This checkout's, in a folder that is kept from one rehearsal to the next."""
    constraints = (ROOT / "constraints.txt").read_bytes()
    folder = tree.CACHE / f"deploy-{hashlib.sha256(constraints).hexdigest()[:12]}"
    with tree.locked(folder):
        return build(folder)


def another(of: Wheelhouse, folder: Path, version: str, bad: bool = False) -> Wheelhouse:
    """With the same libraries, and our own wheel of another version; a bad one has workers that die
    at their start."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    init = source / "mpls" / "__init__.py"
    init.write_text(init.read_text().replace(f'"{__version__}"', f'"{version}"'))
    if bad:
        worker = source / "mpls" / "cli" / "worker.py"
        worker.write_text(worker.read_text() + BAD)
    wheels = folder / "wheels"
    wheels.mkdir()
    for wheel in of.others:
        os.link(of.path(wheel), wheels / wheel.file)
    return build(wheels, source)


def libraries_layer(of: Wheelhouse) -> Path:
    """A tree with what the first deployment of these wheels would bring, our own one left out, to
    lie over the base tree; made now, if it is not there."""
    from mpls.deploy.stage import libraries, place

    base = tree.base()
    folder = tree.CACHE / f"libraries-{of.libraries}-{base.name}"
    with tree.locked(folder):
        if not folder.exists():
            copies = "; ".join(
                f"install -D -m 644 /wheelhouse/{it.file} {place(it)}" for it in of.others
            )
            _run_in_tree(base, folder, of.folder, f"set -e; {copies}; {libraries(of)}")
    return folder


def _run_in_tree(base: Path, folder: Path, wheels: Path, line: str) -> None:
    """What it wrote is the layer."""
    work = folder.with_suffix(".unfinished")
    shutil.rmtree(work, ignore_errors=True)
    for part in ("upper", "work", "root"):
        (work / part).mkdir(parents=True)
    flags = "-q --register=no --keep-unit --console=pipe --private-network --resolv-conf=off"
    inside = f'systemd-nspawn {flags} -D "$PLACE/root" --bind-ro="$WHEELS:/wheelhouse" sh -c "$DO"'
    given = {"LOWER": str(base), "PLACE": str(work), "WHEELS": str(wheels), "DO": line}
    done = subprocess.run(
        [*PRIVATE_MOUNTS, OVERLAY + inside],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise tree.TreeError(f"no libraries could be installed: {done.stderr.strip()[-500:]}")
    (work / "upper" / "wheelhouse").rmdir()
    (work / "upper").rename(folder)
    shutil.rmtree(work)
