"""A wire that can be cut."""

from __future__ import annotations

import selectors
import socket

from mpls.runtime.mailbox import Bell
from tests.runtime.rig import Job, listening_socket, until


class Proxy:
    """Forwards TCP connections to `upstream` (a port that may be changed), and cuts them: at once,
    or when so many more bytes have come down from the server."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.down_bytes = 0
        self.cuts = 0
        self._cut_at_bytes = float("inf")
        self._listener = listening_socket()
        self.port: int = self._listener.getsockname()[1]
        self._orders: Bell[str] = Bell()
        self._other: dict[socket.socket, socket.socket] = {}
        self._servers: set[socket.socket] = set()
        self._thread = Job("proxy", self._forward)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.post("stop")
        self._thread.finish()
        self._orders.close()

    def cut(self) -> None:
        """Every connection, now."""
        before = self.cuts
        self._orders.post("cut")
        until(lambda: self.cuts > before, "the proxy's cut")

    def cut_after(self, further_bytes: int) -> None:
        """The connection that brings the last of so many bytes from the server."""
        self._cut_at_bytes = self.down_bytes + further_bytes

    def _forward(self) -> None:
        with selectors.DefaultSelector() as self._selector, self._listener:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._orders, selectors.EVENT_READ)
            while self._turn():
                pass
            self._close_all()

    def _turn(self) -> bool:
        for key, _ in self._selector.select():
            if key.fileobj is self._orders:
                orders = self._orders.collect()
                if "stop" in orders:
                    return False
                self._close_all()
                self.cuts += 1
            elif key.fileobj is self._listener:
                self._connect()
            elif key.fileobj in self._other:
                self._pass_on(key.fileobj)
        return True

    def _connect(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self.upstream))
        except ConnectionRefusedError:
            client.close()
            return
        self._other.update({client: server, server: client})
        self._servers.add(server)
        for side in (client, server):
            # Else what is small waits 40 ms for the acknowledgement of what came before it.
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(side, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        try:
            data = source.recv(65536)
            if source in self._servers:
                data = data[: max(0, int(min(self._cut_at_bytes - self.down_bytes, 65536)))]
                self.down_bytes += len(data)
            self._other[source].sendall(data)
        except ConnectionError:
            data = b""
        if not data or self.down_bytes >= self._cut_at_bytes:
            self.cuts += self.down_bytes >= self._cut_at_bytes
            self._cut_at_bytes = float("inf")
            self._close(source)

    def _close(self, side: socket.socket) -> None:
        other = self._other.pop(side)
        del self._other[other]
        for end in (side, other):
            self._servers.discard(end)
            self._selector.unregister(end)
            end.close()

    def _close_all(self) -> None:
        for side in list(self._servers):
            self._close(side)
