"""The base tree of every server: a small Debian with systemd and sshd, made once and only read from
then on. It lies outside the repository, in CACHE."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("MPLS_REHEARSAL_CACHE", "/var/tmp/mpls-rehearsal"))
SUITE = "bookworm"
"""Debian 12: systemd 252 and Python 3.11."""
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo"),
    *("python3", "python3-venv", "iproute2", "iputils-ping", "procps"),
)
FINISH = r"""
set -e
rm -f "$1"/etc/ssh/ssh_host_*_key* "$1"/etc/machine-id "$1"/var/lib/dbus/machine-id
: > "$1"/etc/machine-id
for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim; do
    ln -sf /dev/null "$1/etc/systemd/system/$timer.timer"
done
chroot "$1" useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' > "$1"/etc/sudoers.d/admin
mkdir -p "$1"/var/log/journal
"""
"""Nobody but the server itself may make its host keys and its id, and no timer looks for updates:
there is no way out of the network that it will be in."""
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}
"""Program -> Debian package."""


class TreeError(Exception):
    """The base tree could not be made; says why."""


def missing() -> str:
    """What this machine lacks to boot servers; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root, to boot servers"
    lacking = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    return f"needs programs: apt-get install {' '.join(sorted(lacking))}" if lacking else ""


def base() -> Path:
    """The tree; made now, in a minute, if it is not there. Raises TreeError."""
    recipe = repr((SUITE, PACKAGES, FINISH))
    tree = CACHE / f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with locked(tree):
        if not tree.exists():
            _make(tree)
    return tree


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time makes what is to be at this path."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(tree: Path) -> None:
    unfinished = tree.with_name(f"{tree.name}.unfinished")
    if f" {unfinished}/" in Path("/proc/self/mountinfo").read_text(encoding="utf-8"):
        # Of one that was killed; what is removed there would be removed from this machine.
        raise RuntimeError(f"{unfinished}: something is mounted in it; umount that first")
    shutil.rmtree(unfinished, ignore_errors=True)
    include = f"--include={','.join(PACKAGES)}"
    _run("mmdebstrap", "--mode=root", "--variant=minbase", include, SUITE, str(unfinished))
    _run("bash", "-c", FINISH, "finish", str(unfinished))
    unfinished.rename(tree)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        why = " ".join(done.stderr.split()[-40:])
        raise TreeError(f"{command[0]} failed with exit code {done.returncode}: {why}")
