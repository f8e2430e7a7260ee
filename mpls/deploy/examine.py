"""What must hold on a server before anything is changed on any."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mpls.deploy import layout
from mpls.deploy.inventory import Server
from mpls.deploy.wheelhouse import Wheelhouse

OK, WARN, FAIL = "ok", "warn", "FAIL"
OLDEST_SYSTEMD = 247
"""LoadCredential is younger than the systemd of Debian 10; Debian 11 has 247."""
CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 60.0
UNPACKED = 5
"""Times its wheels that a release takes at most, with the wheels themselves."""
STATE_BYTES = 200_000_000
PATHS = ("/opt", "/var/lib")


@dataclass(frozen=True)
class Finding:
    """One line of a server's examination. `remedy` is empty where nothing needs one."""

    level: str
    what: str
    value: str
    remedy: str = ""


def question(server: Server) -> str:
    """The probe's command line for this server: to be run with the probe on stdin."""
    asked = {
        "paths": PATHS,
        "ports": {str(it.id): [it.host.strip("[]"), it.port] for it in server.workers},
        "current": str(layout.CURRENT),
        "releases": str(layout.RELEASES),
        "wheels": str(layout.WHEELS),
        "history": str(layout.HISTORY),
        "applied": str(layout.APPLIED),
        "kept": str(layout.KEPT),
        "drop_ins": f"{layout.UNITS}/mpls-worker@*.service.d",
        "secrets": str(layout.SECRETS),
    }
    return shlex.quote(json.dumps(asked))


def probe() -> str:
    """The program that is sent there."""
    return resources.files("mpls.deploy").joinpath("probe.py").read_text(encoding="utf-8")


def judge(
    server: Server, found: dict[str, Any], wheels: Wheelhouse | None, offset_s: float
) -> Iterator[Finding]:
    """What the probe found there, for these wheels; without any, nothing is to be installed.
    `offset_s` is how far its clock is ahead of ours."""
    if wheels:
        yield from _python(found, wheels)
        yield _room(found, wheels)
    yield _systemd(found)
    yield _clock(found, offset_s)
    for worker in server.workers:
        yield _port(worker.name, worker.address, found["ports"][str(worker.id)])
    yield _installed(found)


def _python(found: dict[str, Any], wheels: Wheelhouse) -> Iterator[Finding]:
    python = ".".join(found["python"].split(".")[:2])
    if python != wheels.python:
        rebuild = f"`mpls deploy build --python {python}`"
        yield Finding(FAIL, "Python", f"{python}; the wheels are for {wheels.python}", rebuild)
    elif not found["venv"]:
        package = f"apt-get install python{python}-venv"
        yield Finding(FAIL, "Python", f"{found['python']} without venv", package)
    else:
        yield Finding(OK, "Python", found["python"])
    if found["machine"] != wheels.machine:
        value = f"{found['machine']}; the wheels are for {wheels.machine}"
        yield Finding(FAIL, "machine", value, "build the wheelhouse on such a machine")


def _room(found: dict[str, Any], wheels: Wheelhouse) -> Finding:
    free = {path: found["free_bytes"][path] for path in PATHS}
    value = ", ".join(f"{path} {number / 1e9:.1f} GB" for path, number in free.items())
    there = wheels.release in found["releases"]
    needed = 0 if there else wheels.total_bytes * (UNPACKED + 1)
    if free["/opt"] < needed or free["/var/lib"] < STATE_BYTES:
        what = f"needs {needed / 1e9:.1f} GB in /opt, {STATE_BYTES / 1e9:.1f} GB in /var/lib"
        return Finding(FAIL, "disk", value, what)
    return Finding(OK, "disk", value)


def _systemd(found: dict[str, Any]) -> Finding:
    if found["systemd"] >= OLDEST_SYSTEMD:
        return Finding(OK, "systemd", str(found["systemd"]))
    value = str(found["systemd"]) if found["systemd"] else "does not run"
    return Finding(FAIL, "systemd", value, f"the unit needs {OLDEST_SYSTEMD}, as Debian 11 has it")


def _clock(found: dict[str, Any], offset_s: float) -> Finding:
    value = f"{offset_s:+.1f} s against this machine"
    if abs(offset_s) > CLOCK_FAIL_S:
        return Finding(FAIL, "clock", value, "set it: apt-get install systemd-timesyncd")
    if abs(offset_s) > CLOCK_WARN_S:
        return Finding(WARN, "clock", value, "logs of several servers will be hard to read")
    return Finding(OK, "clock", value)


def _port(name: str, address: str, state: str) -> Finding:
    what = f"port of {name}"
    if state == "free":
        return Finding(OK, what, f"{address} is free")
    if state == "ours":
        return Finding(OK, what, f"{address} is {name}'s own")
    if state == "taken":
        return Finding(
            FAIL, what, f"{address}: another program listens", f"ss -ltnp says who: {address}"
        )
    return Finding(FAIL, what, f"{address}: {state}", "is that an address of this server?")


def _installed(found: dict[str, Any]) -> Finding:
    if not found["current"]:
        return Finding(OK, "installed", "nothing yet")
    states = " ".join(
        f"{worker}:{unit.get('ActiveState', '?')}" for worker, unit in found["units"].items()
    )
    return Finding(OK, "installed", f"{found['current']}, {states or 'no worker'}")


def offset_s(before_s: float, there_s: float, after_s: float) -> float:
    """How far a clock is ahead that was read at some time between two readings of ours."""
    if before_s <= there_s <= after_s:
        return 0.0
    return there_s - (before_s if there_s < before_s else after_s)


def now_s() -> float:
    """The wall clock."""
    return time.time()
