"""What pyinfra has no operation for: uploads with progress that are held against a digest, secrets
that never lie in a temporary file, a link that is swapped by a rename, and whatever takes a script.

Each looks at the server first and yields nothing where nothing is to be done, so that it may be
repeated, and shown beforehand.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

Progress = Callable[[int, int], None]
"""Bytes sent so far, of how many."""


class Says(FactBase[str]):
    """What a line of shell prints there; it changes nothing."""

    default = str

    def command(self, line: str) -> str:  # type: ignore[override]
        """As it is."""
        return line

    def process(self, output: Any) -> str:
        """As one text."""
        return "\n".join(output)


@operation()
def upload(
    source: Path, incoming: str, target: str, sha256: str, progress: Progress
) -> Generator[Any, None, None]:
    """`source` becomes `target`, by way of a folder of the ssh user's own. It gets its name when
    its digest is right; where the name is there already, nothing is to be done."""
    if host.get_fact(Says, line=f"test -e {target} && echo there || true") == "there":
        return
    arriving = f"{incoming}/{sha256}"
    yield FunctionCommand(_send, [source, arriving, progress], {})
    folder = shlex.quote(str(Path(target).parent))
    yield StringCommand(
        f"set -e; mkdir -p {folder}; mv {arriving} {folder}/.arrived; "
        f"chown root:root {folder}/.arrived; chmod 644 {folder}/.arrived; "
        f"echo '{sha256}  {folder}/.arrived' | sha256sum --check --quiet; "
        f"mv {folder}/.arrived {shlex.quote(target)}"
    )


def _send(state: State, host: Host, source: Path, target: str, progress: Progress) -> bool:
    """By sftp, as the ssh user."""
    sftp = host.connector.get_file_transfer_connection()  # type: ignore[attr-defined]
    with source.open("rb") as file:
        sftp.putfo(file, target, file_size=source.stat().st_size, callback=progress)
    return True


@operation()
def secret(content: str, target: str) -> Generator[Any, None, None]:
    """root's alone from its first byte on; it comes by the pipe, not by a command line."""
    wanted = hashlib.sha256(content.encode()).hexdigest()
    look = f"sha256sum < {target} && stat -c %a:%u {target}"
    found = host.get_fact(Says, line=f"test -e {target} && {{ {look}; }} || true").split()
    if found and found[0] == wanted and found[-1] == "600:0":
        return
    yield StringCommand(
        f"set -e; umask 077; cat > {target}.new; chmod 600 {target}.new; mv {target}.new {target}",
        _stdin=content.rstrip("\n"),
    )


@operation()
def link(target: str, path: str) -> Generator[Any, None, None]:
    """There is one at any moment: `files.link` removes the old one first."""
    if host.get_fact(Says, line=f"readlink {path} || true") == target:
        return
    yield StringCommand(f"ln -sfn {target} {path}.new && mv -T {path}.new {path}")


@operation()
def script(line: str, unless: str) -> Generator[Any, None, None]:
    """Run it, if the line `unless` does not print `yes`."""
    if host.get_fact(Says, line=f"{{ {unless}; }} 2>/dev/null || true").strip() == "yes":
        return
    yield StringCommand(line)
