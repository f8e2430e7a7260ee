"""The health of a worker by HTTP, for whoever is on its machine: `/health` as JSON, with status 503
where somebody should start it again, and `/metrics` in the text form that Prometheus reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mpls.errors import BadInput

HOST = "127.0.0.1"
Report = Callable[[], dict[str, Any]]


class Endpoint:
    """Answers in a thread of its own until `close`. Raises BadInput for a port in use."""

    def __init__(self, port: int, report: Report) -> None:
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(report))
        except (OSError, OverflowError) as error:  # the latter for a port beyond 65535
            why = getattr(error, "strerror", None) or str(error)
            raise BadInput(f"[metrics] port: cannot listen on {HOST}:{port}: {why}") from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Give the port back."""
        self._server.shutdown()
        self._server.server_close()


def _handler(report: Report) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0
        """Of a client that says nothing."""

        def do_GET(self) -> None:
            """The two pages."""
            if self.path == "/health":
                found = report()
                self._answer(
                    200 if found["healthy"] else 503, "application/json", json.dumps(found)
                )
            elif self.path == "/metrics":
                text = "".join(f"{line}\n" for line in metrics(report()))
                self._answer(200, "text/plain; version=0.0.4", text)
            else:
                self._answer(404, "text/plain", "there are /health and /metrics\n")

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody's log is for this."""

    return Handler


def metrics(found: dict[str, Any]) -> Iterator[str]:
    """One line each."""
    labels = f'{{worker="{found["worker"]}"}}'
    numbers = {
        "mpls_healthy": int(found["healthy"]),
        "mpls_round": found["round"],
        "mpls_rounds": found["rounds"],
        "mpls_step_seconds": found["step_s"],
        "mpls_checkpoint_round": found["checkpoint_round"],
        "mpls_up_seconds": found["up_s"],
    }
    for name, value in numbers.items():
        yield f"# TYPE {name} gauge"
        yield f"{name}{labels} {value}"
    yield "# TYPE mpls_peer_ready gauge"
    for peer, standing in found["peers"].items():
        ready = int(standing == "ready")
        yield f'mpls_peer_ready{{worker="{found["worker"]}",peer="{peer}"}} {ready}'
