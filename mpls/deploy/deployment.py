"""A whole deployment: examine all servers, stage on all of them, switch one after the other.

Nothing is changed anywhere before every server was found fit, and nothing that runs is touched
before everything lies ready on every server. A server that cannot be switched goes back to what it
had, and ends the deployment; the same command goes on from there.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mpls.deploy import examine, switch, talks
from mpls.deploy.examine import FAIL, Finding
from mpls.deploy.inventory import Server
from mpls.deploy.material import Material
from mpls.deploy.report import Report
from mpls.deploy.session import Remote, Session, Stopped
from mpls.deploy.stage import stage
from mpls.deploy.wheelhouse import Wheelhouse
from mpls.errors import INTERRUPTED, Refused, RunFailed

STEPS = ("examined", "staged", "switched", "talks")
BACK_STEPS = ("examined", "switched", "talks")
UNTOUCHED = "nothing that runs was touched, "


def deploy(
    material: Material,
    wheels: Wheelhouse,
    ssh_config: Path | None,
    dry_run: bool = False,
    fresh: bool = False,
) -> int:
    """Returns the exit code. `fresh` workers begin anew. Raises Refused where a server is not fit,
    and RunFailed."""
    report = Report(material.servers, STEPS)
    with _session(material.servers, ssh_config, report, dry_run) as session:
        try:
            _examine(session, report, wheels)
            report.head(f"staging {wheels.release} on {len(session.remotes)} servers")
            _at_once(
                session, report, "staged", lambda remote: stage(remote, wheels, material), UNTOUCHED
            )
            _switch_all(session, report, material, wheels.release, fresh)
            if not dry_run:
                keep = {
                    remote.found["current"] for remote in session.remotes if remote.found["current"]
                }
                session.each(lambda remote: switch.prune(remote, keep | {wheels.release}))
        except Stopped:
            report.head("stopped; the same command goes on")
            return INTERRUPTED
        finally:
            report.table()
        _say_what_changed(session, report)
    return 0


def roll_back(material: Material, ssh_config: Path | None, dry_run: bool) -> int:
    """Every server to the release before the present one. The cluster file stays as it is there."""
    report = Report(material.servers, BACK_STEPS)
    with _session(material.servers, ssh_config, report, dry_run) as session:
        try:
            _examine(session, report, None)
            target = target_of({r.server.name: r.found for r in session.remotes})
            report.head(f"going back to {target}, one server after the other")

            def point(remote: Remote) -> None:
                if remote.found["current"] != target:
                    with remote.unstoppable():
                        switch.point_back(remote, target)

            _one_by_one(session, report, material, point)
        except Stopped:
            report.head("stopped; the same command goes on")
            return INTERRUPTED
        finally:
            report.table()
        _say_what_changed(session, report)
    return 0


@contextmanager
def _session(
    servers: Sequence[Server], ssh_config: Path | None, report: Report, dry_run: bool
) -> Iterator[Session]:
    """Ctrl-C lets each server end what it is at, and begins nothing new; another kills."""
    session = Session(servers, ssh_config, report.say, dry_run)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        session.stopping.set()
        report.head("stopping when each server is through with what it does; Ctrl-C again kills")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield session
    finally:
        signal.signal(signal.SIGINT, before)
        session.close()


def _examine(session: Session, report: Report, wheels: Wheelhouse | None) -> None:
    """Raises Refused, after a table of all that was found, if any server is not fit."""
    report.head(f"examining {len(session.remotes)} servers")
    found = session.each(lambda remote: list(look(remote, wheels)))
    findings: dict[Server, list[Finding]] = {}
    for remote, result in found.items():
        if isinstance(result, Stopped):
            raise result
        lost = isinstance(result, RunFailed)
        its = [Finding(FAIL, "reachable", str(result))] if isinstance(result, RunFailed) else result
        findings[remote.server] = its
        bad = [one for one in its if one.level == FAIL]
        report.note(remote.server, "examined", f"{FAIL}: {bad[0].what}" if bad or lost else "ok")
    report.findings(findings)
    unfit = [server.name for server, its in findings.items() if any(i.level == FAIL for i in its)]
    if unfit:
        raise Refused(f"not fit: {', '.join(unfit)}; nothing was changed on any server")


def look(remote: Remote, wheels: Wheelhouse | None) -> Iterator[Finding]:
    """One server; keeps what the probe says."""
    trouble = remote.connect()
    if trouble:
        yield Finding(FAIL, "reachable", trouble, "try: ssh, with the same configuration")
        return
    if not remote.is_root and not remote.run_plain("sudo -n true").ok:
        value = f"{remote.user} may not sudo without a password"
        yield Finding(FAIL, "root", value, "let it, in /etc/sudoers.d, or log in as root")
        return
    python = f"python{wheels.python}" if wheels else "python3"
    before_s = examine.now_s()
    ran = remote.run(f"{python} - {examine.question(remote.server)}", examine.probe())
    if not ran.ok:
        there = remote.run("ls /usr/bin/python3.* /usr/local/bin/python3.* 2>/dev/null").out.split()
        value = f"{python}: {ran.why}; there is {' '.join(there) or 'none'}"
        yield Finding(FAIL, "Python", value, "apt-get install python3-venv, or other wheels")
        return
    remote.found = _parsed(ran.out)
    there_s = remote.found["now"]
    remote.found["offset_s"] = examine.offset_s(before_s, there_s, examine.now_s())
    yield Finding(examine.OK, "reachable", f"as {remote.user}")
    yield from examine.judge(remote.server, remote.found, wheels, remote.found["offset_s"])


def _parsed(text: str) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(text)
    return found


def _at_once(
    session: Session, report: Report, step: str, do: Callable[[Remote], None], then: str
) -> None:
    """On all servers; RunFailed, when all are through, if it failed on any."""
    results = session.each(do)
    for remote, result in results.items():
        report.note(remote.server, step, _cell(remote, result))
        if isinstance(result, RunFailed):
            report.say(remote.server, f"failed: {result}")
    failures = [result for result in results.values() if isinstance(result, RunFailed)]
    if failures:
        others = "" if len(failures) == 1 else f" (and {len(failures) - 1} more)"
        raise RunFailed(f"{failures[0]}{others}; {then}the same command goes on")
    if any(isinstance(result, Stopped) for result in results.values()):
        raise Stopped


def _cell(remote: Remote, result: object) -> str:
    if isinstance(result, RunFailed):
        return "lost" if "lost" in str(result) else "failed"
    if isinstance(result, Stopped):
        return "stopped"
    number = len(remote.changes)
    would = "would change" if remote.session.dry_run else "changed"
    remote.found["changes"] = remote.found.get("changes", 0) + number
    remote.changes.clear()
    return f"{number} {would}" if number else "no change"


def _switch_all(
    session: Session, report: Report, material: Material, release: str, fresh: bool
) -> None:
    """Where nothing runs, workers begin together: the first one would train alone for long."""

    def do(remote: Remote) -> None:
        with remote.unstoppable():
            switch.switch(remote, release, material, fresh)

    if any(_runs(remote) for remote in session.remotes):
        report.head(f"switching to {release}, one server after the other")
        _one_by_one(session, report, material, do)
        return
    report.head(f"nothing runs yet: switching all servers to {release}")
    _at_once(session, report, "switched", do, "")
    if not session.dry_run:
        _demand_talk(session, report, material, session.remotes)
        for remote in session.remotes:
            report.note(remote.server, "talks", "yes")


def _runs(remote: Remote) -> bool:
    """Whether any worker does, or is about to."""
    idle = ("inactive", "failed")
    return any(unit.get("ActiveState") not in idle for unit in remote.found["units"].values())


def _one_by_one(
    session: Session, report: Report, material: Material, do: Callable[[Remote], None]
) -> None:
    """A server that fails is the last one. Those that are through talk to each other before the
    next one is begun with."""
    through: list[Remote] = []
    for remote in session.remotes:
        if session.stopping.is_set():
            raise Stopped
        result = session.each(do, [remote])[remote]
        report.note(remote.server, "switched", _cell(remote, result))
        if isinstance(result, RunFailed):
            raise RunFailed(f"{result}; {_left_to_do(session, through, remote)}")
        if isinstance(result, Stopped):
            raise result
        through.append(remote)
        if not session.dry_run:
            _demand_talk(session, report, material, through)


def _demand_talk(
    session: Session, report: Report, material: Material, through: list[Remote]
) -> None:
    latest = through[-1]
    report.say(latest.server, f"whether {len(through)} servers' workers talk")
    results = session.each(
        lambda remote: talks.silent_pairs(material.config, through, talks.TALK_S), [latest]
    )
    silent = results[latest]
    if isinstance(silent, (RunFailed, Stopped)):
        raise silent
    if silent:
        report.note(latest.server, "talks", f"failed: {', '.join(silent)}")
        logs = f"mpls deploy logs {material.file}"
        raise RunFailed(
            f"{latest.server.name}: no hello within {talks.TALK_S} s: "
            f"{', '.join(silent)}; `{logs}` says why, --rollback goes back"
        )
    report.note(latest.server, "talks", "yes" if len(through) > 1 else "alone")


def _left_to_do(session: Session, through: list[Remote], failed: Remote) -> str:
    done = ", ".join(remote.server.name for remote in through) or "none"
    left = [r.server.name for r in session.remotes if r not in through and r is not failed]
    return (
        f"switched before: {done}; not begun: {', '.join(left) or 'none'}; the same command goes on"
    )


def target_of(found: dict[str, dict[str, Any]]) -> str:
    """The release that all servers are to go back to, of what the probe found on each. Where some
    run a newer one than others, as after a deployment or a way back that was cut off, it is what
    the others run. Raises Refused where there is no such release on every server."""
    for release in dict.fromkeys(_candidates(found)):
        if all(release in its["releases"] and release in its["history"] for its in found.values()):
            return release
    runs = "; ".join(f"{name} runs {its['current'] or 'none'}" for name, its in found.items())
    raise Refused(f"there is no release before this one on every server: {runs}")


def _candidates(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Releases that some server had before the one that it runs, the latest first."""
    currents = {its["current"] for its in found.values()}
    for its in found.values():
        older = list(dict.fromkeys(reversed(its["history"])))
        if its["current"] in older:
            older = older[older.index(its["current"]) + 1 :]
        yield from (it for it in older if it in currents or len(currents) == 1)


def _say_what_changed(session: Session, report: Report) -> None:
    number = sum(remote.found.get("changes", 0) for remote in session.remotes)
    if session.dry_run:
        report.head(f"{number} changes would be made; nothing was changed")
    else:
        report.head(f"{number} changes" if number else "nothing to change: all is as it should be")
