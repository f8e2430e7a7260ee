"""`mpls grpc-conformance`: does a server keep the gRPC contract?"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import click

from mpls.errors import BadInput, RunFailed

if TYPE_CHECKING:
    from mpls.adapters.conformance import Target

CONNECT_S = 10.0


@click.command("grpc-conformance")
@click.argument("address")
@click.option("--requester-id", default=0, show_default=True, help="Ask as this worker.")
@click.option("--ca", type=click.Path(), help="PEM file of who signed the server's certificate.")
@click.option("--cert", type=click.Path(), help="PEM file of the requester's own certificate.")
@click.option("--key", type=click.Path(), help="PEM file of its key.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    address: str,
    requester_id: int,
    ca: str | None,
    cert: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Hold the server at ADDRESS (host:port) against the gRPC contract.

    It may be any implementation's; it must have weights to serve, and know the requester as a
    peer. Each promise is a line; exit 1 if one is not kept. The same checks are for pytest in
    mpls.adapters.conformance.

    \b
    Examples:
      mpls grpc-conformance 10.0.0.2:50051
      mpls grpc-conformance 10.0.0.2:50051 --requester-id 1 --ca ca.pem --cert w1.pem --key w1.key
    """
    conformance = _conformance()
    with _target(conformance, address, requester_id, ca, cert, key) as target:
        outcomes = conformance.run(target)
    if as_json:
        click.echo(json.dumps(outcomes))
    else:
        for name, why in outcomes.items():
            verdict = f"FAILED: {why}" if why else "ok"
            click.echo(f"{name.replace('_', ' ')}: {verdict}")
    failed = sum(why != "" for why in outcomes.values())
    if failed:
        raise RunFailed(f"{address}: {failed} of {len(outcomes)} promises are not kept")


def _conformance() -> Any:
    try:
        return importlib.import_module("mpls.adapters.conformance")
    except ImportError as error:
        missing = f"gRPC needs a package that is not installed ({error.name})"
        raise BadInput(f'{missing}: pip install "mpls-dfl[grpc]"') from None


def _target(
    conformance: Any,
    address: str,
    requester_id: int,
    ca: str | None,
    cert: str | None,
    key: str | None,
) -> Target:
    import grpc

    if (cert is None) != (key is None):
        raise BadInput("--cert and --key: give both or neither")
    if cert is not None and ca is None:
        raise BadInput("--ca is missing: whose signature is to be trusted?")
    credentials = None
    if ca is not None:
        files = [_content(path) for path in (ca, key, cert)]
        credentials = grpc.ssl_channel_credentials(*files)
    target: Target = conformance.Target(address, requester_id, credentials)
    try:
        grpc.channel_ready_future(target.channel).result(timeout=CONNECT_S)
    except grpc.FutureTimeoutError:
        target.channel.close()
        raise RunFailed(f"{address}: no gRPC server answered within {CONNECT_S:g} s") from None
    return target


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadInput(f"{path}: {(error.strerror or str(error)).lower()}") from None
