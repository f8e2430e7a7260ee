"""The service manager's end of sd_notify: a datagram socket that keeps what it was told."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

from tests.runtime.rig import until


class Manager:
    """Hears whoever is given its `environment`. `said` has each message, in order."""

    def __init__(self, place: Path | str, watchdog_s: float = 0.0) -> None:
        """`place` is the path of the socket, or @ and a name in the abstract space."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(place).replace("@", "\0", 1))
        self.environment = {"NOTIFY_SOCKET": str(place)}
        if watchdog_s:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.said: list[str] = []

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._socket.close()

    def hear(self) -> list[str]:
        """All that was said so far."""
        while True:
            try:
                self.said.append(os.fsdecode(self._socket.recv(4096)))
            except BlockingIOError:
                return self.said

    def wait_for(self, message: str, timeout_s: float = 30.0) -> None:
        """Until some message begins so."""
        heard = f"a message {message}"
        until(lambda: any(m.startswith(message) for m in self.hear()), heard, timeout_s)
