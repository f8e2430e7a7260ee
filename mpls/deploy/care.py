"""What is done with workers that are deployed: how they are, their logs, starting, stopping, and
taking everything away again."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpls.deploy import layout, switch
from mpls.deploy.deployment import look
from mpls.deploy.examine import FAIL
from mpls.deploy.inventory import Server
from mpls.deploy.session import LOST, Remote, Session
from mpls.errors import RunFailed

SHOWN = ("ActiveState", "SubState", "NRestarts", "Result", "StatusText")
STOP_S = 90


def connected(
    servers: list[Server], ssh_config: Path | None, say: Callable[[Server, str], None]
) -> Session:
    """To all of them, as root. Raises RunFailed that names those that cannot be reached."""
    session = Session(servers, ssh_config, say)
    found = session.each(_reached)
    why = [str(result) for result in found.values() if isinstance(result, RunFailed)]
    if why:
        session.close()
        raise RunFailed("; ".join(why))
    return session


def reached(
    servers: list[Server], ssh_config: Path | None, say: Callable[[Server, str], None]
) -> tuple[Session, list[Remote], dict[str, str]]:
    """Those that can be, and why others cannot, by server."""
    session = Session(servers, ssh_config, say)
    found = session.each(_reached)
    lost = {r.server.name: str(it) for r, it in found.items() if isinstance(it, RunFailed)}
    return session, [r for r in session.remotes if r.server.name not in lost], lost


def _reached(remote: Remote) -> None:
    bad = [
        one for one in look(remote, None) if one.level == FAIL and one.what in ("reachable", "root")
    ]
    if bad:
        raise RunFailed(f"{remote.server.name}: {bad[0].value}")


def states(remote: Remote) -> list[dict[str, Any]]:
    """Of each worker there: its unit, and what it says of itself."""
    found = []
    for worker in remote.server.workers:
        unit = layout.unit(worker.id)
        ran = remote.run(f"systemctl show -p {','.join(SHOWN)} {unit}")
        shown = dict(line.split("=", 1) for line in ran.out.splitlines() if "=" in line)
        active = shown.get("ActiveState") == "active"
        found.append(
            {
                "worker": worker.name,
                "server": remote.server.name,
                "release": remote.found.get("current", ""),
                "state": _in_a_word(shown),
                "restarts": int(shown.get("NRestarts") or 0),
                "says": shown.get("StatusText", "") if active else "",
                "healthy": active or _is_done(remote, worker.id, shown),
            }
        )
    return found


def _is_done(remote: Remote, worker_id: int, shown: dict[str, str]) -> bool:
    """It ended well, and was there."""
    ended = shown.get("ActiveState") == "inactive" and shown.get("Result") == "success"
    return ended and str(worker_id) in remote.found.get("applied", {})


def _in_a_word(shown: dict[str, str]) -> str:
    state, result = shown.get("ActiveState", "unknown"), shown.get("Result", "")
    return f"{state} ({result})" if state == "failed" else state


def start(remote: Remote) -> None:
    """Those that do not run; RunFailed, with the journal's last lines, if one does not come up."""
    for worker in remote.server.workers:
        unit = layout.unit(worker.id)
        remote.checked(
            f"start {worker.name}", f"systemctl is-active -q {unit} || {switch.starting(unit)}"
        )


def stop(remote: Remote) -> None:
    """They drain and save themselves."""
    units = " ".join(layout.unit(worker.id) for worker in remote.server.workers)
    remote.checked("stop", f"timeout {STOP_S} systemctl stop {units}")


def restart(remote: Remote) -> None:
    """As `start`, but also those that run."""
    for worker in remote.server.workers:
        remote.checked(f"restart {worker.name}", switch.starting(layout.unit(worker.id)))


def uninstall(remote: Remote, purge: bool) -> None:
    """Everything but what workers have written; with `purge` that, too."""
    ids = sorted(
        map(int, {**remote.found["units"], **{str(w.id): 0 for w in remote.server.workers}})
    )
    lines = [f"systemctl disable --now {layout.TARGET}"]
    lines += [switch.removal(worker_id) for worker_id in ids]
    gone = [
        layout.UNITS / layout.TEMPLATE,
        layout.UNITS / layout.TARGET,
        layout.ROOT,
        layout.CONFIG,
    ]
    lines += [f"rm -rf {path}" for path in gone]
    if purge:
        # A unit with a dynamic user has its state in `private`; the other is a link to it.
        private = layout.STATE.parent / "private" / layout.STATE.name
        lines += [f"rm -rf {layout.STATE} {private}"]
    remote.run("; ".join([*lines, "systemctl daemon-reload"]))
    left = remote.run(f"ls -d {' '.join(map(str, gone))} 2>/dev/null").out.split()
    if left:
        raise RunFailed(f"{remote.server.name}: still there: {' '.join(left)}")


def logs(remotes: list[Remote], lines: int) -> list[str]:
    """The last lines of each worker's journal, in the order of time."""
    found = []
    for remote in remotes:
        for worker in remote.server.workers:
            ran = remote.run(f"journalctl -q --no-pager -n {lines} {_journal(worker.id)}")
            found += [_named(line, worker.name) for line in ran.out.splitlines()]
    return sorted(found, key=lambda line: line.split(" ", 1)[0])


def follow(remotes: list[Remote], lines: int) -> None:
    """Print what all journals say, as they say it, until Ctrl-C."""
    threads = [
        threading.Thread(target=_follow, args=(remote, worker.id, worker.name, lines), daemon=True)
        for remote in remotes
        for worker in remote.server.workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _follow(remote: Remote, worker_id: int, name: str, lines: int) -> None:
    # With a terminal the program over there ends with the connection.
    with remote.stream(f"journalctl -q -f -n {lines} {_journal(worker_id)}", pty=True) as said:
        try:
            for line in said:
                sys.stdout.write(f"{_named(line.rstrip(), name)}\n")
                sys.stdout.flush()
        except LOST as error:
            sys.stderr.write(f"{name}: {error}\n")


def _journal(worker_id: int) -> str:
    return f"-o short-iso -u {layout.unit(worker_id)}"


def _named(line: str, worker: str) -> str:
    """Time, worker, and what it said: without the host and the program's name."""
    at, _, *rest = line.split(" ", 3)
    said = rest[-1] if rest else ""
    return f"{at} {said}" if said.startswith(f"{worker} ") else f"{at} {worker} {said}"
