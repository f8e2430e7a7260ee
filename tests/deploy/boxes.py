"""`make rehearse-boxes`: what the containers would run, on a machine without an engine.

    python -m tests.deploy.boxes [--tree FOLDER]

Builds a Debian tree with debootstrap in place of the base image and runs the Dockerfile's RUN
lines in it; it is kept in FOLDER (runs/box-tree), and used again. Then the services of
compose.yaml, and the pods of kubernetes.yaml, run in it: each in its own network, mount and process
namespaces, with its name in /etc/hosts, the tree read-only, the image's uid, no capabilities and no
new privileges, its volumes and its own secret. Of each federation one worker is told to end and
started again; all must end with 0. What only an engine does, it cannot show: images, DNS, orders.
Needs root, debootstrap, and a way to the package registries for the first time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpls.config import load
from mpls.runtime.keys import KeyFiles
from tests.deploy import manifests
from tests.live.fleet import until
from tests.live.netns import Network, missing

UID = 10001
START_S = 90.0
ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
HOSTS = ("w0", "w1", "w2")


def run(*command: object) -> str:
    """Its output; its own words if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


# --- the image ---


def build(tree: Path) -> None:
    """The Dockerfile's stages, one upon the other, in one tree."""
    if (tree / ".built").exists():
        return
    print(f"building {tree}: some minutes", flush=True)
    packages = "python3,python3-venv,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--include={packages}", SUITE, tree)
    (tree / "usr/bin/python").symlink_to("python3")
    for path in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(path, tree / path[1:])
    pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    links = pip.get("PIP_FIND_LINKS", "")
    mounts = f"mount --bind /proc {tree}/proc && mount --bind /dev {tree}/dev"
    if links.startswith("/"):
        (tree / links[1:]).mkdir(parents=True, exist_ok=True)
        mounts += f" && mount --bind {links} {tree}{links}"
    words = {"WORKDIR": "/"}
    for word, rest in manifests.dockerfile():
        if word == "WORKDIR":
            words[word] = rest
            (tree / rest[1:]).mkdir(parents=True, exist_ok=True)
        elif word == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                run("cp", "-r", ROOT / source, tree / words["WORKDIR"][1:] / target)
        elif word == "RUN":
            inside = f"cd {words['WORKDIR']} && TORCH_INDEX= && {rest}"
            run("unshare", "-m", "sh", "-ec", f'{mounts}; chroot {tree} sh -ec "$0"', inside)
    shutil.rmtree(tree / "src")
    (tree / ".built").touch()


def environment() -> dict[str, str]:
    """What the image sets."""
    (pairs,) = [rest for word, rest in manifests.dockerfile() if word == "ENV"]
    found = dict(pair.split("=", 1) for pair in pairs.split())
    return {
        **found,
        "PATH": found["PATH"].replace("$PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": "/",
    }


# --- containers ---


@dataclass
class Box:
    """A container: its host on the network, what is mounted where, and what runs in it."""

    tree: Path
    network: Network
    host: str
    folder: Path
    names: Mapping[str, str]
    mounts: dict[str, tuple[Path, bool]]
    """Place in the box -> what is there, and whether it can be written to."""
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    lives: int = 0

    def start(self) -> None:
        self.lives += 1
        hosts = self.folder / f"{self.host}.hosts"
        lines = ["127.0.0.1 localhost", *(f"{ip} {name}" for name, ip in self.names.items())]
        hosts.write_text("\n".join(lines) + "\n")
        self.log = self.folder / f"{self.host}-{self.lives}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.around(self.command, {**self.mounts, "/etc/hosts": (hosts, False)}),
                stdout=log,
                stderr=log,
                env={**environment(), **self.env},
            )

    def around(self, command: list[str], mounts: Mapping[str, tuple[Path, bool]]) -> list[str]:
        """The command within everything that a container is made of."""
        lines = [f"mount --bind {self.tree} {self.tree}", "cd /"]
        for place, (source, _) in mounts.items():
            inside = self.tree / place[1:]
            make = "mkdir -p" if source.is_dir() else "touch"
            lines += [f"mkdir -p {inside.parent}", f"{make} {inside}"]
        lines += [f"mount -t proc proc {self.tree}/proc", f"mount --bind /dev {self.tree}/dev"]
        for place, (source, writable) in mounts.items():
            inside = self.tree / place[1:]
            lines.append(f"mount --bind {source} {inside}")
            lines += [] if writable else [f"mount -o remount,bind,ro {inside}"]
        lines += [
            f"mount -t tmpfs -o mode=1777,size=64m tmpfs {self.tree}/tmp",
            f"mount -o remount,bind,ro {self.tree}",
            f"exec chroot {self.tree} setpriv --reuid {UID} --regid {UID} --clear-groups"
            ' --no-new-privs --inh-caps=-all --bounding-set=-all "$@"',
        ]
        script = " && ".join(lines)
        box = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script, "box"]
        return self.network.inside(self.host, *box, *command)

    def asked(self, command: list[str]) -> int:
        """The exit code of a probe, which sees the box's network."""
        inside = [*self.network.inside(self.host), "chroot", f"--userspec={UID}:{UID}", self.tree]
        env = {**environment(), **self.env}
        return subprocess.run(
            [*map(str, inside), *command], capture_output=True, env=env
        ).returncode

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the first process of the box, as an engine does; it must end in time."""
        pids = run("pgrep", "-P", self.process.pid).split()
        run("kill", "-TERM", *pids)
        began_s = time.monotonic()
        code = self.process.wait(grace_s)
        print(f"  {self.host}: SIGTERM, exit {code} after {time.monotonic() - began_s:.1f} s")
        if code:
            sys.exit(self.log.read_text())


def lives_through(
    boxes: list[Box], probes: Callable[[Box], list[list[str]]], grace_s: float
) -> None:
    """Start, be healthy, lose one, take it back, end."""
    for box in boxes:
        box.start()
    for box in boxes:
        for probe in probes(box):
            until(lambda it=(box, probe): well(*it), f"{box.host} is healthy", START_S)
    print("  all healthy", flush=True)
    boxes[1].stop(grace_s)
    boxes[1].start()
    for box in boxes:
        if (code := box.process.wait(300)) != 0:
            sys.exit(f"{box.host} ended with {code}:\n{box.log.read_text()}")
    print("  all ended with 0: all rounds done", flush=True)


def well(box: Box, probe: list[str]) -> bool:
    """What the probe says of a box that must not have ended."""
    if box.process.poll() is not None:
        sys.exit(f"{box.host} ended with {box.process.returncode}:\n{box.log.read_text()}")
    return box.asked(probe) == 0


def own(path: Path) -> Path:
    """Given to the image's uid."""
    os.chown(path, UID, UID)
    return path


