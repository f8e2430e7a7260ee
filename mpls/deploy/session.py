"""Connections to all servers of a cluster, with pyinfra: its ssh connector, its operations, and its
way to say beforehand what an operation would change.

Each server has a thread of its own, in which its operations run one after the other, so that none
waits for another server. Needs the extra `deploy`; nothing but `mpls deploy` imports this.
"""

from __future__ import annotations

import logging
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from paramiko import SSHException
from pyinfra.api.command import StringCommand
from pyinfra.api.config import Config
from pyinfra.api.exceptions import ConnectError, NestedOperationError, PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.connectors.sshuserclient.client import get_ssh_config
from pyinfra.context import ctx_host, ctx_state

from mpls.deploy.inventory import Server
from mpls.errors import BadInput, RunFailed

T = TypeVar("T")
CONNECT_S = 10
SILENT_S = 20
"""A server that the network says nothing of for so long is lost."""
COMMAND_S = 900
"""No command on a server takes longer, installing torch on a slow disk included."""
LOST = (OSError, SSHException, EOFError, TimeoutError)
Say = Callable[[Server, str], None]


class Lost(RunFailed):
    """A server could not be reached, or not any more."""


class Stopped(Exception):
    """Whoever deploys pressed Ctrl-C."""


@dataclass(frozen=True)
class Ran:
    """What a command on a server came to."""

    ok: bool
    out: str
    err: str

    @property
    def why(self) -> str:
        """The end of what it said, in one line."""
        return " ".join((self.err or self.out).split())[-600:] or "it said nothing"


class Session:
    """`dry_run` changes nothing on any server."""

    def __init__(
        self, servers: Sequence[Server], ssh_config: Path | None, say: Say, dry_run: bool = False
    ) -> None:
        logging.getLogger("pyinfra").addHandler(logging.NullHandler())
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
        self.say = say
        self.dry_run = dry_run
        self.stopping = threading.Event()
        """Set, no server begins another operation where it may be left out."""
        names = [(server.name, ssh_data(server, ssh_config)) for server in servers]
        inventory = Inventory((names, {}))  # type: ignore[no-untyped-call]
        config = Config(CONNECT_TIMEOUT=CONNECT_S)  # type: ignore[no-untyped-call]
        self._state = State(inventory, config)
        # Operations run when they are called, in the thread of their server; or are looked at only.
        self._state.is_executing = not dry_run
        ctx_state.set(self._state)  # type: ignore[no-untyped-call]
        self.remotes = [
            Remote(self, server, self._state, host) for server, host in zip(servers, inventory)
        ]

    def each(
        self, do: Callable[[Remote], T], remotes: Sequence[Remote] | None = None
    ) -> dict[Remote, T | RunFailed | Stopped]:
        """Do it on all servers at the same time. What ended one is its result; anything that is no
        failure of a server is raised when all are through."""
        chosen = self.remotes if remotes is None else list(remotes)
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            futures = {remote: pool.submit(remote.within, do) for remote in chosen}
        return {
            remote: _outcome(future.exception, future.result) for remote, future in futures.items()
        }

    def close(self) -> None:
        """Hang up everywhere."""
        for remote in self.remotes:
            remote.hang_up()


