"""This machine: what is installed on it, and whether it has room for the workers."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import zmq

from mpls import __version__
from mpls.config import ClusterConfig
from mpls.doctor.findings import Finding, fail, ok, warn
from mpls.preflight import wants_keys
from mpls.runtime.process import OPEN_FILES
from mpls.units import format_bytes

PYTHONS = ((3, 10), (3, 13))
LIBZMQ = (4, 3, 5)
BASE_BYTES = 400_000_000
"""A worker of the smallest model, with Python and torch in it."""
COPIES = 8
"""Of the model: weights, gradient, snapshots under way, what is pulled, and a checkpoint."""
TRACE_BYTES = 1_000
"""A round's lines in the trace for each peer and layer; measured 700 with two of each."""
FILES_LEAST = 64
FILES_EACH = 8
"""Open files of a worker without peers, and for each more."""
ASK_S = 3.0
DAY_S = 86_400.0


def versions(config: ClusterConfig) -> Iterator[Finding]:
    """Of everything whose age matters. Imports no torch."""
    found = sys.version_info[:2]
    level = ok if PYTHONS[0] <= found <= PYTHONS[1] else None
    python = platform.python_version()
    yield level("Python", python) if level else fail("Python", python, "use 3.10 to 3.13")
    yield ok("mpls", __version__)
    for package in ("torch", "pyzmq"):
        yield _installed(package)
    libzmq = zmq.zmq_version()
    if zmq.zmq_version_info() < LIBZMQ:
        yield fail("libzmq", libzmq, "4.3.5 or newer; pip install -U pyzmq brings one")
    elif wants_keys(config) and not zmq.has("curve"):
        yield fail("libzmq", f"{libzmq} without CURVE", "pip install -U pyzmq brings one with it")
    else:
        yield ok("libzmq", libzmq)


def _installed(package: str) -> Finding:
    try:
        return ok(package, metadata.version(package))
    except metadata.PackageNotFoundError:
        return fail(package, "not installed", f"pip install {package}")


def memory(workers: int, model_bytes: int, data_bytes: int, peers: int) -> Finding:
    """Of all workers that run here. An estimate: activations are not in it."""
    each = BASE_BYTES + (COPIES + peers) * model_bytes + data_bytes
    need, total, free = workers * each, _total_bytes(), _free_bytes()
    value = f"about {format_bytes(need)} for {workers} here, {format_bytes(free)} free"
    numbers = {"need_bytes": need, "free_bytes": free, "total_bytes": total}
    if need > total:
        return fail("memory", value, "a smaller model, or a larger machine", **numbers)
    if need > free:
        return warn("memory", value, "end other programs", **numbers)
    return ok("memory", value, **numbers)


def _total_bytes() -> int:
    return min(_meminfo_bytes("MemTotal"), _cgroup_bytes())


def _free_bytes() -> int:
    return min(_meminfo_bytes("MemAvailable"), _cgroup_bytes())


def _meminfo_bytes(key: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return sys.maxsize


def _cgroup_bytes() -> int:
    """What a container or a unit may use."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return int(text) if text.isdigit() else sys.maxsize


def disk(config: ClusterConfig, workers: int, model_bytes: int, layers: int) -> Finding:
    """Room for the checkpoints, one more while it is written, the last weights and the traces."""
    copies = 2 if config.training.momentum else 1
    peers = max(len(config.peers_of(worker.id)) for worker in config.workers)
    trace = config.training.rounds * layers * max(1, peers) * TRACE_BYTES
    need = workers * ((config.checkpoint.keep + 1) * copies * model_bytes + model_bytes + trace)
    what, out = "[cluster] out", Path(config.cluster.out)
    there = _nearest(out)
    free = shutil.disk_usage(there).free
    value = f"{out}: about {format_bytes(need)} of {format_bytes(free)} free"
    numbers = {"need_bytes": need, "free_bytes": free}
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return fail(what, f"{out}: this user cannot write in {there}", "--out names another")
    if need > free:
        return fail(what, value, "make room, or --out on another disk", **numbers)
    return ok(what, value, **numbers)


def _nearest(path: Path) -> Path:
    """Itself, or what of its parents is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def open_files(peers: int) -> Finding:
    """What the system would let a worker raise its limit to."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    least = FILES_LEAST + FILES_EACH * peers
    value = "no limit" if most == sys.maxsize else f"up to {most}"
    if most < least:
        return fail("open files", value, f"at least {least}: ulimit -Hn, or LimitNOFILE=")
    if most < OPEN_FILES:
        remedy = f"{OPEN_FILES} bear crowds of strangers: ulimit -Hn, or LimitNOFILE="
        return warn("open files", value, remedy)
    return ok("open files", value)


def clock(cluster_file: Path) -> Finding:
    """Workers need no common time, but whoever compares their logs does."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < cluster_file.stat().st_mtime - DAY_S:
        return warn("clock", f"{now}, before the cluster file was written", "set the clock")
    synced = _synchronised()
    if synced == "no":
        return warn("clock", f"{now}, not synchronised", "timedatectl set-ntp true")
    return ok("clock", f"{now}, {'synchronised' if synced else 'nobody here knows if right'}")


def _synchronised() -> str:
    """yes, no, or nothing where systemd does not run."""
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
