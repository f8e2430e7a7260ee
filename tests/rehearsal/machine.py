"""One server: a Debian of its own, booted by systemd-nspawn on a copy-on-write layer over the base
tree, in a network namespace that somebody else made.

Its layer outlives it, as a disk does, so it may be stopped, cut off from power and started again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

STOP_S = 60.0
OVERLAY = r"""
layers="lowerdir=$LOWER,upperdir=$PLACE/upper,workdir=$PLACE/work"
mount -t overlay overlay -o "$layers" "$PLACE/root"
"""
LAUNCH = rf"""
set -e
mkdir -p "$CGROUP"
echo $$ > "$CGROUP/cgroup.procs"
{OVERLAY}
exec systemd-nspawn "$@"
"""
"""In a mount namespace, so that the layer is gone from the tree of mounts with its server; and in a
cgroup, since servers that are told of one and the same would clean up each other's."""
PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation=private", "bash", "-ec")
FLAGS = (
    *("--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
    *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
    # Of what a machine has and a container usually has not: filters by address are BPF programs.
    *(
        "--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN,CAP_SYS_RESOURCE",
        "--system-call-filter=bpf",
    ),
)


class Machine:
    """Not running until `start`."""

    def __init__(self, name: str, place: Path, lowers: list[Path], namespace: str) -> None:
        """`lowers` are trees, the uppermost first; `place` is a folder for its own layer."""
        self.name = name
        self.place = place
        self._lowers = lowers
        self._namespace = namespace
        self._group = f"{place.parent.name}-{name}"
        self._process: subprocess.Popen[bytes] | None = None
        for part in ("upper", "work", "root"):
            (place / part).mkdir(parents=True)

    def write(self, path: str, text: str, mode: int = 0o644, owner: int = 0) -> None:
        """A file of its layer, before it is booted for the first time."""
        target = self.place / "upper" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        os.chown(target, owner, owner)

    def start(self) -> None:
        """Switch it on; it is not up yet when this returns."""
        assert self._process is None, f"{self.name} is on already"
        given = {
            "CGROUP": str(hierarchies()[0] / self._group),
            "PLACE": str(self.place),
            "LOWER": ":".join(map(str, self._lowers)),
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        }
        here = (f"--directory={self.place / 'root'}", f"--machine={self.name}")
        net = f"--network-namespace-path=/run/netns/{self._namespace}"
        die_with_us = ("setpriv", "--pdeathsig", "KILL")
        with (self.place / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [*die_with_us, *PRIVATE_MOUNTS, LAUNCH, "launch", *FLAGS, *here, net],
                env={**os.environ, **given},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_on(self) -> bool:
        """Whether it was started and did not end."""
        return self._process is not None and self._process.poll() is None

    def console(self) -> str:
        """All that it printed."""
        path = self.place / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """Shut it down in order, or else cut its power."""
        self._end(signal.SIGTERM)

    def cut_power(self) -> None:
        """It is off in the midst of everything."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        remove_groups(self._group)


def hierarchies() -> list[Path]:
    """Where this machine has control groups that a server gets its own in: those of the second
    version first, then systemd's own of the first, if there is one, where nspawn makes the same."""
    found: dict[str, Path] = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            found.setdefault(kind, Path(where))
    if "cgroup2" not in found:
        raise FileNotFoundError("no cgroup2 is mounted")
    return [found[kind] for kind in sorted(found, reverse=True)]


def remove_groups(pattern: str) -> None:
    """All whose name matches, with whoever is still in them."""
    for top in hierarchies():
        for group in top.glob(pattern):
            _remove_group(group)


def _remove_group(top: Path) -> None:
    """Its processes die within moments, but not at once."""
    end_s = time.monotonic() + STOP_S
    while top.exists():
        if (top / "cgroup.kill").exists():
            (top / "cgroup.kill").write_text("1")
        try:
            for folder, _, _ in os.walk(top, topdown=False):
                os.rmdir(folder)
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)


def remove_place(place: Path) -> None:
    """The layer of a server that is off."""
    shutil.rmtree(place)
