"""`mpls plan SCENARIO.json`: one decision of the core, explained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpls.core.plan import Layer, Plan, View
from mpls.core.scenario import parse_scenario
from mpls.core.strategies import make_strategy
from mpls.core.streams import Stream
from mpls.errors import BadInput
from mpls.units import format_bytes, format_rate


@click.command("plan")
@click.argument("scenario")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON object.")
def command(scenario: str, as_json: bool) -> None:
    """Decide what to pull from whom in a hand-written SCENARIO (JSON; - reads stdin), and say why.

    Nothing is run: the scheduling core is asked once. Exit 2 if the scenario is not well formed.
    """
    try:
        case = parse_scenario(_read(scenario))
        plan = make_strategy(case.settings).plan(case.view, Stream(case.seed, "strategy"))
    except BadInput as error:
        raise BadInput(f"{'stdin' if scenario == '-' else scenario}: {error}") from error
    if as_json:
        click.echo(json.dumps(plan.as_record(), allow_nan=False))
    else:
        _explain(case.settings.strategy, case.view, plan)


def _read(scenario: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if scenario == "-" else Path(scenario).read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput("not JSON: not UTF-8 text") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _explain(strategy: str, view: View, plan: Plan) -> None:
    console = Console(highlight=False, markup=False)
    console.print(_peer_table(strategy, view, plan))
    console.print(_pair_table(view, plan))
    size = {layer.name: layer.bytes for layer in view.layers}
    pulled_bytes = sum(size[layer] for layers in plan.assignment.values() for layer in layers)
    console.print(
        f"makespan {plan.makespan_s:.4g} s; {format_bytes(pulled_bytes)} pulled"
        f" of a model of {format_bytes(sum(size.values()))}"
    )
    if plan.unserved:
        console.print(f"unserved, so kept as they are: {', '.join(plan.unserved)}")


def _peer_table(strategy: str, view: View, plan: Plan) -> Table:
    table = _table(f"{strategy}: what each peer brings", ["bandwidth", "p", "load s"])
    table.add_column("layers, in order")
    for peer in view.peers:
        score, load_s = plan.peer_score[peer.name], plan.load_s[peer.name]
        layers = ", ".join(plan.assignment[peer.name]) or "nothing"
        numbers = [format_rate(peer.bandwidth_Bps), f"{score:.4f}", f"{load_s:.4g}"]
        table.add_row(*map(Text, [peer.name, *numbers, layers]))
    return table


def _pair_table(view: View, plan: Plan) -> Table:
    table = _table("why: p q must reach the floor; E is the efficiency", ["q", "p q", "E"])
    table.add_column("decision")
    usable = {peer.name for peer in view.usable_peers()}
    for index, layer in enumerate(view.layers):
        heading = [
            f"{layer.name} ({format_bytes(layer.bytes)})",
            "floor",
            f"{plan.floor[index]:.4f}",
        ]
        table.add_row(*map(Text, heading), style="bold")
        for peer in view.peers:
            q, efficiency = (row[peer.name][index] for row in (plan.layer_score, plan.efficiency))
            numbers = [f"{q:.4f}", f"{plan.peer_score[peer.name] * q:.4f}", f"{efficiency:.3f}"]
            decision = _decision(layer, peer.name, plan, efficiency, peer.name in usable)
            table.add_row(*map(Text, [f"  {peer.name}", *numbers, decision]))
    return table


def _decision(layer: Layer, peer: str, plan: Plan, efficiency: float, usable: bool) -> str:
    if layer.name in plan.copies[peer]:
        return "pulled too (it fits)"
    if layer.name in plan.assignment[peer]:
        return "pulled"
    if not usable:
        return "no bandwidth"
    if layer.bytes == 0:
        return "empty layer"
    return "not needed" if efficiency > 0 else "masked"


def _table(title: str, numbers: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("peer")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
