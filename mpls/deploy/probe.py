"""Looks at a server, there: sent to its Python by ssh, with nothing of ours installed. Reads one
JSON object from the command line and prints one.

Nothing is changed; a port is bound for a moment only, to see whether it is free.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time

UNIT = "mpls-worker@%s.service"


def main() -> None:
    asked = json.loads(sys.argv[1])
    found = {
        "now": time.time(),
        "python": platform.python_version(),
        "venv": has_venv(),
        "machine": platform.machine(),
        "systemd": systemd(),
        "free_bytes": {path: free_bytes(path) for path in asked["paths"]},
        "ports": {key: port(key, *address) for key, address in asked["ports"].items()},
        "current": link(asked["current"]),
        "releases": complete(asked["releases"]),
        "wheels": names(asked["wheels"] + "/*/*.whl"),
        "history": lines(asked["history"]),
        "kept": os.path.exists(asked["kept"]),
        "applied": {
            path.split("/")[-1]: "".join(lines(path)) for path in glob.glob(asked["applied"] + "/*")
        },
        "units": units(asked["drop_ins"], asked["secrets"]),
        "clock_synchronised": synchronised(),
    }
    print(json.dumps(found))


def has_venv() -> bool:
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return False
    return True


def output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def systemd() -> int:
    """Its version; 0 where it does not run."""
    match = re.match(r"systemd (\d+)", output("systemctl", "--version"))
    return int(match[1]) if match and os.path.isdir("/run/systemd/system") else 0


def synchronised() -> bool:
    return output("timedatectl", "show", "-p", "NTPSynchronized", "--value").strip() == "yes"


def free_bytes(path: str) -> int:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def link(path: str) -> str:
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def names(pattern: str) -> list[str]:
    """The last two parts of each path."""
    return sorted("/".join(path.split("/")[-2:]) for path in glob.glob(pattern))


def complete(folder: str) -> list[str]:
    """The releases that were installed to the end, the oldest first."""
    marks = glob.glob(folder + "/*/release.json")
    return [path.split("/")[-2] for path in sorted(marks, key=os.path.getmtime)]


def lines(path: str) -> list[str]:
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return file.read().split()


def units(drop_ins: str, secrets: str) -> dict[str, dict[str, str]]:
    """Of each worker that has anything here: how its unit is."""
    ids = {re.search(r"@(\d+)\.service\.d", path) for path in glob.glob(drop_ins)}
    ids |= {re.search(r"/(\d+)\.secret$", path) for path in glob.glob(secrets + "/*.secret")}
    return {match[1]: show(match[1]) for match in sorted(filter(None, ids), key=str)}


def show(worker: str) -> dict[str, str]:
    wanted = "ActiveState,SubState,MainPID,NRestarts,Result,UnitFileState,ExecMainStatus"
    text = output("systemctl", "show", "-p", wanted, UNIT % worker)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def port(worker: str, host: str, number: int) -> str:
    """`free`, `ours`, or what is wrong."""
    try:
        found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
            one.listen(1)
        return "free"
    except OSError as error:
        if error.errno == 98:
            return "ours" if listens(show(worker).get("MainPID", "0"), number) else "taken"
        return (error.strerror or str(error)).lower()


def listens(pid: str, number: int) -> bool:
    """Whether this process has a socket that listens on this port."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in lines_of(table)[1:]:
            part = line.split()
            if part[3] == "0A" and int(part[1].rsplit(":", 1)[1], 16) == number:
                inodes.add(f"socket:[{part[9]}]")
    return any(target(path) in inodes for path in glob.glob(f"/proc/{pid}/fd/*"))


def target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def lines_of(path: str) -> list[str]:
    with open(path) as file:
        return file.readlines()


if __name__ == "__main__":
    main()
