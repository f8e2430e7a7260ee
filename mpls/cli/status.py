"""`mpls status`: how a run's workers are, or how one is that serves its health."""

from __future__ import annotations

import json
import sys
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import click

from mpls.errors import BadInput, Refused

ANSWER_S = 5.0
LATEST = "runs/latest"


@click.command("status")
@click.argument("what", metavar="[RUN|ADDRESS]", default=LATEST)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(what: str, as_json: bool) -> None:
    """Say how the workers of RUN are, or the one that serves its health at ADDRESS.

    RUN is a run's folder (runs/latest, if nothing is given); what is said comes from its traces.
    ADDRESS is host:port of a worker with [metrics] port in its cluster file, plus its id. Exit 1
    if a worker failed, hangs, or cannot save itself.

    \b
    Examples:
      mpls status
      mpls status runs/local-20260102-030405 --json
      mpls status 127.0.0.1:9100
    """
    found = _of_address(what) if _is_address(what) else _of_run(Path(what))
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        _print(found["workers"])
    sys.exit(0 if all(worker["well"] for worker in found["workers"]) else 1)


def _is_address(what: str) -> bool:
    host, _, port = what.rpartition(":")
    return bool(host) and port.isdecimal() and not Path(what).exists()


def _of_run(folder: Path) -> dict[str, Any]:
    from mpls.config import load
    from mpls.report.standing import standings

    file = folder / "cluster.toml"
    if not file.is_file():
        raise BadInput(f"{folder}: not the folder of a run, which has a cluster.toml")
    config = load(file)
    found = standings(folder, [worker.name for worker in config.workers])
    workers = [{**it.as_plain(), "rounds": config.training.rounds} for it in found]
    if not workers:
        raise BadInput(f"{folder}: no worker has left a trace here")
    return {"run": str(folder.resolve()), "workers": workers}


def _of_address(address: str) -> dict[str, Any]:
    try:
        with urlopen(f"http://{address}/health", timeout=ANSWER_S) as answer:
            body = answer.read()
    except HTTPError as error:  # 503 has a report, too
        body = error.read()
    except (OSError, HTTPException) as error:
        raise Refused(f"{address}: no health to be had: {error}") from None
    report = _report(body, address)
    well = report["healthy"] and not any(it.startswith("checkpoint") for it in report["troubles"])
    return {"address": address, "workers": [{**report, "well": well}]}


def _report(body: bytes, address: str) -> dict[str, Any]:
    try:
        report = json.loads(body)
    except ValueError:
        report = None
    if not isinstance(report, dict) or "healthy" not in report:
        raise Refused(f"{address}: answers, but not as a worker does")
    return report


def _print(workers: list[dict[str, Any]]) -> None:
    for it in workers:
        saved = it["checkpoint_round"]
        kept = "none" if saved is None or saved < 0 else f"of round {saved}"
        lives = f", life {it['lives']}" if it.get("lives", 1) > 1 else ""
        click.echo(
            f"{it['worker']} {it['state']}{lives}: round {it['round']} of {it['rounds']},"
            f" checkpoint {kept}"
        )
        for trouble in it["troubles"]:
            click.echo(f"  {trouble}")
