"""Switching a server to a release and a cluster that are staged there, and back if that fails."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterable

from pyinfra.operations import files, systemd

from mpls.deploy import layout, operations
from mpls.deploy.material import Material
from mpls.deploy.session import Lost, Remote
from mpls.errors import RunFailed

READY_S = 240
"""systemd gives a worker 180 s to be ready; then it is told of by `systemctl start`."""
SETTLE_S = 3
JOURNAL_LINES = 15
KEEP = 3
"""Releases that stay on a server."""


class SwitchFailed(RunFailed):
    """A server could not be switched; says what became of it."""


def switch(remote: Remote, release: str, material: Material, fresh: bool = False) -> None:
    """To this release and this material. `fresh` workers begin anew, and what they had is set
    aside. Raises SwitchFailed when a worker does not come up; what ran there before runs again
    then."""
    backed_up = _back_up(remote, release, material)
    try:
        _write(remote, material)
        _leave(remote, {worker.id for worker in remote.server.workers})
        _point(remote, release)
        stamps = {
            it.id: material.stamp(remote.server, it.id, release) for it in remote.server.workers
        }
        _start(remote, stamps, fresh)
        _note(remote, release)
        if remote.changes:
            # It may have the secret of a worker that was moved to another server.
            _run(remote, f"rm -f {layout.BEFORE}/*")
    except Lost:
        raise
    except RunFailed as error:
        raise SwitchFailed(f"{error}; {_go_back(remote, backed_up)}") from None


def point_back(remote: Remote, release: str) -> None:
    """To a release that is there, with the cluster that is there. As `switch`."""
    before = remote.found["current"]
    try:
        _point(remote, release)
        _start(remote, _stamps_back(remote, release))
        _forget_what_came_after(remote, release)
    except Lost:
        raise
    except RunFailed as error:
        stamps = _stamps_back(remote, before).items()
        lines = [f"echo {stamp} > {layout.applied(worker_id)}" for worker_id, stamp in stamps]
        _run(remote, "; ".join([_pointing(before), *lines, _restarting(remote)]))
        raise SwitchFailed(f"{error}; {before} runs again") from None


def _stamps_back(remote: Remote, release: str) -> dict[int, str]:
    """The next deployment starts all anew: what else they were started with is not known here."""
    return {worker.id: f"back-to-{release}" for worker in remote.server.workers}


def _back_up(remote: Remote, release: str, material: Material) -> bool:
    """Whether there was anything to go back to, and so there is now. What runs is kept only when
    it was switched to in full, so that a second try does not keep the ruins of the first, but has
    what was kept before that."""
    found = remote.found
    wanted = [it for it in remote.server.workers if str(it.id) in found["units"]]
    in_full = wanted and all(str(it.id) in found["applied"] for it in wanted)
    if not found["current"] or not in_full:
        return bool(found["kept"])
    if not material.is_new_to(remote.server, release, found) or remote.session.dry_run:
        return True
    kept = " ".join(
        [str(layout.CONFIG), str(layout.APPLIED)]
        + [str(layout.UNITS / name) for name in (layout.TEMPLATE, layout.TARGET)]
        + [str(layout.drop_in(it.id)) for it in wanted]
    )
    _run(
        remote,
        f"set -e; umask 077; mkdir -p {layout.BEFORE}; "
        f"tar -cpf {layout.BEFORE}/new.tar --ignore-failed-read {kept} 2>/dev/null; "
        f"readlink {layout.CURRENT} > {layout.BEFORE}/current; "
        f"mv {layout.BEFORE}/new.tar {layout.KEPT}",
    )
    return True


def _write(remote: Remote, material: Material) -> None:
    server = remote.server
    remote.apply(f"make {layout.CONFIG}", files.directory, str(layout.CONFIG), mode="755")
    remote.apply(f"make {layout.SECRETS}", files.directory, str(layout.SECRETS), mode="700")
    changed = []
    for path, text in material.files(server).items():
        put = remote.apply(
            f"write {path}",
            files.put,
            io.StringIO(text),
            path,
            user="root",
            group="root",
            mode="644",
            _temp_dir=str(layout.INCOMING),
        )
        changed += [path] if put else []
    for worker in server.workers:
        if worker.id in material.secrets:
            target = str(layout.secret(worker.id))
            secret = material.secrets[worker.id]
            remote.apply(f"write {target}", operations.secret, secret, target)
    if any(path.startswith(str(layout.UNITS)) for path in changed):
        remote.apply("systemctl daemon-reload", systemd.daemon_reload)


def _leave(remote: Remote, ids: Iterable[int]) -> None:
    """Workers that were here and are so no more take their units and secrets with them."""
    for worker_id in sorted(set(map(int, remote.found["units"])) - set(ids)):
        line = removal(worker_id)
        remote.apply(f"remove worker {worker_id}", operations.script, line, unless="false")


def removal(worker_id: int) -> str:
    """The line of shell that ends a worker and takes away its unit and secret, not its state."""
    unit = layout.unit(worker_id)
    return (
        f"systemctl disable --now {unit}; systemctl reset-failed {unit}; "
        f"rm -rf {layout.drop_in(worker_id).parent} {layout.secret(worker_id)} "
        f"{layout.applied(worker_id)}; systemctl daemon-reload"
    )


def _pointing(release: str) -> str:
    path = layout.CURRENT
    return f"ln -sfn {layout.release(release)} {path}.new; mv -T {path}.new {path}"


def _point(remote: Remote, release: str) -> None:
    target = str(layout.release(release))
    remote.apply(f"point current to {release}", operations.link, target, str(layout.CURRENT))


def _note(remote: Remote, release: str) -> None:
    """Only a release whose workers came up is one to go back to."""
    line = f"echo {release} >> {layout.HISTORY}"
    latest = f'test "$(tail -n 1 {layout.HISTORY})" = {release} && echo yes'
    remote.apply("note it in the history", operations.script, line, unless=latest)


def _forget_what_came_after(remote: Remote, release: str) -> None:
    """So that going back goes on when it was cut off, and does not lead to and fro."""
    latest = f'test "$(tail -n 1 {layout.HISTORY})" = {release}'
    line = f"until {latest}; do sed -i '$d' {layout.HISTORY}; done"
    unless = f"{latest} && echo yes"
    remote.apply("take later ones out of the history", operations.script, line, unless=unless)


def _start(remote: Remote, stamps: dict[int, str], fresh: bool = False) -> None:
    """Workers with another stamp are started anew, others if they do not run; all, if they are to
    begin with nothing."""
    remote.apply(
        f"enable {layout.TARGET}",
        systemd.service,
        layout.TARGET,
        running=None,
        enabled=True,
    )
    for worker_id, stamp in stamps.items():
        unit, at = layout.unit(worker_id), layout.applied(worker_id)
        remote.apply(f"enable {unit}", systemd.service, unit, running=None, enabled=True)
        anew = fresh or (bool(remote.changes) and remote.session.dry_run)
        aside = f"{_set_aside(worker_id)}; " if fresh else ""
        same = f'test "$(cat {at})" = {stamp} && systemctl is-active -q {unit} && echo yes'
        remote.apply(
            f"start {unit}",
            operations.script,
            f"rm -f {at}; {aside}{starting(unit)} && echo {stamp} > {at}",
            unless="false" if anew else same,
        )


def _set_aside(worker_id: int) -> str:
    """The line of shell that ends a worker and gives its checkpoints another name."""
    state = layout.state(worker_id) / "state"
    return (
        f"systemctl stop {layout.unit(worker_id)}; "
        f"test ! -e {state} || mv {state} {state}.before-$(date +%Y%m%d-%H%M%S)"
    )


def starting(unit: str) -> str:
    """The line of shell that (re)starts a worker, waits until it is ready and a moment longer, and
    fails, with what its journal says, if it is not well then. One that is done already is well."""
    journal = f"journalctl -q --no-pager -n {JOURNAL_LINES} -o cat -u {unit} >&2"
    show = f"systemctl show --value {unit} -p"
    done = f'test "$({show} ActiveState)" = inactive && test "$({show} Result)" = success'
    well = f"systemctl is-active -q {unit} || {{ {done}; }}"
    return (
        f"{{ systemctl reset-failed {unit} 2>/dev/null; "
        f"timeout {READY_S} systemctl restart {unit} 2>/dev/null && sleep {SETTLE_S} && "
        f"{{ {well}; }} || {{ {journal}; false; }}; }}"
    )


def _restarting(remote: Remote) -> str:
    return " && ".join(starting(layout.unit(worker.id)) for worker in remote.server.workers)


def _go_back(remote: Remote, backed_up: bool) -> str:
    """What became of it."""
    units = " ".join(layout.unit(worker.id) for worker in remote.server.workers)
    if not backed_up:
        ran = remote.run(f"systemctl disable --now {units} {layout.TARGET}; rm -f {layout.CURRENT}")
        return "nothing ran there before, and nothing does now"
    target = layout.release(remote.found["current"])
    ran = remote.run(
        f"set -e; old={target}; test ! -e {layout.KEPT} || {{ tar -xpf {layout.KEPT} -C /; "
        f"old=$(cat {layout.BEFORE}/current); rm -f {layout.BEFORE}/*; }}; "
        f"ln -sfn $old {layout.CURRENT}.new; mv -T {layout.CURRENT}.new {layout.CURRENT}; "
        f"systemctl daemon-reload; {_restarting(remote)}"
    )
    return "what ran there before runs again" if ran.ok else f"and going back failed: {ran.why}"


def _run(remote: Remote, line: str) -> None:
    if not remote.session.dry_run:
        remote.checked("switch", line)


def prune(remote: Remote, keep: set[str]) -> None:
    """Releases beyond the newest KEEP, and wheels that none is of, go. `keep` stay."""
    kept = " ".join(shlex.quote(release) for release in sorted(keep))
    newest = f"ls -1dt {layout.RELEASES}/*/{layout.MARK} | head -n {KEEP} | xargs -n1 dirname"
    list_all = f"{{ {newest} | xargs -n1 basename; printf '%s\\n' {kept}; }} | sort -u"
    doomed = f'ls -1 {layout.RELEASES} | grep -vxF "$({list_all})"'
    line = (
        f"for old in $({doomed}); do rm -rf {layout.RELEASES}/$old; done; "
        f"for part in {layout.WHEELS}/* {layout.LIBRARIES}/*; do "
        f"grep -qs $(basename $part) {layout.RELEASES}/*/{layout.MARK} || rm -rf $part; done"
    )
    unless = f"{doomed} | grep -q . || echo yes"
    remote.apply("remove old releases", operations.script, line, unless=unless)