def state_of(folder: Path, host: str) -> Path:
    """An empty volume."""
    (folder / f"{host}.volume").mkdir()
    return own(folder / f"{host}.volume")


def told(box: Box) -> str:
    """How often a layer of a peer was applied, according to its traces."""
    volume = box.mounts["/var/lib/mpls"][0]
    traces = [p for p in volume.glob("*/*.trace.jsonl") if not p.parent.is_symlink()]
    pulls = re.compile(r'"kind":\s?"pull".*"applied"')
    applied = sum(len(pulls.findall(trace.read_text())) for trace in traces)
    return f"  {box.host}: {len(traces)} lives, {applied} layers of peers applied"


# --- the two federations ---


def by_compose(tree: Path, network: Network, folder: Path) -> None:
    """The services of compose.yaml."""
    content = manifests.compose()
    given = folder / "deploy"
    shutil.copytree(manifests.DEPLOY, given, ignore=shutil.ignore_patterns("*.keys*"))
    config = load(given / "compose.toml")
    KeyFiles(given / "compose.toml").make([worker.name for worker in config.workers])
    names = {host: network.address(host) for host in HOSTS}
    boxes = []
    for host, service in content["services"].items():
        mounts: dict[str, tuple[Path, bool]] = {}
        for volume in service["volumes"]:
            source, place, *how = volume.split(":")
            at = given / source if source.startswith(".") else state_of(folder, source)
            mounts[place] = (at, how != ["ro"])
        for secret in service["secrets"]:
            source = given / content["secrets"][secret["source"]]["file"]
            mounts[secret["target"]] = (own(source), False)
        command = ["mpls", *service["command"]]
        boxes.append(Box(tree, network, host, folder, names, mounts, command))
    probes = {host: s["healthcheck"]["test"][1:] for host, s in content["services"].items()}
    grace_s = float(content["services"]["w0"]["stop_grace_period"].removesuffix("s"))
    lives_through(boxes, lambda box: [probes[box.host]], grace_s)
    print(*map(told, boxes), sep="\n")


def by_kubernetes(tree: Path, network: Network, folder: Path) -> None:
    """The pods of kubernetes.yaml: the init container's command, then the worker's."""
    resources = manifests.kubernetes()
    spec = resources["StatefulSet"]["spec"]["template"]["spec"]
    (keys,), (worker,) = spec["initContainers"], spec["containers"]
    cluster = folder / "cluster.toml"
    cluster.write_text(resources["ConfigMap"]["data"]["cluster.toml"])
    workers = load(cluster).workers
    files = KeyFiles(cluster)
    files.make([worker.name for worker in workers])
    names = {w.host: network.address(host) for w, host in zip(workers, HOSTS)}
    boxes = []
    for pod, host in zip([w.name for w in workers], HOSTS):
        etc = folder / f"{host}.etc"
        etc.mkdir()
        given = {
            "/given/cluster.toml": (cluster, False),
            "/given/cluster.keys.toml": (files.public, False),
            "/given/own.secret": (own(files.secret(pod)), False),
            "/etc/mpls": (own(etc), True),
        }
        env = {"POD": pod}
        first = Box(tree, network, host, folder, names, given, keys["command"], env)
        first.start()
        if first.process.wait(START_S):
            sys.exit(first.log.read_text())
        mounts = {"/etc/mpls": (etc, False), "/var/lib/mpls": (state_of(folder, host), True)}
        boxes.append(Box(tree, network, host, folder, names, mounts, worker["command"], env, 1))
    grace_s = float(spec["terminationGracePeriodSeconds"])
    probes = [worker[f"{kind}Probe"]["exec"]["command"] for kind in ("startup", "liveness")]
    lives_through(boxes, lambda _: probes, grace_s)
    print(*map(told, boxes), sep="\n")


def main() -> int:
    """Both, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.boxes")
    parser.add_argument("--tree", type=Path, default=Path("runs/box-tree"))
    tree = parser.parse_args().tree.resolve()
    why = missing() or ("" if shutil.which("debootstrap") else "needs debootstrap")
    if why:
        print(f"not run: {why}")
        return 0
    build(tree)
    kinds: dict[str, Callable[..., Any]] = {"compose": by_compose, "kubernetes": by_kubernetes}
    for kind, rehearse in kinds.items():
        print(f"{kind}:", flush=True)
        with tempfile.TemporaryDirectory() as folder, Network(list(HOSTS)) as network:
            Path(folder).chmod(0o755)
            rehearse(tree, network, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
