"""Bringing a release and its material to a server, beside what runs there: nothing that runs is
touched."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePosixPath

from pyinfra.operations import files

from mpls.deploy import layout, operations
from mpls.deploy.material import Material
from mpls.deploy.session import Remote
from mpls.deploy.wheelhouse import Wheel, Wheelhouse
from mpls.errors import RunFailed

UPLOAD_STEPS = 4
"""How often the upload of a large wheel says how far it is."""
LARGE_BYTES = 20_000_000


def stage(remote: Remote, wheels: Wheelhouse, material: Material) -> None:
    """Wheels, the release's own venv, and the cluster as that release sees it. RunFailed where the
    new release finds something wrong with it."""
    _folders(remote)
    missing = _missing(remote, wheels)
    if wheels.release not in remote.found["releases"]:
        sent = sum(wheel.bytes for wheel in missing)
        if missing:
            would = "would send" if remote.session.dry_run else "send"
            what = f"{would} {len(missing)} wheels, {sent / 1e6:.0f} MB"
            remote.session.say(remote.server, what)
        for wheel in missing:
            _upload(remote, wheels, wheel)
        _install(remote, wheels)
    if not remote.session.dry_run and material.is_new_to(
        remote.server, wheels.release, remote.found
    ):
        _examine(remote, wheels, material)


def _folders(remote: Remote) -> None:
    for path in (layout.ROOT, layout.RELEASES, layout.LIBRARIES, layout.WHEELS, layout.APPLIED):
        remote.apply(f"make {path}", files.directory, str(path), user="root", mode="755")
    for path in (layout.STAGED, layout.BEFORE):
        remote.apply(f"make {path}", files.directory, str(path), user="root", mode="700")
    user = remote.user
    remote.apply(
        f"make {layout.INCOMING}", files.directory, str(layout.INCOMING), user=user, mode="700"
    )


def _missing(remote: Remote, wheels: Wheelhouse) -> list[Wheel]:
    there = set(remote.found["wheels"])
    return [wheel for wheel in wheels.wheels if f"{wheel.sha256}/{wheel.file}" not in there]


def place(wheel: Wheel) -> PurePosixPath:
    """Of a wheel on a server."""
    return layout.WHEELS / wheel.sha256 / wheel.file


def _upload(remote: Remote, wheels: Wheelhouse, wheel: Wheel) -> None:
    said = [0]

    def progress(sent: int, total: int) -> None:
        step = sent * UPLOAD_STEPS // max(total, 1)
        if total > LARGE_BYTES and step > said[0]:
            said[0] = step
            remote.session.say(remote.server, f"{wheel.file}: {sent / 1e6:.0f} MB sent")

    remote.apply(
        f"send {wheel.file}",
        operations.upload,
        wheels.path(wheel),
        str(layout.INCOMING),
        str(place(wheel)),
        wheel.sha256,
        progress,
        quiet=True,
    )


def _install(remote: Remote, wheels: Wheelhouse) -> None:
    """The mark is made last: a release without it is not there."""
    mark = layout.mark(wheels.release)
    if not remote.session.dry_run:
        remote.session.say(remote.server, f"installing {wheels.release}")
    line = f"set -e; umask 022; {libraries(wheels)}; {_release(wheels)}"
    what = f"install {wheels.release}"
    remote.apply(what, operations.script, line, unless=f"test -e {mark} && echo yes")


def libraries(wheels: Wheelhouse) -> str:
    """The line of shell that makes the venv of all that is not ours, if it is not there."""
    folder = layout.LIBRARIES / wheels.libraries
    wanted = shlex.quote("".join(f"{place(wheel)}\n" for wheel in wheels.others))
    return (
        f"test -e {folder}/complete || {{ rm -rf {folder}; mkdir -p {folder}; "
        f"printf %s {wanted} > {folder}/requirements.txt; "
        f"nice -n 10 python{wheels.python} -m venv {folder}; nice -n 10 {_pip(wheels)} install -q "
        f"--no-index --no-deps --no-cache-dir -r {folder}/requirements.txt; "
        f"touch {folder}/complete; }}"
    )


def _release(wheels: Wheelhouse) -> str:
    """The line of shell that makes a venv with our own wheel, and the libraries in its path."""
    folder, mark = layout.release(wheels.release), layout.mark(wheels.release)
    site = f"lib/python{wheels.python}/site-packages"
    into = f"{_pip(wheels)} --python {folder}/venv/bin/python"
    digests = [wheel.sha256 for wheel in wheels.wheels]
    plain = {"release": wheels.release, "libraries": wheels.libraries, "wheels": digests}
    return (
        f"rm -rf {folder}; mkdir -p {folder}; "
        f"python{wheels.python} -m venv --without-pip {folder}/venv; "
        f"echo {layout.LIBRARIES / wheels.libraries}/{site} > {folder}/venv/{site}/libraries.pth; "
        f"{into} install -q --no-index --no-deps --no-cache-dir {place(wheels.ours)}; "
        f"{into} check; {folder}/venv/bin/mpls --version; "
        f"printf %s {shlex.quote(json.dumps(plain))} > {mark}.new; mv {mark}.new {mark}"
    )


def _pip(wheels: Wheelhouse) -> str:
    return f"{layout.LIBRARIES / wheels.libraries}/bin/pip --disable-pip-version-check"


def _examine(remote: Remote, wheels: Wheelhouse, material: Material) -> None:
    """Let the new release's doctor look at the new cluster file, where it is to run."""
    python = layout.release(wheels.release) / "venv" / "bin" / "mpls"
    staged = layout.STAGED / material.file.name
    remote.checked("cluster file", f"umask 077; cat > {staged}", material.cluster)
    if material.public_keys:
        keys = layout.STAGED / f"{material.file.stem}.keys.toml"
        remote.checked("public keys", f"umask 077; cat > {keys}", material.public_keys)
    try:
        for worker in remote.server.workers:
            _doctor(
                remote, f"{python} doctor {staged} --id {worker.id} --json", worker.id, material
            )
    finally:
        remote.run(f"rm -rf {layout.STAGED}/*")


def _doctor(remote: Remote, command: str, worker_id: int, material: Material) -> None:
    place = f"{layout.STAGED}/credentials-{worker_id}"
    secret = material.secrets.get(worker_id, "")
    state = layout.state(worker_id)
    line = (
        f"umask 077; mkdir -p {place}; cat > {place}/worker.secret; "
        f"cd {state} 2>/dev/null || cd {layout.STAGED}; "
        f"OMP_NUM_THREADS=1 CREDENTIALS_DIRECTORY={place} {command} 2>/dev/null || true"
    )
    ran = remote.run(line, secret)
    try:
        findings = json.loads(ran.out.strip().splitlines()[-1])["findings"]
    except (ValueError, KeyError, IndexError):
        raise RunFailed(f"{remote.server.name}: the new release cannot look: {ran.why}") from None
    for finding in findings:
        if finding["level"] == "FAIL" and not _is_elsewhere(finding["what"]):
            raise RunFailed(
                f"{remote.server.name}: {finding['what']}: {finding['value']}  -> "
                f"{finding['remedy']}"
            )


def _is_elsewhere(what: str) -> bool:
    """Ports were looked at before, and one of a worker that runs is its own. Links are tried when
    both ends are switched: now peers may run something else."""
    return what.startswith("port of ") or " -> " in what
