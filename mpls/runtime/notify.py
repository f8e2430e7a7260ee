"""What a worker tells systemd, which started it as a unit of Type=notify: that it is ready, how it
is, that it ends. Whoever did not start it so hears nothing."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("mpls")
SEND_S = 2.0
"""A manager that is busy is waited for so long."""


class Notifier:
    """Sends datagrams to the socket that the service manager named in the environment, as in
    sd_notify(3). To be used by one thread. A manager that cannot be told is logged once, and
    changes nothing."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = _address(given.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(given) if self._address else 0.0
        """The manager kills a worker of which it did not hear for so long; 0: it does not."""
        self._status = ""
        self._complained = False

    def ready(self) -> None:
        """Peers can connect, and what is to be resumed is loaded."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """It drains."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """It got on: feeds the watchdog."""
        self._tell("WATCHDOG=1")

    def be_patient(self, seconds: float) -> bool:
        """From now on the watchdog waits so long; false if it could not be told."""
        return self._tell(f"WATCHDOG_USEC={int(seconds * 1e6)}")

    def status(self, line: str) -> None:
        """How it is, for `systemctl status`; sent when it is another than before."""
        if line != self._status and self._tell(f"STATUS={line}"):
            self._status = line

    def _tell(self, line: str) -> bool:
        """Whether it heard of it."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(SEND_S)
                sender.sendto(line.encode(), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("systemd cannot be told %s: %s", line, error.strerror or error)
            return False
        return True


def _address(named: str) -> bytes:
    """A path, or a name in Linux's abstract space, written with an @ for its zero byte. Other kinds
    of sockets, such as those of virtual machines, are not for workers."""
    if named.startswith("@"):
        return b"\0" + os.fsencode(named[1:])
    return os.fsencode(named) if named.startswith("/") else b""


def _watchdog_s(given: Mapping[str, str]) -> float:
    if given.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    microseconds = given.get("WATCHDOG_USEC", "0")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0