@dataclass(eq=False)
class Remote:
    """One server, for the thread that works on it."""

    session: Session
    server: Server
    state: State
    host: Host
    changes: list[str] = field(default_factory=list)
    """What operations changed, or would."""
    found: dict[str, Any] = field(default_factory=dict)
    """What the probe said."""
    in_one_go: bool = False
    """What is being done is not stopped halfway."""

    def within(self, do: Callable[[Remote], T]) -> T:
        """With pyinfra knowing that it works on this server."""
        ctx_host.set(self.host)  # type: ignore[no-untyped-call]
        try:
            return do(self)
        except LOST as error:
            raise Lost(f"{self.server.name}: lost: {_told(error)}") from None

    @contextmanager
    def unstoppable(self) -> Iterator[None]:
        """Ctrl-C stops it before this, or after. Raises Stopped if it did before."""
        if self.session.stopping.is_set():
            raise Stopped
        self.in_one_go = True
        try:
            yield
        finally:
            self.in_one_go = False

    def connect(self) -> str:
        """Why it cannot be reached; empty if it is."""
        try:
            self.host.connect(show_errors=False, raise_exceptions=True)
        except ConnectError as error:
            return " ".join(str(error.args[0]).split())
        except LOST as error:
            return _told(error)
        self.state.activate_host(self.host)
        _give_up_when_silent(self._transport().sock)
        return ""

    @property
    def is_root(self) -> bool:
        """Whether ssh lets us in as root."""
        return self.user == "root"

    @property
    def user(self) -> str:
        """As whom ssh lets us in."""
        return str(self._transport().get_username())

    def run(self, command: str, stdin: str = "", timeout_s: int = COMMAND_S) -> Ran:
        """A line of shell, as root. Lost if the server is."""
        bounded = f"timeout -k 5 {timeout_s} sh -c {shlex.quote(command)}"
        return self.run_plain(bounded, stdin, sudo=not self.is_root)

    def run_plain(self, command: str, stdin: str = "", sudo: bool = False) -> Ran:
        """As whoever ssh lets in, or by sudo."""
        try:
            ok, output = self.host.run_shell_command(
                StringCommand(command), _sudo=sudo, _stdin=stdin or None
            )
        except LOST as error:
            raise Lost(f"{self.server.name}: lost: {_told(error)}") from None
        if not self._transport().is_active():
            raise Lost(f"{self.server.name}: lost: the connection broke")
        return Ran(ok, output.stdout, output.stderr)

    def checked(self, what: str, command: str, stdin: str = "") -> str:
        """What it prints; RunFailed, naming `what`, if it fails."""
        ran = self.run(command, stdin)
        if not ran.ok:
            raise RunFailed(f"{self.server.name}: {what}: {ran.why}")
        return ran.out

    def apply(
        self,
        what: str,
        operation: Callable[..., Any],
        *args: Any,
        quiet: bool = False,
        **kwargs: Any,
    ) -> bool:
        """One of pyinfra's operations; returns whether it changed something, or would. `what` is
        how reports call it, unless it is to be `quiet`. RunFailed if it fails."""
        if self.session.stopping.is_set() and not self.in_one_go:
            raise Stopped
        sudo = {} if self.is_root else {"_sudo": True}
        try:
            meta = operation(*args, **sudo, **kwargs)
        except LOST as error:
            raise Lost(f"{self.server.name}: {what}: lost: {_told(error)}") from None
        except (NestedOperationError, PyinfraError):
            raise RunFailed(f"{self.server.name}: {what}: {self._last_words()}") from None
        changed = bool(meta.will_change if self.session.dry_run else meta.did_change())
        if changed:
            self.changes.append(what)
            if not quiet:
                self.session.say(self.server, f"would {what}" if self.session.dry_run else what)
        return changed

    @contextmanager
    def stream(self, command: str, pty: bool = False) -> Iterator[Any]:
        """The stdout of a command, as root, as a file of bytes."""
        sudo = "" if self.is_root else "sudo -n "
        client = self.host.connector.client  # type: ignore[attr-defined]
        stdin, stdout, _ = client.exec_command(f"{sudo}sh -c {shlex.quote(command)}", get_pty=pty)
        try:
            stdin.close()
            yield stdout
        finally:
            stdout.channel.close()

    def hang_up(self) -> None:
        """If it was connected."""
        if self.host.connected:
            self.host.disconnect()
            self._transport().close()

    def _transport(self) -> Any:
        return self.host.connector.client.get_transport()  # type: ignore[attr-defined]

    def _last_words(self) -> str:
        """Of the operation that failed."""
        if not self._transport().is_active():
            return "lost: the connection broke"
        data = self.state.ops[self.host][self.host.op_hash_order[-1]]
        meta = data.operation_meta
        said = f"{meta.stderr} {meta.stdout}" if meta.is_complete() else ""
        return " ".join(said.split())[-600:] or "it failed, and said nothing"


def _outcome(error: Callable[[], Any], result: Callable[[], T]) -> T | RunFailed | Stopped:
    found = error()
    if isinstance(found, (RunFailed, Stopped)):
        return found
    return result()


def ssh_data(server: Server, ssh_config: Path | None) -> dict[str, Any]:
    """What pyinfra is told besides the configuration of ssh, which it reads itself."""
    path = str(ssh_config) if ssh_config else None
    try:
        config = get_ssh_config(path)
        said = config.lookup(server.host) if config else {}
    except (SSHException, OSError, ValueError) as error:
        raise BadInput(f"{path or '~/.ssh/config'}: {_told(error)}") from None
    strict = said.get("stricthostkeychecking", "yes")
    data: dict[str, Any] = {
        # Nobody is there to be asked.
        "ssh_strict_host_key_checking": "yes" if strict == "ask" else strict,
    }
    if path:
        data["ssh_config_file"] = path
    if server.user:
        data["ssh_user"] = server.user
    if server.port:
        data["ssh_port"] = server.port
    data["ssh_hostname"] = server.host
    if said.get("identitiesonly") == "yes":
        data |= {"ssh_allow_agent": False, "ssh_look_for_keys": False}
    return data


def _give_up_when_silent(sock: Any) -> None:
    """Else a server whose cable is pulled would be waited for for a quarter of an hour. Behind a
    jump host there is no socket of ours: ssh's own ServerAliveInterval is all there is."""
    if not isinstance(sock, socket.socket):
        return
    probes = 3
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S // (probes + 1))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT_S // (probes + 1))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000)


def _told(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the connection broke"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).lower()
